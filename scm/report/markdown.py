"""The report as Markdown, for places that show no HTML, such as a pull request."""

from html import escape as html_escape

from scm.base.tables import escape, markdown_table
from scm.report.advice import advice
from scm.report.data import sentence
from scm.report.findings import Findings, explained, floor_cells, health_lines, pairs_caption, row_cells, unseen_rows
from scm.report.verdict import verdict
from scm.report.wording import UNSEEN, duration, stage_cells


def text(findings: Findings) -> str:
    """The whole report; pictures are links relative to results/."""
    # The verdict, what to look at next, and the table that stands behind both.
    judged = verdict(findings)
    rows = [[escape(cell) for cell in cells] for cells in [*map(row_cells, findings.rows), floor_cells(findings)]]
    table = markdown_table(findings.head, rows, align="ll" + "r" * (len(findings.head) - 2))
    lines = [f"# Few-step generation: {escape(findings.preset)}", ""]
    lines += [f"**{judged.level.capitalize()}.** {escape(judged.sentence)}", "", "## What to look at next", ""]
    lines += [f"- **{escape(each.fact)}** {escape(each.remedy)}" for each in advice(findings)] or [
        "Nothing stands out."
    ]
    lines += ["", "## Results", "", table, ""]
    lines += [f"- **{name}**: {escape(meaning)} Good: {escape(good)}." for name, meaning, good in explained(findings)]
    lines += [""]
    lines += _unseen(findings)

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


def _unseen(findings: Findings) -> list[str]:
    """The section about held-out images, if there are any."""
    rows = [[escape(cell) for cell in cells] for cells in unseen_rows(findings)]
    if not rows:
        return []
    align = "ll" + "r" * (len(findings.unseen_head) - 2)
    lines = ["## Held-out images", "", UNSEEN, "", markdown_table(findings.unseen_head, rows, align=align), ""]
    for row in findings.rows:
        source = f"samples/{row.model}/nearest-{row.evaluations}.png"
        lines += [f"**{escape(row.name)}, {row.evaluations} NFE**: {pairs_caption(row)}.", ""]
        lines += [f'<img src="{source}" alt="Nearest pairs of {html_escape(row.name)}" width="480">', ""]
    return lines
