"""What the stage prepare tells people: what became of each file, and colours that the parameters do not go with."""

import json

import pytest
from PIL import Image

from scm.data.preparation.ingest import Tally
from scm.data.preparation.summary import account, colour_advice, summary, write_skipped
from scm.data.reading.skipped import Skipped
from tests.support.pictures import make, picture, prepare

GREY, COLOUR = picture(1, mode="L"), picture(2)


def told(tmp_path, files, channels):
    """The advice, and the number of images that are in colour."""
    index, tally = prepare(tmp_path, make(tmp_path / "in", files), labels=False, channels=channels)
    return colour_advice(index, tally), summary(index, tally)["in_colour"]


def test_colours_that_the_parameters_do_not_go_with_are_said(tmp_path):
    grey_in_three = picture(1, mode="L")
    three = Image.new("RGB", (9, 9), (7, 7, 7))
    three.save(tmp_path / "three.png")
    grey = {"1.png": grey_in_three, "2.png": (tmp_path / "three.png").read_bytes(), "3.png": picture(3, mode="LA")}
    advice = "all 3 images are grey, but data.channels is 3: write 1, unless three equal channels are wanted"
    assert told(tmp_path / "a", grey, 3) == (advice, 0)
    assert told(tmp_path / "b", grey, 1) == (None, 0)
    assert told(tmp_path / "c", grey | {"4.png": COLOUR}, 3) == (None, 1)
    advice = "1 of 4 images are in colour, of which data.channels: 1 keeps the brightness alone"
    assert told(tmp_path / "d", grey | {"4.png": COLOUR}, 1) == (advice, 1)


@pytest.mark.parametrize(("mode", "coloured"), [("P", 1), ("1", 0), ("RGBA", 1), ("I;16", 0)])
def test_any_mode_of_pixels_shows_if_it_is_grey(tmp_path, mode, coloured):
    image = Image.new("I;16", (12, 10), 700) if mode == "I;16" else Image.new("RGB", (12, 10), "red").convert(mode)
    image.save(tmp_path / "1.png")
    content = (tmp_path / "1.png").read_bytes()
    assert told(tmp_path / "x", {"1.png": content}, 1)[1] == told(tmp_path / "y", {"1.png": content}, 3)[1] == coloured


def test_files_that_are_no_images_leave_no_trace_in_the_shards(tmp_path):
    files = {"cat/1.png": GREY, "dog/1.png": COLOUR}
    strays = {"README.txt": b"-", "cat/notes.json": b"{}", "dog/more/index.html": b"-"}
    made = []
    for name, content in (("plain", files), ("strays", files | strays)):
        index, tally = prepare(tmp_path / name, make(tmp_path / name / "in", content))
        made.append({path.name: path.read_bytes() for path in (tmp_path / name / "out").iterdir()})
        counts = f"{len(content)} files: 2 images taken, in 1 shards; {len(content) - 2} left out"
        assert account(index, tally).startswith(counts) and len(tally.skipped) == len(content) - 2
    assert made[0] == made[1]


def test_the_line_that_accounts_for_all_files_stays_short(tmp_path):
    skipped = Skipped({"file": f"{number}", "reason": f"broken ({number // 2})"} for number in range(29))
    line = account({"count": 1000, "shards": [{}] * 3}, Tally(skipped=skipped))
    assert line == (
        "1,029 files: 1,000 images taken, in 3 shards; 29 left out (2 x broken (0); 2 x broken (1); 2 x broken (2); "
        "2 x broken (3); 2 x broken (4); 10 more reasons)"
    )
    write_skipped(skipped, tmp_path / "skipped.jsonl")
    lines = (tmp_path / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == list(skipped)
