"""A comparison for people: a page with both sides' pictures, Markdown for a pull request, lines for a terminal."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from scm.base.tables import columns, escape, markdown_table
from scm.comparison.comparison import Comparison, Pair
from scm.report.data import embedded

FOLDER = Path(__file__).parent
STYLE = FOLDER.parent / "report/style.css"
FILE = "results/compare.html"
"""Where the page is written unless the user says otherwise."""
HEAD = ("Model", "NFE", "Figure", "Then", "Now", "Difference")
NONE_CHANGED = "No parameter differs."


def page(comparison: Comparison) -> str:
    """One HTML file that refers to nothing outside itself and runs no script.

    Raises:
        UserError: a picture is empty.
    """
    templates = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style = Markup(STYLE.read_text(encoding="utf-8"))  # the only text that is inserted unescaped
    models = [(model, [(pair, _pictures(pair)) for pair in comparison.pairs(model)]) for model in comparison.models]
    return templates.get_template("page.html.j2").render(comparison=comparison, models=models, style=style)


def _pictures(pair: Pair) -> list[str | None]:
    return [None if path is None else embedded(path) for path in (pair.then, pair.now)]


def markdown(comparison: Comparison, level: int = 1) -> str:
    """Verdicts, figures and changed parameters; pictures are left to the page.

    Args:
        level: of the heading.
    """
    lines = [f"{'#' * level} Comparison: {escape(comparison.title)}", ""]
    lines += [f"- {escape(model.sentence)}" for model in comparison.models]
    rows = [[escape(cell) for cell in row] for row in _rows(comparison)]
    lines += ["", markdown_table(HEAD, rows, align="lrlrrr"), "", escape(comparison.noise), ""]
    changed = [[f"`{key}`", escape(old), escape(new)] for key, old, new in comparison.params]
    lines += [markdown_table(("Parameter", "Then", "Now"), changed) if changed else NONE_CHANGED, ""]
    lines += [f"- {escape(note)}" for note in comparison.notes]
    return "\n".join(lines).rstrip() + "\n"


def lines(comparison: Comparison) -> list[str]:
    """Lines of the comparison for a terminal."""
    found = [comparison.title, ""]
    found += [model.sentence for model in comparison.models]
    found += ["", *columns(_rows(comparison), head=tuple(name.lower() for name in HEAD), align="lrlrrr"), ""]
    changed = [f"{key}: {old} -> {new}" for key, old, new in comparison.params]
    return [*found, *(changed or [NONE_CHANGED]), *comparison.notes, "", comparison.noise]


def _rows(comparison: Comparison) -> list[tuple[str, ...]]:
    return [
        (model.name, str(evaluations), *cells)
        for model in comparison.models
        for evaluations in model.changes
        for cells in model.rows(evaluations)
    ]
