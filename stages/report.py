"""results/ -> results/report.html and results/report.md: one page with tables, pictures and curves."""

from scm.report import build
from scm.stage import Stage, main


def run(stage: Stage) -> None:
    build(stage.root, stage.params)


if __name__ == "__main__":
    main(run, "report", recorded=False)
