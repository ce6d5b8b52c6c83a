"""Charts without matplotlib."""

import math
from xml.etree import ElementTree

import pytest

from scm.charts.axes import IMAGES, Line
from scm.charts.inline import Chart
from scm.charts.plain import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, plain_svg


def drawn(y: list[float], *, logarithmic: bool = False, end: float = 4096) -> ElementTree.Element:
    line = Line([1024 * (k + 1) for k in range(len(y))], y, "#228be6", points=True)
    return ElementTree.fromstring(plain_svg(Chart('a "title" <b>', IMAGES, [line], logarithmic), end))


def dots(svg: ElementTree.Element) -> list[tuple[float, float]]:
    return [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in svg.iter("circle")]


def words(svg: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in svg.iter("text")]


@pytest.mark.parametrize("logarithmic", [False, True])
def test_places_are_proportional_to_values_or_to_their_logarithms(logarithmic):
    y = [1.0, 10.0, 2.0, 100.0]
    found, told = dots(drawn(y, logarithmic=logarithmic)), [math.log(v) if logarithmic else v for v in y]
    width = WIDTH - LEFT - RIGHT
    assert [x for x, _ in found] == pytest.approx([LEFT + width * k / 4 for k in (1, 2, 3, 4)], abs=0.1)
    shares = [(value - found[0][1]) / (found[3][1] - found[0][1]) for _, value in found]
    assert shares == pytest.approx([(v - told[0]) / (told[3] - told[0]) for v in told], abs=0.01)
    assert all(TOP <= up <= HEIGHT - BOTTOM for _, up in found)


def test_ticks_are_round_and_lie_where_they_say():
    svg = drawn([0.1, 0.9, 1.3])
    assert words(svg) == ["0.5", "1", "0", "1Ki", "2Ki", "3Ki", "4Ki", IMAGES]
    assert svg.attrib["aria-label"] == 'a "title" <b>'
    assert words(drawn([0.3, 40.0], logarithmic=True))[:6] == ["0.5", "1", "2", "5", "10", "20"]


@pytest.mark.parametrize("y", [[], [1.0], [0.0, 0.0], [-3.0], [1e-9, 1e9], [5.0, 5.0]])
def test_few_equal_and_extreme_values_are_drawn(y):
    for logarithmic in (False, True):
        places = dots(drawn(y, logarithmic=logarithmic, end=16))
        assert len(places) == len(y) and all(math.isfinite(value) for place in places for value in place)
