"""The report as one HTML file that refers to nothing outside itself and runs no script."""

import math
from collections.abc import Iterable
from html import escape

from scm.charts.axes import IMAGES, Line
from scm.charts.inline import BIN_COLOURS, Drawing, svg
from scm.report import data, paper
from scm.report.data import embedded
from scm.report.findings import Findings, Row, headline, health_lines, row_cells
from scm.report.style import STYLE
from scm.report.wording import commit_of, display_name, duration, number
from scm.results.reading import sample_path

HEALTH = (
    ("loss", "Loss", False),
    ("grad_norm", "Gradient norm", True),
    ("sample_fd", "Distance of one-step samples, coarse", True),
    ("tangent_norm/", "Norm of the tangent g by t", True),
    ("tangent_term1/", "First term of g by t", True),
    ("tangent_term2/", "Second term of g (with dF/dt) by t", True),
    ("loss/", "Loss by t", False),
    ("output_norm/", "Norm of the output F by t", True),
    ("log_weight/", "Adaptive log weight by t", False),
)
"""Column, heading and logarithmic axis of each drawing; a column that ends in "/" has one line for each bin of t."""
PAPER = ("× teacher over sampling compute", "× teacher over size")
LINES = ("#228be6", "#12b886", "#e8a200", "#f76707", "#be4bdb")


def page(findings: Findings) -> str:
    """Returns the whole file."""
    title = f"Few-step generation: {findings.preset}"
    body = [
        _top(findings),
        _table(findings),
        _beside_the_paper(findings),
        _samples(findings),
        data.section(findings.root, findings.data),
        _health(findings),
        _selection(findings),
        _what_was_run(findings),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def _top(findings: Findings) -> str:
    row, teacher = findings.headline_row, findings.best_teacher
    parts = [
        f'<div class="kicker">Preset {escape(findings.preset)}</div>',
        "<h1>Few-step image generation with consistency models</h1>",
        f'<p class="lead">{escape(headline(findings))}</p>',
    ]
    if row is not None:
        name = {"FD": "Fréchet distance"}.get(findings.distance, findings.distance)
        tiles = [
            (number(row.distance), f"{name}, {row.name} in {row.evaluations} NFE"),
            (f"{number(row.ratio)} ×", f"the teacher's {number(teacher.distance)} in {teacher.evaluations} NFE"),
            (f"{number(teacher.evaluations / row.evaluations)} ×", "fewer network evaluations a sample"),
            (f"{number(row.speed / teacher.speed)} ×", f"the teacher's speed: {number(row.speed)} images/s"),
        ]
        shown = "".join(
            f'<div class="tile"><b>{escape(big)}</b><span>{escape(small)}</span></div>' for big, small in tiles
        )
        parts.append(f'<div class="tiles">{shown}</div>')
    return "\n".join(parts)


def _table(findings: Findings) -> str:
    head = "".join(f'<th class="{"n" if index > 1 else ""}">{name}</th>' for index, name in enumerate(findings.head))
    lines = []
    for row in findings.rows:
        best = ' class="best"' if row == findings.headline_row else ""
        words, figures = row_cells(row)[:2], row_cells(row)[2:]
        lines.append(
            f"<tr{best}>"
            + "".join(f"<td>{escape(cell)}</td>" for cell in words)
            + "".join(f'<td class="n">{escape(cell)}</td>' for cell in figures)
            + "</tr>"
        )
    several = any(row.ranges for row in findings.rows)
    accuracy, distance = findings.held_out_accuracy, findings.distance
    whose = {"FID": "Inception", "FD-DINOv2": "DINOv2"}.get(distance, "the extractor")
    held_out = "" if accuracy is None else f"The feature extractor's accuracy on held-out images: {accuracy:.1%}. "
    note = (
        f"Two halves of the real images, one against the other: {distance} {number(findings.floor)}. {held_out}"
        f"NFE: network evaluations a sample. {distance}: Fréchet distance on features of {whose}, smaller is better"
        f"{', in brackets that of each range of seeds, of which the smallest is quoted' if several else ''}. "
        "KID: kernel distance on them (arXiv 1801.01401), smaller is better, below 0 by chance or where samples repeat "
        "real images. "
        "Precision: samples that lie among the real images' features; recall: real images that lie among the samples' "
        "(k-th nearest neighbours, arXiv 1904.06991). Accuracy: samples that the extractor gives the asked class."
    )
    return (
        f'<h2>Results</h2>\n<div class="card scroll"><table><thead><tr>{head}</tr></thead>'
        f'<tbody>{"".join(lines)}</tbody></table></div>\n<p class="note">{escape(note)}</p>'
    )


def _beside_the_paper(findings: Findings) -> str:
    drawings = paper.drawings(findings, LINES)
    if not drawings:
        return ""
    plots = "".join(_plot(drawing, title) for drawing, title in zip(drawings, PAPER, strict=True))
    return (
        '<h2>Beside the paper</h2>\n<p class="note">Distances as multiples of the teacher\'s: as in figures 1 and 6 of '
        "arXiv 2410.11081, whose published ratios of FID (of its largest networks, and over the size) are grey. Data, "
        "features and numbers of samples are not the paper's unless the preset says so.</p>\n"
        f'<div class="plots">{plots}</div>'
    )


def _samples(findings: Findings) -> str:
    figures = "".join(_grid(findings, row) for row in findings.rows)
    return (
        '<h2>Samples</h2>\n<p class="note">The same noise and the same classes for every model: a column is a class, '
        f'and the pictures at one place belong together.</p>\n<div class="grids">{figures}</div>'
    )


def _grid(findings: Findings, row: Row) -> str:
    name = f"{row.name}, {row.evaluations} NFE"
    source = embedded(sample_path(findings.root, row.model, row.evaluations))
    distance = f"{findings.distance} {number(row.distance)}"
    return (
        f'<figure class="card"><img src="{source}" alt="Samples of {escape(name)}">'
        f"<figcaption><b>{escape(name)}</b> · {escape(row.sampler)} · {distance}</figcaption></figure>"
    )


def _health(findings: Findings) -> str:
    keys = "".join(
        f'<span><i style="background:{colour}"></i>{k * math.pi / 16:.2f}–{(k + 1) * math.pi / 16:.2f}</span>'
        for k, colour in enumerate(BIN_COLOURS)
    )
    parts = [
        "<h2>Training health</h2>",
        '<p class="note">Figures by t have one line for each eighth of [0, π/2], from clean images to noise.</p>',
        *(f"<p>{escape(line)}</p>" for line in health_lines(findings)),
        f'<div class="key"><span>t in radians:</span>{keys}</div>',
    ]
    for model in findings.models:
        drawings = []
        for column, title, logarithmic in HEALTH:
            lines = _lines(findings.training[model], column)
            if lines:
                drawing = Drawing(f"{display_name(model)}: {title}", IMAGES, lines, logarithmic)
                drawings.append(_plot(drawing, title))
        if drawings:  # an imported teacher's training is not known
            parts.append(f'<h3>{escape(display_name(model))}</h3>\n<div class="plots">{"".join(drawings)}</div>')
    return "\n".join(parts)


def _lines(rows: list[dict[str, float]], column: str) -> list[Line]:
    """Lines of a figure, without those that have no values."""
    names = (
        {f"{column}{k}": colour for k, colour in enumerate(BIN_COLOURS)} if column.endswith("/") else {column: LINES[0]}
    )
    lines = []
    for name, colour in names.items():
        present = [(row["images"], row[name]) for row in rows if name in row and "images" in row]
        if present:
            x, y = zip(*present, strict=True)
            lines.append(Line(x, y, colour))
    return lines


def _plot(drawing: Drawing, title: str) -> str:
    return f'<figure class="card"><figcaption><b>{escape(title)}</b></figcaption>{svg(drawing)}</figure>'


def _selection(findings: Findings) -> str:
    figures, looked = [], False
    for model in findings.models:
        rows, choice = findings.selection[model], findings.choices[model]
        x = "sigma_rel" if "sigma_rel" in choice else "guidance"
        if x not in choice:  # an imported average, of unknown length and sampled in one way
            continue
        most = max(row.get("samples", 0) for row in rows)
        compared = [row for row in rows if row.get("samples", 0) == most]  # not with those of a first look
        looked |= len(compared) < len(rows)
        lines = [line for line in selection_lines(compared, choice, x) if line.x]
        over, meaning = ("σ_rel", "σ_rel of the average") if x == "sigma_rel" else ("guidance", "guidance scale")
        name, mark = display_name(model), (choice[x], choice["fd"])
        drawing = Drawing(f"{name}: Fréchet distance over {over}", meaning, lines, True, mark)
        figures.append(_plot(drawing, f"{name}: chosen {_chosen(rows, choice)}"))
    first = " Candidates that fell out after a first look at fewer samples are not drawn." if looked else ""
    return (
        '<h2>Choice of the average</h2>\n<p class="note">Fréchet distance over the relative length σ_rel of the '
        f"weights' average, reconstructed after the training; the ring marks the choice.{first}</p>\n"
        f'<div class="plots">{"".join(figures)}</div>'
    )


def _chosen(rows: list[dict[str, float]], choice: dict[str, float]) -> str:
    """The choice in words, and where better ones may lie outside the candidates."""
    named = {"sigma_rel": "σ_rel", "t_mid": "t_mid", "guidance": "guidance"}
    named = {key: name for key, name in named.items() if key in choice}
    edges = []
    for key, name in named.items():
        values = {row[key] for row in rows if key in row}
        if len(values) > 1 and choice[key] in (min(values), max(values)):
            edges.append(name)
    text = ", ".join(f"{name} {choice[key]:g}" for key, name in named.items())
    return text + (f"; at the edge of the candidates: {', '.join(edges)}" if edges else "")


def selection_lines(rows: list[dict[str, float]], choice: dict[str, float], x: str) -> list[Line]:
    """A line for each guidance scale, at the chosen t_mid; where there is one scale alone, one for each t_mid."""

    def having(**values: float | None) -> list[dict[str, float]]:
        return [row for row in rows if all(row.get(key) == value for key, value in values.items())]

    scale, t_mid = choice.get("guidance"), choice.get("t_mid")
    scales = sorted({row["guidance"] for row in rows if "guidance" in row}) if x != "guidance" else []
    middles = sorted({row["t_mid"] for row in rows if "t_mid" in row})
    if scales:
        steps = "" if t_mid is None else "2 steps, "
        named = [(f"{steps}guidance {each:g}", having(guidance=each, t_mid=t_mid)) for each in scales]
    elif middles:
        named = [(f"2 steps, t_mid {each:g}", having(t_mid=each)) for each in middles]
    else:
        named = [("", rows)]
    lines = [
        _selection_line(some, x, "fd", LINES[index % len(LINES)], name) for index, (name, some) in enumerate(named)
    ]
    if middles:
        one = having(guidance=scale, t_mid=t_mid) if scales else having(t_mid=middles[0])
        lines.append(_selection_line(one, x, "fd_1step", "#868e96", "1 step"))
    return lines


def _selection_line(rows: list[dict[str, float]], x: str, column: str, colour: str, label: str) -> Line:
    points = sorted((row[x], row[column]) for row in rows if column in row)
    dashed = column != "fd"
    return Line([x for x, _ in points], [y for _, y in points], colour, label, dashed, points=True)


def _what_was_run(findings: Findings) -> str:
    last, total = findings.runs[-1], sum(run["seconds"] for run in findings.runs)
    facts = [
        ("Preset", findings.preset),
        ("Seed", str(last["seed"])),
        ("Commit", _together(commit_of(run) for run in findings.runs)),
        ("Params hash", _together(str(run["params_hash"])[:12] for run in findings.runs)),
        ("Machine", _together(str(run["machine"]) for run in findings.runs)),
        ("Device", _together(str(run["device"]) for run in findings.runs if run.get("device"))),
        ("Time, all stages", duration(total)),
    ]
    summary = "".join(f'<tr><th>{name}</th><td class="wrap">{escape(value)}</td></tr>' for name, value in facts)
    lines = []
    for run in findings.runs:
        stage = escape(run["stage"]) + (f" · {escape(display_name(run['item']))}" if run.get("item") else "")
        share = 100 * run["seconds"] / total if total else 0
        lines.append(
            f'<tr><td>{stage}</td><td class="n">{duration(run["seconds"])}</td><td class="n">{share:.0f} %</td>'
            f"<td>{escape(str(run.get('device') or '–'))}</td><td><code>{escape(commit_of(run))}</code></td>"
            f"<td><code>{escape(str(run['params_hash'])[:12])}</code></td></tr>"
        )
    return (
        f'<h2>What was run</h2>\n<div class="card scroll"><table class="facts"><tbody>{summary}</tbody></table></div>\n'
        '<h3>Stages</h3>\n<div class="card scroll"><table><thead><tr><th>Stage</th><th class="n">Time</th>'
        '<th class="n">Share</th><th>Device</th><th>Commit</th><th>Params hash</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>\n{_params(findings)}"
    )


def _params(findings: Findings) -> str:
    """All parameters that the figures follow from, as the evaluate runs recorded them, with who differs."""
    values: dict[str, dict[str, str]] = {}
    for run in findings.runs:
        if run["stage"] == "evaluate":
            for key, value in (run["chain"] | run["params"]).items():
                values.setdefault(key, {})[display_name(run["item"])] = str(value)
    lines = []
    for key, of_model in sorted(values.items()):
        same = len(of_model) == len(findings.models) and len(set(of_model.values())) == 1
        shown = (
            next(iter(of_model.values())) if same else ", ".join(f"{name}: {text}" for name, text in of_model.items())
        )
        name = f"<td><code>{escape(key)}</code></td>"
        lines.append(f'<tr>{name}<td class="wrap"><code>{escape(shown)}</code></td></tr>')
    return (
        f"<details><summary>All {len(lines)} parameters</summary>"
        f'<div class="card scroll"><table><tbody>{"".join(lines)}</tbody></table></div></details>'
    )


def _together(values: Iterable[str]) -> str:
    """Each value once: stages may have run on different machines and commits."""
    return "; ".join(dict.fromkeys(values))
