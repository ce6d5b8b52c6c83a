"""The report as Markdown, for places that show no HTML, such as a pull request."""

from html import escape as html_escape

from scm.base.tables import escape, markdown_table
from scm.report.data import sentence
from scm.report.findings import Findings, headline, health_lines, row_cells
from scm.report.wording import duration, number, stage_cells


def text(findings: Findings) -> str:
    """The whole report; pictures are links relative to results/."""
    # The headline, and the table that stands behind it.
    rows = [[escape(cell) for cell in row_cells(row)] for row in findings.rows]
    table = markdown_table(findings.head, rows, align="ll" + "r" * (len(findings.head) - 2))
    halves = f"Two halves of the real images, compared with each other: {findings.distance} {number(findings.floor)}."
    accuracy = findings.held_out_accuracy
    lines = [f"# Few-step generation: {escape(findings.preset)}", "", headline(findings), "", table, ""]
    lines += [halves if accuracy is None else f"{halves} The extractor's held-out accuracy: {accuracy:.1%}.", ""]

    # What the figures cannot say: the pictures.
    lines += ["## Samples", "", "Every model got the same noise and the same classes.", ""]
    for row in findings.rows:
        name = f"{escape(row.name)}, {row.evaluations} NFE"
        source = f"samples/{row.model}/nfe-{row.evaluations}.png"
        lines += [f"**{name}**", "", f'<img src="{source}" alt="Samples of {html_escape(row.name)}" width="480">', ""]

    # What they follow from: the data, and how the trainings went.
    lines += ["## Data", "", escape(sentence(findings.data)), ""]
    health = health_lines(findings)
    if health:
        lines += ["## Training health", "", *(f"- {escape(line)}" for line in health), ""]

    # What it takes to make them again.
    rows = [[escape(cell) for cell in stage_cells(run)] for run in findings.runs]
    stages = markdown_table(("Stage", "Time", "Device", "Commit", "Params"), rows)
    lines += ["## What was run", "", stages, ""]
    total, machine = duration(sum(run["seconds"] for run in findings.runs)), escape(str(findings.runs[-1]["machine"]))
    lines += [f"Total {total} on {machine}. Curves and all parameters: report.html.", ""]
    return "\n".join(lines)
