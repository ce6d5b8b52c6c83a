"""Charts of how each model was trained, and of how its weight average was chosen."""

import itertools

from scm.charts.axes import IMAGES, Line, places
from scm.charts.inline import BIN_COLOURS, Chart
from scm.report.findings import Findings
from scm.report.wording import display_name

LINES = ("#228be6", "#12b886", "#e8a200", "#f76707", "#be4bdb")
"""Colours of lines that are not bins of t."""
PALE = "#868e96"
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
"""Column, caption and logarithmic axis of each chart; a column that ends in "/" has one line for each bin of t."""
Captioned = tuple[str, Chart]
"""A caption and the chart below it."""


def training_charts(findings: Findings) -> list[tuple[str, list[Captioned]]]:
    """Each model's name and the charts of its training; an imported teacher has no curves and is left out."""
    shown = []
    for model in findings.models:
        name, charts = display_name(model), []
        for column, caption, logarithmic in HEALTH:
            lines = _training_lines(findings.training[model], column)
            if lines:
                charts.append((caption, Chart(f"{name}: {caption}", IMAGES, lines, logarithmic)))
        if charts:
            shown.append((name, charts))
    return shown


def _training_lines(rows: list[dict[str, float]], column: str) -> list[Line]:
    """One line, or one for each bin of t; lines without values are left out."""
    bins = {f"{column}{k}": colour for k, colour in enumerate(BIN_COLOURS)}
    named = bins if column.endswith("/") else {column: LINES[0]}
    lines = [Line.through(places(rows, "images", name), colour) for name, colour in named.items()]
    return [line for line in lines if line.x]


def selection_charts(findings: Findings) -> tuple[list[Captioned], bool]:
    """How each model's weight average was chosen.

    Returns:
        a chart for each model, and True if candidates that were dropped after a first look are missing from one.
    """
    charts, dropped = [], False
    for model in findings.models:
        rows, choice = findings.selection[model], findings.choices[model]
        # An imported average has an unknown length, so the guidance scale is its only candidate, if there is any.
        x = "sigma_rel" if "sigma_rel" in choice else "guidance"
        if x not in choice:
            continue
        # Distances of a first look come from fewer samples and do not compare with the others.
        most = max(row.get("samples", 0) for row in rows)
        compared = [row for row in rows if row.get("samples", 0) == most]
        dropped |= len(compared) < len(rows)
        # The ring marks the choice.
        lines = [line for line in selection_lines(compared, choice, x) if line.x]
        over, meaning = ("σ_rel", "σ_rel of the average") if x == "sigma_rel" else ("guidance", "guidance scale")
        name, mark = display_name(model), (choice[x], choice["fd"])
        chart = Chart(f"{name}: Fréchet distance over {over}", meaning, lines, True, mark)
        charts.append((f"{name}: chosen {_chosen(rows, choice)}", chart))
    return charts, dropped


def _chosen(rows: list[dict[str, float]], choice: dict[str, float]) -> str:
    """The choice in words, with a warning if better values may lie outside the candidates."""
    words, edges = [], []
    for key, name in (("sigma_rel", "σ_rel"), ("t_mid", "t_mid"), ("guidance", "guidance")):
        if key in choice:
            words.append(f"{name} {choice[key]:g}")
            values = {row[key] for row in rows if key in row}
            if len(values) > 1 and choice[key] in (min(values), max(values)):
                edges.append(name)
    return ", ".join(words) + (f"; at the edge of the candidates: {', '.join(edges)}" if edges else "")


def selection_lines(rows: list[dict[str, float]], choice: dict[str, float], x: str) -> list[Line]:
    """Lines of one model's candidates over the column `x`, sigma_rel or guidance.

    Args:
        rows: the candidates: `x`, `fd`, and where the model has them `guidance`, `t_mid` and `fd_1step`.
        choice: the chosen candidate.

    Returns:
        a line for each guidance scale at the chosen t_mid; without scales, a line for each t_mid. A student has one
        line more, the distance of one-step samples.
    """

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
    colours = itertools.cycle(LINES)
    lines = [
        Line.through(sorted(places(some, x, "fd")), colour, name, points=True)
        for (name, some), colour in zip(named, colours, strict=False)
    ]
    # One step does not depend on t_mid: the rows of any one t_mid hold its distances.
    if middles:
        one = having(guidance=scale, t_mid=t_mid) if scales else having(t_mid=middles[0])
        lines.append(Line.through(sorted(places(one, x, "fd_1step")), PALE, "1 step", dashed=True, points=True))
    return lines
