"""Charts as <svg> elements without matplotlib, for a page that is written again and again while a training computes.

matplotlib takes longer to load than such a page may take altogether.
"""

import html
import math
from collections.abc import Sequence

from scm.charts.axes import image_count
from scm.charts.inline import Chart, thinned

WIDTH, HEIGHT = 420, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 10, 40
"""Margins around the axes."""
TICKS = 3
"""Steps between two ticks of the vertical axis, about."""


def plain_svg(chart: Chart, end: float) -> str:
    """Draws a chart over counts of images from 0 to `end`; the lines may be short so far, or empty."""
    lines = [thinned(line) for line in chart.lines]
    values = [value for line in lines for value in line.y]
    logarithmic = chart.logarithmic and bool(values) and min(values) > 0
    low, high = _range(values, logarithmic)

    def across(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / end

    def up(value: float) -> float:
        share = math.log(value / low) / math.log(high / low) if logarithmic else (value - low) / (high - low)
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(chart.title)}">']
    parts.append('<g fill="currentColor" stroke="none" font-size="12" text-anchor="end">')
    for tick in _ticks(low, high, logarithmic) if values else ():
        parts.append(f'<path d="M{LEFT} {up(tick):.1f}H{WIDTH - RIGHT}" stroke="currentColor" opacity="0.15"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{up(tick) + 4:.1f}">{tick:g}</text>')
    parts.append('</g><g fill="currentColor" font-size="12" text-anchor="middle">')
    step = 2 ** round(math.log2(max(end, 4.0) / 4))
    for tick in range(0, int(end) + 1, step):
        parts.append(f'<text x="{across(tick):.1f}" y="{HEIGHT - BOTTOM + 17}">{image_count(tick)}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}">{html.escape(chart.x_label)}</text></g>')
    parts.append(f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="currentColor"/>')
    for line in lines:
        places = [(across(x), up(y)) for x, y in zip(line.x, line.y, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="2"/>')
        for x, y in places if line.points else places[-1:]:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{line.colour}"/>')
    return "".join([*parts, "</svg>"])


def _range(values: Sequence[float], logarithmic: bool) -> tuple[float, float]:
    """The ends of the vertical axis, around the values and never equal."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if logarithmic:
        margin = max((high / low) ** 0.05, 1.02)
        return low / margin, high * margin
    margin = max((high - low) * 0.05, abs(high) * 0.01, 1e-12)
    return low - margin, high + margin


def _ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """Round numbers between the ends.

    >>> _ticks(-0.02, 1.3, False), _ticks(0.3, 40, True)
    ([0.0, 0.5, 1.0], [0.5, 1.0, 2.0, 5.0, 10.0, 20.0])
    """
    if logarithmic and high / low > 5:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
        factors = (1, 2, 5) if high / low < 1000 else (1,)
        found = [factor * 10.0**decade for decade in decades for factor in factors]
        return [tick for tick in found if low <= tick <= high]
    rough = (high - low) / TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = unit * min((1, 2, 5, 10), key=lambda each: abs(each - rough / unit))
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(index * step, 12) for index in range(first, last + 1)]
