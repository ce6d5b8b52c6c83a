"""The paper's figures 1 and 6 for whatever was run: distances as multiples of the teacher's, over compute and size.

As a ratio the paper's results (pipelines/paper_tables.yaml) stand beside those on other data and other features.
"""

from scm.charts.axes import Line
from scm.charts.inline import Drawing
from scm.presets.paper import DATA, published
from scm.report.findings import Findings, Row
from scm.report.wording import display_name

GREYS = ("#868e96", "#adb5bd", "#ced4da")


def drawings(findings: Findings, colours: tuple[str, ...]) -> list[Drawing]:
    """Ratio over compute and ratio over size; none without students. The paper's rows are dashed and grey."""
    students = [model for model in findings.models if any(_students(findings, model))]
    if not students:
        return []
    rows = published(findings.root)
    over_compute, over_size = [], []
    for model, colour in zip(students, colours * len(students), strict=False):
        own = sorted(_students(findings, model), key=lambda row: row.evaluations)
        shares = [100 * row.compute / findings.best_teacher.compute for row in own]
        ratios, name = [row.ratio for row in own], display_name(model)
        over_compute.append(Line(shares, ratios, colour, name, points=True))
        most = own[-1]
        over_size.append(
            Line(
                [most.compute / most.evaluations], [most.ratio], colour, f"{name}, {most.evaluations} NFE", points=True
            )
        )
    for (data, name), grey in zip(DATA.items(), GREYS, strict=True):
        largest = [row for row in rows if row.data == data][-1]
        label = f"paper, sCD, {name}"
        over_compute.append(Line(largest.compute, largest.ratio, grey, label, dashed=True, points=True))
        sized = [(row.mparams, row.ratio[1]) for row in rows if row.data == data and row.mparams is not None]
        if sized:
            x, y = zip(*sized, strict=True)
            over_size.append(Line(x, y, grey, f"{label}, 2 NFE", dashed=True, points=True))
    return [
        Drawing("Distance over sampling compute", "sampling compute, % of the teacher's", over_compute, True),
        Drawing("Distance over size", "parameters, millions", over_size, True, logarithmic_x=True),
    ]


def _students(findings: Findings, model: str) -> list[Row]:
    return [row for row in findings.rows if row.model == model != "teacher"]
