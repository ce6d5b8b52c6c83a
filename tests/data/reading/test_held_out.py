"""Images that no training sees: which ones they are, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from scm.data.preparation.ingest import Plan, Workers, assemble, ingest
from scm.data.reading.held_out import divided
from scm.data.reading.source import ImageSource
from scm.data.shards.shards import HELD_OUT, INDEX, held_out_of, iterate, read_index
from scm.errors import UserError

COUNT, LAST = 1200, 1199
PLAN = Plan(4, 1, "skip", 500)


def source(names, labels=None) -> ImageSource:
    """Images whose four first pixels tell their number."""

    def load(number: int) -> Image.Image:
        if names[number] == f"{LAST}.png":
            raise OSError("cut")
        pixels = np.zeros((4, 4), dtype=np.uint8)
        pixels[0] = list(int(names[number][:-4]).to_bytes(4, "big"))
        return Image.fromarray(pixels)

    labels = [number % 2 for number in range(len(names))] if labels is None else labels
    return ImageSource("things", ["even", "odd"], labels, names.__getitem__, load)


def names(count=COUNT):
    return [f"{number}.png" for number in range(count)]


def test_sides_are_disjoint_and_leave_nothing_out():
    whole = source(names())
    training, held_out = divided(whole, 0.25)
    assert held_out is not None
    assert len(training) + len(held_out) == COUNT and len(held_out) == pytest.approx(0.25 * COUNT, abs=50)
    found = [side.file_name(number) for side in (training, held_out) for number in range(len(side))]
    assert sorted(found) == sorted(names())
    for side in (training, held_out):
        numbers = [int(side.file_name(number)[:-4]) for number in range(len(side))]
        assert numbers == sorted(numbers) and [number % 2 for number in numbers] == list(side.labels)


def test_images_that_are_added_move_none_to_the_other_side():
    def held(listed):
        _, held_out = divided(source(listed), 0.25)
        assert held_out is not None
        return {held_out.file_name(number) for number in range(len(held_out))}

    assert (
        held(names()[::-1])
        == held(names())
        == held([*names(), *(f"{number}.jpg" for number in range(900))]) & set(names())
    )


def test_without_a_share_the_source_is_what_it_was():
    whole = source(names())
    assert divided(whole, 0.0) == (whole, None)


@pytest.mark.parametrize(
    ("images", "labels", "share", "problem"),
    [
        (300, None, 0.1, r"leaves \d\d images held out and 2\d\d to train on, and either needs at least 100"),
        (300, None, 0.9, r"leaves 2\d\d images held out and \d\d to train on, and either needs at least 100"),
        (1200, [0] * 1199 + [1], 0.25, "leaves no image of the class odd held out"),
    ],
)
def test_sides_that_would_tell_nothing_are_refused(images, labels, share, problem):
    with pytest.raises(UserError, match=rf"^things: data\.held_out = {share} {problem}: add images, choose another sh"):
        divided(source(names(images), labels), share)


def prepared(folder, share):
    whole = source(names())
    training, held_out = divided(whole, share)
    ingest(training, PLAN, folder / "work", Workers(2), lambda line: None)
    if held_out is not None:
        ingest(held_out, PLAN, folder / "work" / HELD_OUT, Workers(2), lambda line: None)
    return assemble(training, PLAN, folder / "work", folder / "out", held_out)


def numbers_of(folder):
    return {int.from_bytes(bytes(pixels[0, :, 0]), "big") for _, pixels, _ in iterate(folder)}


def test_held_out_images_lie_in_a_folder_of_their_own(tmp_path):
    index, tally = prepared(tmp_path, 0.25)
    held_out = held_out_of(tmp_path / "out")
    assert held_out is not None and held_out == tmp_path / "out/held_out"
    seen, unseen = numbers_of(tmp_path / "out"), numbers_of(held_out)
    assert not seen & unseen and seen | unseen == set(range(LAST))
    assert (index["count"], read_index(held_out)["count"]) == (len(seen), len(unseen))
    assert sum(index["class_counts"]) == len(seen), "classes are counted among the images that train"
    assert dict(tally.short_sides) == {4: LAST} and next(iter(tally.skipped))["file"] == f"{LAST}.png"


def test_a_held_out_folder_that_is_not_the_one_that_was_written_is_refused(tmp_path):
    prepared(tmp_path, 0.25)
    file = tmp_path / "out" / HELD_OUT / INDEX
    file.write_text(file.read_text().replace('"even"', '"evil"'))
    with pytest.raises(UserError, match=r"held_out/index.json is not what was written \(its SHA-256 differs\): "):
        held_out_of(tmp_path / "out")
    file.unlink()
    with pytest.raises(UserError, match=r"held_out/index.json is missing: run `dvc pull`"):
        held_out_of(tmp_path / "out")


def test_nothing_is_held_out_of_shards_without_it(tmp_path):
    prepared(tmp_path, 0.0)
    assert held_out_of(tmp_path / "out") is None and not (tmp_path / "out" / HELD_OUT).exists()
    assert HELD_OUT not in read_index(tmp_path / "out")
