"""results/ -> results/report.html and results/report.md: one page with tables, pictures and curves."""

from pathlib import Path
from typing import Any

from scm.base.files import write_text
from scm.pipeline.stage import Stage, main
from scm.report.findings import collect
from scm.report.markdown import text
from scm.report.page import page


def run(stage: Stage) -> None:
    build(stage.root, stage.params)


def build(root: Path, params: Any) -> None:
    """Writes results/report.html and results/report.md.

    Args:
        root: the project's folder.
        params: the parameters; `preset` and `evaluate.models` are read.

    Raises:
        UserError: if a file of a model that the parameters name is missing, empty or damaged.
    """
    findings = collect(root, params)
    write_text(root / "results" / "report.html", page(findings))
    write_text(root / "results" / "report.md", text(findings))


if __name__ == "__main__":
    main(run, "report", recorded=False)
