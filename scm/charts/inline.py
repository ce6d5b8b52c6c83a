"""Charts as small inline <svg> elements for the report's page.

Matplotlib draws axes and text in one colour, which `currentColor` then replaces, and no background, so that a chart
takes the colours of the page around it, light or dark. Text stays text, in the page's own font.
"""

import html
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scm.charts.axes import STYLE, Line, readable_ticks

INK = "#010203"
"""Colour in which axes and text are drawn, and which the page's own then replaces."""
BIN_COLOURS = ("#4c6ef5", "#228be6", "#15aabf", "#12b886", "#74b816", "#e8a200", "#f76707", "#e03131")
"""One colour for each bin of t, from clean (t = 0) to noise (t = pi/2); each is visible on white and on black."""
POINTS = 400
"""A line with more points than this is thinned: a chart is 300 pixels wide."""


@dataclass(frozen=True)
class Chart:
    """One pair of axes with its lines.

    Attributes:
        title: what a screen reader says; no two charts of a page share it.
        x_label: meaning and unit of the horizontal axis.
        logarithmic: logarithmic vertical axis if all values are positive.
        mark: a chosen point (x, y), marked with a ring.
        logarithmic_x: logarithmic horizontal axis.
    """

    title: str
    x_label: str
    lines: Sequence[Line] = ()
    logarithmic: bool = False
    mark: tuple[float, float] | None = None
    logarithmic_x: bool = False


def svg(chart: Chart) -> str:
    """Draws a chart as an <svg> element that refers to nothing outside itself."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    inked = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    salt = re.sub(r"\W", "", chart.title)  # equal charts make equal text
    with matplotlib.rc_context({**STYLE, **inked, "svg.fonttype": "none", "svg.hashsalt": salt}):
        figure = Figure(figsize=(4.2, 2.7), layout="constrained")
        axes = figure.add_subplot()

        # Scales come first: the ticks below depend on them.
        if chart.logarithmic and all(value > 0 for line in chart.lines for value in line.y):
            axes.set_yscale("log")
        if chart.logarithmic_x:
            axes.set_xscale("log")

        # The lines, and a ring around the chosen point.
        for line in chart.lines:
            thinned(line).draw(axes, width=1.4, dots=3.5)
        if chart.mark:
            axes.plot(*chart.mark, "o", markersize=11, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.4)

        # The legend stands below the axes, where it covers no line.
        axes.set_xlabel(chart.x_label)
        axes.grid(color=INK, alpha=0.12, linewidth=0.6)
        readable_ticks(axes)
        if any(line.label for line in chart.lines):
            figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)

        # Metadata would carry the date, and the page would change with every build. `figure.savefig` would draw twice.
        text = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        for background in (figure.patch, axes.patch):
            background.set(facecolor="none", edgecolor="none")
        FigureCanvasSVG(figure).print_svg(text, metadata=nothing)
    return _inline(text.getvalue(), chart.title)


def thinned(line: Line) -> Line:
    """The line through every n-th point, and always through the last one."""
    stride = max(1, math.ceil(len(line.x) / POINTS))
    kept = sorted({*range(0, len(line.x), stride), len(line.x) - 1} - {-1})
    return replace(line, x=[line.x[index] for index in kept], y=[line.y[index] for index in kept])


def _inline(text: str, title: str) -> str:
    """Turns matplotlib's SVG file into an element whose size, colour and font the page sets."""
    # Leave out the XML head, the metadata and the style sheet.
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</defs>", "", body, flags=re.DOTALL)
    # Numbered groups have the same ids in every chart, and nothing refers to them.
    body = re.sub(r' id="[a-z]+[\w.]*_\d+"', "", body)
    body = re.sub(r"font-family: [^;\"]*", "font-family: inherit", body.replace(INK, "currentColor"))
    # A new opening tag: no width and height, and a name for screen readers.
    view = re.search(r'viewBox="[^"]*"', body)
    head = f'<svg {view.group(0) if view else ""} role="img" aria-label="{html.escape(title)}">'
    body = re.sub(r"<svg[^>]*>", lambda match: head, body, count=1).replace("xlink:href", "href")
    return re.sub(r"\s*\n\s*", " ", body).strip()
