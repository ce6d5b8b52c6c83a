"""Parts that all charts share: a line, counts of images, readable ticks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IMAGES = "images seen"
"""Label of a horizontal axis that counts training images."""

INK = "#010203"
"""Colour of axes and text, which scm.charts.inline replaces by the page's own."""


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        x: positions, ascending.
        y: one value for each position.
        colour: HTML colour, such as #228be6.
        label: name in the legend; "" leaves it out of the legend.
        dashed: True draws dashes.
        points: True draws a dot at each position.
    """

    x: Sequence[float]
    y: Sequence[float]
    colour: str
    label: str = ""
    dashed: bool = False
    points: bool = False


def image_count(value: float, position: int | None = None) -> str:
    """Number of images as params.yaml writes it: 131072 -> "128Ki"."""
    del position
    for unit, size in (("Mi", 2**20), ("Ki", 2**10)):
        if value >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:g}"


def readable_ticks(axes: "Axes") -> None:
    """Puts counts of images at multiples of a power of two and writes plain numbers instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if axes.get_xlabel() == IMAGES:
        top = max(axes.get_xlim()[1], 4.0)
        step = 2 ** round(math.log2(top / 4))
        axes.set_xticks([step * index for index in range(int(top / step) + 1)])
        axes.xaxis.set_major_formatter(FuncFormatter(image_count))
    for axis, scale, (low, high) in (
        (axes.xaxis, axes.get_xscale(), axes.get_xlim()),
        (axes.yaxis, axes.get_yscale(), axes.get_ylim()),
    ):
        if scale == "log":
            if high / low < 100:  # less than two decades: name points between the powers of ten
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
