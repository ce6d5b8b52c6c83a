"""Writes the report on results/, one page as HTML and as Markdown, and DVC's plot of all models."""

from scm.base.files import write_text
from scm.params.project import Project
from scm.pipeline.stage import Stage, main
from scm.report.findings import collect
from scm.report.markdown import text
from scm.report.page import page
from scm.report.plots import write_plots


def run(stage: Stage) -> None:
    build(Project(stage.root, stage.params))
    write_plots(stage.root, stage.params.evaluate.models)


def build(project: Project) -> None:
    """Writes results/report.html and results/report.md.

    Raises:
        UserError: a file of a model in evaluate.models is missing, empty or damaged.
    """
    findings = collect(project)
    results = project.root / "results"
    write_text(results / "report.html", page(findings))
    write_text(results / "report.md", text(findings))


if __name__ == "__main__":
    main(run, "report", recorded=False)
