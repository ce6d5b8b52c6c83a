"""Charts of how each model was trained, how its weight average was chosen, and where along t it loses."""

import itertools
import re
from collections.abc import Iterator

from scm.charts.axes import IMAGES, Line, places
from scm.charts.inline import BIN_COLOURS, Chart
from scm.report.advice import edges
from scm.report.findings import Findings
from scm.report.wording import display_name

LINES = ("#228be6", "#12b886", "#e8a200", "#f76707", "#be4bdb")
"""Colours of lines that are not bins of t."""
FLOOR = "#868e96"
"""Colour of the floor's line."""
KEYS = {"sigma_rel": "σ_rel", "t_mid": "t_mid", "guidance": "guidance"}
"""What selection chooses, and its name in captions."""
FEWER = re.compile(r"_(\d+)step$", re.ASCII)
"""The end of a name that speaks of fewer steps than the most."""
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


def progress_chart(findings: Findings) -> Captioned | None:
    """The distance of each model's chosen average over its training; None if no model has several points."""
    drawn = {model: rows for model in findings.models if len(rows := findings.progress[model]) > 1}
    lines = [
        Line.through(places(rows, "images", "fd"), colour, display_name(model), points=True)
        for (model, rows), colour in zip(drawn.items(), itertools.cycle(LINES), strict=False)
    ]
    caption = f"{findings.distance} over the training"
    return (caption, Chart(caption, IMAGES, lines, True)) if lines else None


def by_time_chart(findings: Findings) -> Captioned:
    """The distance of each model over t, and the floor."""
    caption = f"{findings.distance} of images brought back from t"
    curves = {model: places(findings.by_time[model], "t", "fd") for model in findings.models}
    (_, floor), *_ = curves[findings.models[0]]
    last = max(t for curve in curves.values() for t, _ in curve)
    lines = [
        Line.through(curve[1:], colour, display_name(model), points=True)
        for (model, curve), colour in zip(curves.items(), itertools.cycle(LINES), strict=False)
    ]
    lines.append(Line((0.0, last), (floor, floor), FLOOR, "Real images", dashed=True))
    return caption, Chart(caption, "t in radians, up to which the images were noised", lines, True)


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
        # The average is chosen in the most steps. Distances of a first look come from fewer samples and do not compare.
        steps, samples = (max(row.get(key, 0) for row in rows) for key in ("steps", "samples"))
        rows = [row for row in rows if row.get("steps", 0) == steps]
        compared = [row for row in rows if row.get("samples", 0) == samples]
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
    words, outer = [], [KEYS[key] for key in edges(rows, choice)]
    for key, name in KEYS.items():
        if key in choice:
            words.append(f"{name} {choice[key]:g}")
    parts = [", ".join(words), *_in_fewer_steps(choice)]
    parts += [f"at the edge of the candidates: {', '.join(outer)}"] if outer else []
    near = f"{choice.get('within_noise', 1):g} of {choice.get('candidates', 1):g} candidates"
    return "; ".join([*parts, *([f"{near} are within the noise"] if choice.get("within_noise", 1) > 1 else [])])


def _in_fewer_steps(choice: dict[str, float]) -> Iterator[str]:
    """What was chosen for each smaller number of steps, where there was a choice."""
    for steps in sorted({int(found[1]) for key in choice if (found := FEWER.search(key))}):
        told = [f"{name} {choice[own]:g}" for key, name in KEYS.items() if (own := f"{key}_{steps}step") in choice]
        if told:
            yield f"in {steps} step{'s' if steps > 1 else ''} {', '.join(told)}"


def selection_lines(rows: list[dict[str, float]], choice: dict[str, float], x: str) -> list[Line]:
    """Lines of one model's candidates over the column `x`, sigma_rel or guidance.

    Args:
        rows: the candidates in the most steps: `x`, `fd`, and where the model has them `guidance` and `t_mid`.
        choice: the chosen candidate.

    Returns:
        a line for each guidance scale at the chosen t_mid; without scales, a line for each t_mid.
    """

    def having(**values: float | None) -> list[dict[str, float]]:
        return [row for row in rows if all(row.get(key) == value for key, value in values.items())]

    t_mid = choice.get("t_mid")
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
    return [
        Line.through(sorted(places(some, x, "fd")), colour, name, points=True)
        for (name, some), colour in zip(named, colours, strict=False)
    ]
