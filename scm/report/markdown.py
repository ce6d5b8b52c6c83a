"""The report as Markdown, for places that show no HTML, such as a pull request."""

from html import escape

from scm.report.data import sentence
from scm.report.findings import Findings, headline, health_lines, row_cells
from scm.report.wording import cell, commit_of, display_name, duration, line, number


def text(findings: Findings) -> str:
    """Returns the Markdown; pictures are links relative to results/."""
    lines = [f"# Few-step generation: {cell(findings.preset)}", "", headline(findings), ""]
    lines += [line(findings.head), line(("---", "---", *["---:"] * (len(findings.head) - 2)))]
    lines += [line([cell(text) for text in row_cells(row)]) for row in findings.rows]
    halves = f"Two halves of the real images, one against the other: {findings.distance} {number(findings.floor)}."
    accuracy = findings.held_out_accuracy
    lines += ["", halves if accuracy is None else f"{halves} The extractor's held-out accuracy: {accuracy:.1%}.", ""]
    lines += ["## Samples", "", "The same noise and the same classes for every model.", ""]
    for row in findings.rows:
        name = f"{cell(row.name)}, {row.evaluations} NFE"
        source = f"samples/{row.model}/nfe-{row.evaluations}.png"
        lines += [f"**{name}**", "", f'<img src="{source}" alt="Samples of {escape(row.name)}" width="480">', ""]
    lines += ["## Data", "", cell(sentence(findings.data)), ""]
    health = health_lines(findings)
    if health:
        lines += ["## Training health", "", *(f"- {cell(line)}" for line in health), ""]
    lines += ["## What was run", "", line(("Stage", "Time", "Device", "Commit", "Params")), line(["---"] * 5)]
    for run in findings.runs:
        stage = run["stage"] + (f" · {display_name(run['item'])}" if run.get("item") else "")
        cells = (
            stage,
            duration(run["seconds"]),
            run.get("device") or "–",
            commit_of(run),
            str(run["params_hash"])[:12],
        )
        lines.append(line([cell(str(value)) for value in cells]))
    total, machine = duration(sum(run["seconds"] for run in findings.runs)), cell(str(findings.runs[-1]["machine"]))
    lines += ["", f"Total {total} on {machine}. Curves and all parameters: report.html.", ""]
    return "\n".join(lines)
