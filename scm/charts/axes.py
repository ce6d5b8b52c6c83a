"""Parts that all charts share: a line, counts of images, readable ticks."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IMAGES = "images seen"
"""Label of a horizontal axis that counts training images."""

STYLE: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
"""Settings of matplotlib that all charts share."""


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

    @classmethod
    def through(cls, positions: Iterable[tuple[float, float]], colour: str, label: str = "", **look: bool) -> "Line":
        """The line through these (x, y); `look` is dashed, points or both."""
        x, y = tuple(zip(*positions, strict=True)) or ((), ())
        return cls(x, y, colour, label, **look)

    def draw(self, axes: "Axes", width: float, dots: float) -> None:
        """Draws the line with this width and with dots of this size, both in points (1/72 inch)."""
        style, marker = "--" if self.dashed else "-", "o" if self.points else None
        look = {"color": self.colour, "linewidth": width, "marker": marker, "markersize": dots}
        axes.plot(self.x, self.y, style, label=self.label or None, **look)


def places(rows: Iterable[Mapping[str, float]], x: str, y: str) -> list[tuple[float, float]]:
    """The values of two columns in all rows that have both."""
    return [(row[x], row[y]) for row in rows if x in row and y in row]


def image_count(value: float) -> str:
    """Number of images as params.yaml writes it: 131072 -> "128Ki"."""
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
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, position: image_count(value)))
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        if axis.get_scale() == "log":
            if high / low < 100:  # less than two decades: name points between the powers of ten
                axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
