"""The figure of a study: panels side by side, as SVG and as a small PNG on white."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from scm.base.files import replacing
from scm.charts.axes import IMAGES, STYLE, Line, image_count, readable_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#332288")
"""Okabe and Ito's colours, which colour-blind readers can tell apart."""
PNG_BYTES = 60_000
"""Largest size of a PNG; the resolution is lowered until the file fits."""


@dataclass(frozen=True)
class Level:
    """A dashed horizontal line across a panel."""

    y: float
    colour: str
    label: str = ""


@dataclass(frozen=True)
class Bars:
    """One bar in each group of a panel; a height that is not finite leaves a gap.

    Attributes:
        errors: deviations that are drawn around the heights; not finite = none.
    """

    heights: Sequence[float]
    colour: str
    label: str = ""
    errors: Sequence[float] = ()


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        x_label, y_label: meaning and unit of each axis.
        bars: sets of bars, each with one bar in every group.
        groups: names of the groups of bars.
        ticks: positions of the horizontal axis's labels; empty leaves them to matplotlib.
        logarithmic: logarithmic vertical axis if all values are positive and far apart.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line] = ()
    levels: Sequence[Level] = ()
    bars: Sequence[Bars] = ()
    groups: Sequence[str] = ()
    ticks: Sequence[float] = ()
    logarithmic: bool = False


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def draw(title: str, panels: Sequence[Panel], svg: Path, png: Path) -> None:
    """Writes a figure of panels, from left to right, with one title and one legend, to an SVG and a PNG file.

    The PNG has at most `PNG_BYTES` if the lowest resolution allows.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title, "axes.titlesize": 9}):
        width = max(4.8, 1.6 + 1.6 * len(panels[0].groups) if panels[0].bars else 3.6 * len(panels))
        figure = Figure(figsize=(width, 3.4), layout="constrained")
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _panel(axes, panel)
        if panels[0].title != title:
            figure.suptitle(title, fontsize=10)
        figure.legend(loc="outside lower center", ncols=min(4, int(width / 1.8)), frameon=False, fontsize=8)
        with replacing(svg) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})
        with replacing(png) as temporary:
            temporary.write_bytes(_small_png(figure))


def _small_png(figure: "Figure") -> bytes:
    from PIL import Image

    for dots in (110, 80, 60, 40):
        rendered, small = io.BytesIO(), io.BytesIO()
        figure.savefig(rendered, format="png", dpi=dots)
        with Image.open(rendered) as picture:
            picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
        if small.tell() <= PNG_BYTES:
            break
    return small.getvalue()


def _panel(axes: "Axes", panel: Panel) -> None:
    # Lines and levels, over a number.
    for order, line in enumerate(panel.lines):
        width = max(1.2, 3.0 - 0.6 * order)  # wide below narrow: a covered line shows at the edges
        line.draw(axes, width, dots=2.5 + width)
    for level in panel.levels:
        axes.axhline(level.y, color=level.colour, linewidth=1.2, linestyle="--", label=level.label or None)

    # Bars, side by side around the centre of their group, with their heights above them and their deviations.
    width = 0.8 / max(1, len(panel.bars))
    for order, bars in enumerate(panel.bars):
        places = [group - 0.4 + width * (order + 0.5) for group in range(len(panel.groups))]
        heights = [height if math.isfinite(height) else 0.0 for height in bars.heights]
        axes.bar(places, heights, width * 0.92, color=bars.colour, label=bars.label or None)
        if bars.errors:
            axes.errorbar(places, heights, list(bars.errors), fmt="none", ecolor="black", elinewidth=0.8, capsize=2)
        for place, height, error in zip_longest(places, bars.heights, bars.errors, fillvalue=0.0):
            if math.isfinite(height):
                top = height + (error if math.isfinite(error) else 0.0)
                beside = {"xytext": (0, 1), "textcoords": "offset points", "ha": "center", "va": "bottom"}
                axes.annotate(f"{height:.3g}", (place, top), fontsize=7, **beside)

    # Headings, grid and ticks.
    axes.set_title(panel.title)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.grid(alpha=0.2, linewidth=0.6, axis="y" if panel.bars else "both")
    _ticks(axes, panel)


def _ticks(axes: "Axes", panel: Panel) -> None:
    """Sets logarithmic scales where values are far apart, and readable ticks or the panel's own."""
    from matplotlib.ticker import NullLocator

    values = [*(y for line in panel.lines for y in line.y), *(level.y for level in panel.levels)]
    if panel.logarithmic and values and min(values) > 0 and max(values) / min(values) > 5:
        axes.set_yscale("log")
    readable_ticks(axes)
    if panel.groups:
        axes.set_xticks(range(len(panel.groups)), panel.groups)
    if panel.ticks:
        if min(panel.ticks) > 0 and max(panel.ticks) / min(panel.ticks) > 3:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_minor_locator(NullLocator())
        of_images = panel.x_label == IMAGES
        axes.set_xticks(panel.ticks, [image_count(tick) if of_images else f"{tick:g}" for tick in panel.ticks])
