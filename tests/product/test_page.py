"""The page in a real browser, against a real server: chosen, drawn, measured, refused."""

import time

import pytest

from tests.support import chromium
from tests.support.serving import start

pytestmark = pytest.mark.skipif(chromium.PROGRAM is None, reason="there is no Chromium on this machine")
WIDTHS = (1200, 375)
STATE = "document.body && document.body.dataset.state"
IMAGES = "[...document.querySelectorAll('.column')].map(each => each.querySelectorAll('img').length)"


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with chromium.browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def put(tab, field: str, value: int) -> None:
    tab.value(f"document.getElementById('{field}').value = {value}")


def click(tab, selector: str) -> None:
    tab.value(f"document.querySelector(`{selector}`).click()")


def drawn(tab) -> str:
    """Waits for the end of a drawing."""
    tab.wait(f"['done', 'error'].includes({STATE})")
    return tab.value(STATE)


def opened(tab, server, width: int = 1200) -> None:
    """Waits for the images that the page draws when it opens."""
    tab.open(server.url, width)
    assert drawn(tab) == "done"


def test_the_page_draws_when_it_opens(tab, server):
    opened(tab, server)
    assert tab.value(IMAGES) == [3, 3, 3]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_card_is_a_page(tab, server, width, tmp_path):
    """Its own style applies: figures stand at the right, and a phone scrolls tables alone."""
    tab.open(f"{server.url}/card", width)
    tab.wait("document.readyState === 'complete' && document.querySelector('h1')")
    assert tab.value("document.querySelector('h1').textContent") == "sCD: images in few steps (digits)"
    assert tab.value("getComputedStyle(document.querySelector('td.right')).textAlign") == "right"
    assert tab.value("document.querySelectorAll('table').length") == 2
    assert tab.value("document.querySelector('details').open") is False
    assert tab.value("document.documentElement.scrollWidth") <= width
    tab.picture(tmp_path / "card.png")
    tab.value("document.querySelector('nav a').click()")
    tab.wait(f"location.pathname === '/' && {STATE} === 'done'")
    assert tab.messages == []


@pytest.mark.parametrize("width", WIDTHS)
def test_images_of_three_kinds_appear_side_by_side_with_their_times(tab, server, width, tmp_path):
    opened(tab, server, width)
    click(tab, "#classes button:nth-child(2)")  # takes class one out
    put(tab, "count", 2)
    put(tab, "steps", 6)
    click(tab, "#draw")
    assert drawn(tab) == "done"
    assert tab.value(IMAGES) == [4, 4, 4]
    heads = tab.value("[...document.querySelectorAll('.column h2')].map(each => each.textContent)")
    assert heads == ["sCD, 1 step", "sCD, 2 steps", "Teacher, 6 steps"]
    times = tab.value("[...document.querySelectorAll('.column .time')].map(each => each.textContent)")
    for text, evaluations in zip(times, ("1 evaluation", "2 evaluations", "11 evaluations"), strict=True):
        assert text.endswith(f" an image · {evaluations}") and float(text.split()[0]) > 0
    captions = tab.value("[...document.querySelectorAll('.column:first-child figcaption')].map(e => e.textContent)")
    assert captions == ["zero", "zero", "two", "two"]
    tab.wait("[...document.images].every(image => image.complete && image.naturalWidth === 8)")
    shown = "[...document.images].map(image => [image.clientWidth, getComputedStyle(image).imageRendering])"
    assert tab.value(shown) == [[72, "pixelated"]] * 12
    assert tab.value("document.documentElement.scrollWidth") <= width
    tops = tab.value("[...document.querySelectorAll('.column')].map(each => each.offsetTop)")
    assert len(set(tops)) == (1 if width == 1200 else 3)
    tab.picture(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_the_seed_decides_and_the_dice_changes_it(tab, server):
    opened(tab, server)
    sources = "[...document.images].map(image => image.src)"
    put(tab, "steps", 3)
    pictures = []
    for seed in (1, 1, 2):
        put(tab, "seed", seed)
        click(tab, "#draw")
        assert drawn(tab) == "done"
        pictures.append(tab.value(sources))
    assert pictures[0] == pictures[1] != pictures[2] and len(pictures[0]) == 9
    click(tab, "#dice")
    assert drawn(tab) == "done" and tab.value(sources) not in pictures


def test_more_images_than_a_request_may_ask_for_are_drawn_in_several(tab, server):
    opened(tab, server)
    put(tab, "count", 4)
    put(tab, "steps", 3)
    click(tab, "#draw")
    assert drawn(tab) == "done" and tab.value(IMAGES) == [12, 12, 12]


def test_what_the_server_refuses_is_shown_as_text(tab, server):
    opened(tab, server)
    error = "document.getElementById('error').textContent"
    click(tab, "#classes .plain")
    click(tab, "#draw")
    tab.wait(f"{error} === 'Choose a class first.'")
    click(tab, "#classes .plain")
    tab.value("document.getElementById('form').noValidate = true")
    put(tab, "steps", 500)
    click(tab, "#draw")
    assert drawn(tab) == "error"
    assert tab.value(error) == "row 0: steps 500: scd takes 1 or 2, the teacher 3 to 100 (400)"
    assert tab.value("document.querySelector('#error').getClientRects().length") == 1
    put(tab, "steps", 4)
    click(tab, "#draw")
    assert drawn(tab) == "done" and tab.value(error) == ""


def test_nothing_is_asked_of_others_and_nothing_complained_of(tab, server):
    opened(tab, server)
    asked = [url for url in tab.requests if not url.startswith(("data:", "about:"))]
    assert asked and all(url.startswith(f"{server.url}/") for url in asked)
    assert tab.messages == []


@pytest.mark.slow
def test_a_server_that_is_gone_is_told_of(tab, packed, tmp_path):
    served = start(str(packed), folder=tmp_path)
    opened(tab, served)
    served.end()
    click(tab, "#draw")
    assert drawn(tab) == "error"
    time.sleep(0.1)
    error = tab.value("document.getElementById('error').textContent")
    assert error == "The server does not answer: is it still running?"


def frames(tab) -> int:
    return tab.value("film.frames.length")


def test_an_animation_goes_from_image_to_image(tab, server, tmp_path):
    """Three classes of 12 frames each; the slider shows any of them, and the first column's images are among them."""
    opened(tab, server)
    tab.value("document.getElementById('animate').click()")
    tab.wait("['done', 'error'].includes(document.getElementById('between').dataset.state)")
    assert tab.value("document.getElementById('between-error').textContent") == "" and frames(tab) == 36
    tab.wait("Number(document.getElementById('way').value) > 3")
    click(tab, "#play")
    assert tab.value("document.getElementById('play').textContent") == "Play"
    assert tab.value("new Set(film.frames.map(each => each.src)).size") == 36
    same = "pixels => JSON.stringify([...pixels.getContext('2d').getImageData(0, 0, 8, 8).data])"
    tab.value(
        "(() => { const c = document.createElement('canvas'); c.width = c.height = 8; window.drawnOn = image => "
        f"{{ c.getContext('2d').drawImage(image, 0, 0); return ({same})(c); }}; window.shownOn = ({same}); }})()"
    )
    for place in range(3):
        image = f"document.querySelectorAll('.column')[0].querySelectorAll('img')[{place}]"
        assert tab.value(f"frameShown({12 * place}), shownOn(document.getElementById('film')) === drawnOn({image})")
    assert tab.messages == []


@pytest.mark.parametrize("width", WIDTHS)
def test_a_drawn_image_is_erased_in_part_and_filled(tab, server, width, tmp_path):
    """What is not erased stays; a pen paints; the results can be edited again."""
    opened(tab, server, width)
    click(tab, ".column img")
    board = "document.getElementById('board')"
    tab.value(f"{board}.scrollIntoView({{block: 'center'}})")
    box = tab.value(f"(({{left, top, width}}) => [left, top, width])({board}.getBoundingClientRect())")
    for kind, x, y in (("mousePressed", 0.1, 0.8), ("mouseMoved", 0.9, 0.8), ("mouseReleased", 0.9, 0.8)):
        place = {"x": box[0] + x * box[2], "y": box[1] + y * box[2]}
        tab.call("Input.dispatchMouseEvent", type=kind, button="left", buttons=1, clickCount=1, **place)
    erased = (
        "[...painter('mask').getImageData(0, 0, 8, 8).data].filter((each, at) => at % 4 === 0 && each > 127).length"
    )
    assert 6 <= tab.value(erased) <= 8
    tab.value("document.getElementById('edit-class').value = 1")
    click(tab, "#inpaint")
    tab.wait("['done', 'error'].includes(document.getElementById('edit').dataset.state)")
    assert tab.value("document.getElementById('edit-error').textContent") == ""
    tab.wait(
        "[...document.querySelectorAll('#edited img')].filter(each => each.complete && each.naturalWidth).length === 4"
    )
    kept = """(() => {
      const [mask, before] = ['mask', 'picture'].map(name => painter(name).getImageData(0, 0, 8, 8).data);
      const c = document.createElement('canvas'), on = c.getContext('2d');
      c.width = c.height = 8;
      return [...document.querySelectorAll('#edited img')].map(image => {
        on.drawImage(image, 0, 0);
        const after = on.getImageData(0, 0, 8, 8).data;
        return [...after].some((each, at) => mask[4 * (at >> 2)] < 128 && each !== before[at]);
      });
    })()"""
    assert tab.value(kept) == [False] * 4
    assert tab.value("new Set([...document.querySelectorAll('#edited img')].map(each => each.src)).size") == 4
    tab.picture(tmp_path / "edit.png")
    assert tab.value("document.documentElement.scrollWidth") <= width
    click(tab, "#edited img")
    assert tab.value(erased) == 0
    for task in ("upscale", "stroke"):
        click(tab, f"#{task}")
        tab.wait("['done', 'error'].includes(document.getElementById('edit').dataset.state)")
        assert tab.value("document.getElementById('edit').dataset.state") == "done"
    click(tab, "#inpaint")
    tab.wait("document.getElementById('edit').dataset.state === 'error'")
    error = tab.value("document.getElementById('edit-error').textContent")
    assert error == "row 0: mask: no pixel is white; paint white what is missing (400)"
    assert tab.messages == []
