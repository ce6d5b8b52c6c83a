"""The paper's figures 1 and 6 for this run: distances as multiples of the teacher's, over compute and size.

Ratios let the paper's results (pipelines/paper_tables.yaml) stand beside results on other data and other features.
"""

from scm.base.project import TEACHER
from scm.charts.axes import Line
from scm.charts.inline import Chart
from scm.presets.paper import DATA, METHOD, published
from scm.report.findings import Findings
from scm.report.wording import display_name

GREYS = ("#868e96", "#adb5bd", "#ced4da")


def paper_charts(findings: Findings, colours: tuple[str, ...]) -> list[tuple[str, Chart]]:
    """Two charts with their captions: the ratio over compute and over size; none without students.

    The paper's lines are dashed and grey, and the students have `colours`, repeated if there are more students.

    Raises:
        UserError: the paper's tables are missing or damaged.
    """
    students = list(dict.fromkeys(row.model for row in findings.rows if row.model != TEACHER))
    if not students:
        return []
    over_compute, over_size = [], []

    # This run's students: every number of evaluations over compute, the most evaluations over size.
    for model, colour in zip(students, colours * len(students), strict=False):
        own = sorted((row for row in findings.rows if row.model == model), key=lambda row: row.evaluations)
        ratios, most = [(100 * row.compute / findings.best_teacher.compute, row.ratio) for row in own], own[-1]
        over_compute.append(Line.through(ratios, colour, most.name, points=True))
        mparams, label = most.compute / most.evaluations, f"{most.name}, {most.evaluations} NFE"
        over_size.append(Line([mparams], [most.ratio], colour, label, points=True))

    # The paper's students: the largest network over compute, all sizes of a data set over size.
    rows = published(findings.root)
    for (data, name), grey in zip(DATA.items(), GREYS, strict=True):
        largest = [row for row in rows if row.data == data][-1]
        label = f"paper, {display_name(METHOD)}, {name}"
        over_compute.append(Line(largest.compute, largest.ratio, grey, label, dashed=True, points=True))
        sized = [(row.mparams, row.ratio[1]) for row in rows if row.data == data and row.mparams is not None]
        if sized:
            over_size.append(Line.through(sized, grey, f"{label}, 2 NFE", dashed=True, points=True))

    compute = Chart("Distance over sampling compute", "sampling compute, % of the teacher's", over_compute, True)
    size = Chart("Distance over size", "parameters, millions", over_size, True, logarithmic_x=True)
    return [("× teacher over sampling compute", compute), ("× teacher over size", size)]
