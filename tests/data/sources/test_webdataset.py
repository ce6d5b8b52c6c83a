"""Other people's WebDataset shards as a source."""

import io
import json
import tarfile

import numpy as np
import pytest
import webdataset
from PIL import Image

from scm.data.shards.shards import read_index
from tests.support.pictures import GOOD, make, make_tar, picture, prepare, read, refused


def web(path, **settings):
    return read(path, source="webdataset", **settings)


def web_refused(path, **settings):
    return refused(path, source="webdataset", **settings)


def exact(content):
    """What Pillow makes of an 8x8 image, which nothing has to crop."""
    return np.array(Image.open(io.BytesIO(content)).convert("RGB"))


PICTURES = [picture(seed, (8, 8), suffix=suffix) for seed, suffix in enumerate(("PNG", "JPEG", "WEBP", "PNG", "JPEG"))]
SUFFIXES = ("png", "jpg", "webp", "PNG", "jpeg")


def sample(number, label):
    """<key>.<suffix> and its label, a .cls for even numbers, a .json for odd ones."""
    files = {f"{number:03d}.{SUFFIXES[number]}": PICTURES[number]}
    if number % 2:
        return files | {f"{number:03d}.json": json.dumps({"label": label, "caption": "a thing"}).encode()}
    return files | {f"{number:03d}.cls": str(label).encode()}


LABELS = [1, 0, 2, 1, 0]
SHARDS = {"b.tar": range(3, 5), "a.tar": range(3)}


def shards(folder):
    """Five samples in two shards, written in another order than their names'."""
    folder.mkdir()
    for name, numbers in SHARDS.items():
        make_tar(folder / name, {k: v for number in numbers for k, v in sample(number, LABELS[number]).items()})
    return folder


def test_every_kind_of_image_and_of_label_in_the_order_of_the_shards(tmp_path):
    samples, classes, skipped = web(shards(tmp_path / "x"))
    assert classes == ["0", "1", "2"] and skipped == [] and [label for _, _, label in samples] == LABELS
    for content, (_, pixels, _) in zip(PICTURES, samples, strict=True):
        assert np.array_equal(pixels, exact(content))


def test_shards_written_by_the_library_itself(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as writer:  # type: ignore[attr-defined]
        for number, label in enumerate(LABELS):
            writer.write({"__key__": f"train/{number}", "png": exact(PICTURES[number]), "cls": label})
    samples, classes, _ = web(tmp_path / "x.tar")
    assert classes == ["0", "1", "2"] and [label for _, _, label in samples] == LABELS
    assert all(np.array_equal(pixels, exact(PICTURES[number])) for number, (_, pixels, _) in enumerate(samples))


def test_one_tar_alone(tmp_path):
    shards(tmp_path / "x")
    assert [label for _, _, label in web(tmp_path / "x/a.tar")[0]] == LABELS[:3]


def test_names_of_classes_from_a_file_or_from_the_json(tmp_path):
    folder = shards(tmp_path / "x")
    (folder / "classes.txt").write_text("cat\ndog\nPerückenstrauch\nunused\n\n", encoding="utf-8")
    message = web_refused(folder)
    assert "no sample has the label 3, which classes.txt calls unused: remove the names of classes" in message
    (folder / "classes.txt").write_text("cat\ndog\nPerückenstrauch\n", encoding="utf-8")
    assert web(folder)[1] == ["cat", "dog", "Perückenstrauch"]
    (folder / "classes.txt").write_text("cat\ncat\ndog\n")
    assert "has an empty line or a name twice" in web_refused(folder)
    (folder / "classes.txt").write_text("cat\ndog\n")
    message = web_refused(folder)
    assert "002.webp has the label 2, but there are 2 classes, 0 to 1" in message
    named = {
        **{"1.png": PICTURES[0], "1.json": b'{"cls": 0, "class_name": "owl"}'},
        **{"2.png": PICTURES[3], "2.json": b'{"cls": 1}'},
    }
    assert web(make_tar(tmp_path / "n.tar", named))[1] == ["owl", "1"]
    clash = named | {"3.png": PICTURES[0], "3.json": b'{"cls": 0, "class_name": "bat"}'}
    assert "the label 0 is called owl and bat: choose one" in web_refused(make_tar(tmp_path / "c.tar", clash))


def test_without_labels_none_is_needed(tmp_path):
    path = make_tar(tmp_path / "x.tar", {"1.png": PICTURES[0], "2.jpg": PICTURES[1], "2.txt": b"a cat"})
    samples, classes, _ = web(path, labels=False)
    assert classes == [] and [label for _, _, label in samples] == [-1, -1]


@pytest.mark.parametrize(
    ("files", "file", "reason"),
    [
        ({"1.png": PICTURES[0]}, "1.png", "an image without a label"),
        ({"1.cls": b"0"}, "1.cls", "a label without an image"),
        ({"1.png": PICTURES[0], "1.cls": b"-1"}, "1.cls", "no whole number from 0 on"),
        ({"1.png": PICTURES[0], "1.cls": b"cat"}, "1.cls", "no whole number from 0 on"),
        ({"1.png": PICTURES[0], "1.cls": b"1.5"}, "1.cls", "no whole number from 0 on"),
        ({"1.png": PICTURES[0], "1.cls": b"99999999999"}, "1.cls", "no whole number from 0 on"),
        ({"1.png": PICTURES[0], "1.cls": "٣".encode()}, "1.cls", "no whole number from 0 on"),
        ({"1.png": PICTURES[0], "1.json": b'{"label": true}'}, "1.json", 'no whole number from 0 on under "label"'),
        ({"1.png": PICTURES[0], "1.json": b"[" * 99_999}, "1.json", 'no whole number from 0 on under "label"'),
        ({"1.png": b"broken", "1.cls": b"0"}, "1.png", "not a readable image"),
        ({"1.png": b"", "1.cls": b"0"}, "1.png", "the file is empty"),
    ],
)
def test_an_unusable_sample_is_named_or_left_out(tmp_path, files, file, reason):
    good = {k: v for number in range(3) for k, v in sample(number, LABELS[number]).items()}
    path = make_tar(tmp_path / "x.tar", good | {f"cat/{name}": content for name, content in files.items()})
    message = web_refused(path)
    assert f"cat/{file}: {reason}" in message and message.endswith("or set data.on_bad_image: skip")
    samples, _, skipped = web(path, on_bad_image="skip")
    assert len(samples) == 3 and [entry["file"] for entry in skipped] == [f"x.tar/cat/{file}"]
    assert skipped[0]["reason"].startswith(reason)


def test_labels_count_from_zero_without_gaps(tmp_path):
    path = make_tar(tmp_path / "x.tar", sample(0, 0) | sample(1, 2))
    assert "no sample has the label 1, but one has 2: count labels from 0 without gaps" in web_refused(path)


def test_two_labels_of_one_name_are_refused(tmp_path):
    files = {"1.png": PICTURES[0], "1.json": b'{"cls": 0, "class_name": "owl"}'}
    files |= {"2.png": PICTURES[3], "2.json": b'{"cls": 1, "class_name": "owl"}'}
    assert "two labels have one class_name" in web_refused(make_tar(tmp_path / "x.tar", files))


def test_a_key_twice_in_a_row_is_refused(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, content in (("1.png", PICTURES[0]), ("1.cls", b"0"), ("1.png", PICTURES[3])):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert "1.png is there twice: write the shard again" in web_refused(tmp_path / "x.tar")


def test_a_damaged_shard_is_named(tmp_path):
    folder = shards(tmp_path / "x")
    content = (folder / "a.tar").read_bytes()
    (folder / "a.tar").write_bytes(content[:700])
    assert f"{folder / 'a.tar'} cannot be read as an archive" in web_refused(folder)


def test_nothing_to_read_is_named(tmp_path):
    assert "does not exist: set data.path to a folder of shards" in web_refused(tmp_path / "nowhere")
    assert "no .tar in it" in web_refused(make(tmp_path / "x", GOOD))
    assert "is no folder and no .tar" in web_refused(make(tmp_path / "y", {"x.zip": b"-"}) / "x.zip")
    assert "no images in its shards" in web_refused(make_tar(tmp_path / "x.tar", {"1.txt": b"-"}))


def test_own_shards_come_back_with_their_names_and_are_compared_with_their_index(tmp_path):
    prepare(tmp_path, make(tmp_path / "images", GOOD))
    own = tmp_path / "out"
    before = read(tmp_path / "images")
    after = web(own)
    assert after[1] == before[1] == ["cat", "dog"] and len(after[0]) == 3
    for (_, pixels, label), (_, expected, expected_label) in zip(after[0], before[0], strict=True):
        assert label == expected_label and np.array_equal(pixels, expected)
    shard = own / read_index(own)["shards"][0]["file"]
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.write_bytes(content)
    assert "is not what was written (its SHA-256 differs)" in web_refused(own)
    shard.unlink()
    assert f"{shard} is missing" in web_refused(own)
