"""Curves as small inline SVG drawings for the report. Nothing else imports matplotlib.

Axes and text are drawn in one colour that is then replaced by `currentColor`, and the background is left out, so that
a drawing takes the colours of the page around it, light or dark. Text stays text, in the page's own font.
"""

import html
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scm.charts.axes import INK, Line, readable_ticks

if TYPE_CHECKING:
    pass

BIN_COLOURS = ("#4c6ef5", "#228be6", "#15aabf", "#12b886", "#74b816", "#e8a200", "#f76707", "#e03131")
"""One colour a bin of t, from clean (t = 0) to noise (t = pi/2); each is visible on white and on black."""
POINTS = 400
"""A line with more points than this is thinned: the drawing is 300 pixels wide."""


@dataclass(frozen=True)
class Drawing:
    """What one drawing shows.

    Attributes:
        title: what a screen reader says; no two drawings of a page share it.
        x_label: meaning and unit of the horizontal axis.
        lines: the lines.
        logarithmic: logarithmic vertical axis, where all values are positive.
        mark: a chosen point (x, y), drawn with a ring.
        logarithmic_x: logarithmic horizontal axis.
    """

    title: str
    x_label: str
    lines: list[Line] = field(default_factory=list)
    logarithmic: bool = False
    mark: tuple[float, float] | None = None
    logarithmic_x: bool = False


def svg(drawing: Drawing) -> str:
    """Draws one figure as an <svg> element that refers to nothing outside itself."""
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": re.sub(r"\W", "", drawing.title),
        "font.size": 9,
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.2, 2.7), layout="constrained")
        axes = figure.add_subplot()
        positive = all(value > 0 for line in drawing.lines for value in line.y)
        if drawing.logarithmic and positive:
            axes.set_yscale("log")
        if drawing.logarithmic_x:
            axes.set_xscale("log")
        for line in drawing.lines:
            x, y = _thinned(line.x, line.y)
            axes.plot(
                x,
                y,
                color=line.colour,
                linewidth=1.4,
                linestyle="--" if line.dashed else "-",
                marker="o" if line.points else None,
                markersize=3.5,
                label=line.label or None,
            )
        if drawing.mark:
            axes.plot(
                *drawing.mark, "o", markersize=11, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.4
            )
        axes.set_xlabel(drawing.x_label)
        axes.grid(color=INK, alpha=0.12, linewidth=0.6)
        readable_ticks(axes)
        if any(line.label for line in drawing.lines):  # below the axes, where it covers no line
            figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
        text = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    return _inline(text.getvalue(), drawing.title)


def _thinned(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """Every n-th point, and always the last one."""
    stride = max(1, math.ceil(len(x) / POINTS))
    kept = sorted({*range(0, len(x), stride), len(x) - 1} - {-1})
    return [x[index] for index in kept], [y[index] for index in kept]


def _inline(text: str, title: str) -> str:
    """Cuts off the head, lets the page set size, colour and font, and names the drawing for screen readers."""
    body = re.sub(
        r"<metadata>.*?</metadata>|<defs>\s*<style.*?</defs>", "", text[text.index("<svg") :], flags=re.DOTALL
    )
    body = re.sub(r' id="[a-z]+[\w.]*_\d+"', "", body)  # numbered groups: the same in every drawing, and never used
    body = re.sub(r"font-family: [^;\"]*", "font-family: inherit", body.replace(INK, "currentColor"))
    view = re.search(r'viewBox="[^"]*"', body)
    head = f'<svg {view.group(0) if view else ""} role="img" aria-label="{html.escape(title)}">'
    body = re.sub(r"<svg[^>]*>", lambda match: head, body, count=1).replace("xlink:href", "href")
    return re.sub(r"\s*\n\s*", " ", body).strip()
