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
        ({"1.png": PICTURES[0], "1.cls": b"1_0"}, "1.cls", "no whole number from 0 on"),
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


@pytest.mark.parametrize("labels", [True, False])
def test_a_sample_that_was_appended_again_is_refused(tmp_path, labels):
    path = make_tar(tmp_path / "x.tar", sample(0, 0) | sample(2, 1))
    with tarfile.open(path, "a") as archive:
        for name, content in sample(0, 1).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert "000.png is there twice: write the shard again" in web_refused(path, labels=labels)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_in_a_shard_is_named_or_left_out(tmp_path, kind):
    path = make_tar(tmp_path / "x.tar", {"1.png": PICTURES[0]}, {"2.png": (kind, "1.png")})
    assert "2.png: a link: pack the file itself, or set data.on_bad_image: skip" in web_refused(path, labels=False)
    samples, _, skipped = web(path, labels=False, on_bad_image="skip")
    assert len(samples) == 1 and skipped == [{"file": "x.tar/2.png", "reason": "a link"}]


def test_images_of_which_none_has_a_label_are_said_to_have_none(tmp_path):
    for name, label in (("1.json", b'{"caption": "a cat"}'), ("1.txt", b"a cat")):
        path = make_tar(tmp_path / "x.tar", {"1.jpg": PICTURES[1], name: label})
        message = web_refused(path, on_bad_image="skip")
        assert message.endswith("no image in its shards has a label: add the .cls files, or set data.labels: false")


def test_a_damaged_shard_is_named(tmp_path):
    folder = shards(tmp_path / "x")
    content = (folder / "a.tar").read_bytes()
    (folder / "a.tar").write_bytes(content[:700])
    assert f"{folder / 'a.tar'} cannot be read as an archive" in web_refused(folder)


def test_nothing_to_read_is_named(tmp_path):
    assert "does not exist: set data.path to a folder of shards" in web_refused(tmp_path / "nowhere")
    assert "no .tar in it" in web_refused(make(tmp_path / "x", GOOD))
    assert "is no folder and no .tar" in web_refused(make(tmp_path / "y", {"x.zip": b"-"}) / "x.zip")
    assert "no images in its shards: each needs a file ending in .jpg" in web_refused(
        make_tar(tmp_path / "x.tar", {"1.txt": b"-"})
    )


def pairs(files):
    """Named files with the numbers of PICTURES and labels as their contents."""
    return {
        name: PICTURES[content] if name.lower().endswith((".png", ".jpg")) else str(content).encode()
        for name, content in files.items()
    }


@pytest.mark.parametrize(
    ("files", "taken", "noted"),
    [
        ({"a.v2.1.png": 0, "a.v2.1.cls": 1, "a.v2.2.png": 3, "a.v2.2.cls": 0}, [(0, 1), (3, 0)], {}),
        ({"a.1.cls": 1, "a.2.cls": 0, "a.1.png": 0, "a.2.png": 3}, [(0, 1), (3, 0)], {}),
        ({"x.input.png": 0, "x.output.cls": 1, "y.input.png": 3, "y.output.cls": 0}, [(0, 1), (3, 0)], {}),
        ({"a.1.in.png": 0, "a.1.out.cls": 1, "a.2.in.png": 3, "a.2.out.cls": 0}, [(0, 1), (3, 0)], {}),
        ({"x.PNG": 0, "x.CLS": 1, "y.Png": 3, "y.cls": 0}, [(0, 1), (3, 0)], {}),
        ({"x.png": 0, "x.output.cls": 1, "y.input.png": 3, "y.cls": 0}, [(0, 1), (3, 0)], {}),
        (
            {"x.png": 0, "x.cls": 1, "x.mask.png": 3, "x.meta.json": 7, "x.txt": 7, "y.png": 3, "y.cls": 0},
            [(0, 1), (3, 0)],
            {"x.mask.png": "a further image", "x.meta.json": "neither", "x.txt": "neither"},
        ),
        ({"x.jpg": 1, "x.png": 0, "x.cls": 0}, [(1, 0)], {"x.png": "a further image"}),
        ({"x.png": 0, "x.json": 7, "x.cls": 0}, [(0, 0)], {"x.json": "neither an image nor the label"}),
        ({"x.png": 0, "x.cls": 0, "._x.png": 1, "z.npy": 7}, [(0, 0)], {"._x.png": "hidden", "z.npy": "neither"}),
    ],
)
def test_every_file_is_part_of_a_sample_or_noted(tmp_path, files, taken, noted):
    samples, _, skipped = web(make_tar(tmp_path / "x.tar", pairs(files)))
    assert [label for _, _, label in samples] == [label for _, label in taken]
    for (number, _), (_, pixels, _) in zip(taken, samples, strict=True):
        assert np.array_equal(pixels, exact(PICTURES[number]))
    assert {entry["file"] for entry in skipped} == {f"x.tar/{name}" for name in noted}
    for entry in skipped:
        assert entry["reason"].startswith(noted[entry["file"].removeprefix("x.tar/")])


@pytest.mark.parametrize(
    ("files", "lost"),
    [
        ({"a.v2.1.png": 0, "a.v2.1.cls": 1, "a.v2.2.png": 3}, ["a.v2.2.png"]),
        ({"a.v2.1.png": 0, "a.v2.1.cls": 1, "a.v2.2.cls": 0}, ["a.v2.2.cls"]),
        ({"a.1.png": 0, "a.1.cls": 1, "a.2.png": 3, "a.3.cls": 0}, ["a.2.png", "a.3.cls"]),
        ({"x.left.png": 0, "x.right.png": 3, "x.cls": 1}, ["x.left.png", "x.right.png", "x.cls"]),
        ({"x.png": 0, "x.a.cls": 1, "x.b.cls": 0}, ["x.png", "x.a.cls", "x.b.cls"]),
    ],
)
def test_half_a_sample_is_named_or_left_out(tmp_path, files, lost):
    good = {"0.png": PICTURES[0], "0.cls": b"0", "1.png": PICTURES[3], "1.cls": b"1"}
    path = make_tar(tmp_path / "x.tar", good | pairs(files))
    message = web_refused(path)
    assert f"{path}: {lost[0]}: an image without a label" in message or "a label without an image" in message
    samples, _, skipped = web(path, on_bad_image="skip")
    assert [entry["file"] for entry in skipped] == [f"x.tar/{name}" for name in lost]
    assert 2 + len(files) == len(samples) + len(lost) + sum(name.endswith("cls") for name in files) - sum(
        name.endswith("cls") for name in lost
    )


def test_without_labels_all_images_of_a_key_are_taken_unless_one_has_the_keys_name(tmp_path):
    files = pairs({"a.v2.1.png": 0, "a.v2.2.png": 3, "x.png": 0, "x.mask.png": 3, "x.cls": 0})
    samples, _, skipped = web(make_tar(tmp_path / "x.tar", files), labels=False)
    assert len(samples) == 3
    assert skipped == [{"file": "x.tar/x.mask.png", "reason": "a further image of its sample"}]


def test_an_image_without_a_pictures_suffix_is_known_by_its_first_bytes(tmp_path):
    files = {"x.img": PICTURES[0], "x.cls": b"0", "y": PICTURES[3], "y.cls": b"1", "z.jfif": PICTURES[1], "z.cls": b"0"}
    assert [label for _, _, label in web(make_tar(tmp_path / "x.tar", files))[0]] == [0, 1, 0]


def test_shards_in_sub_folders_and_packed_ones(tmp_path):
    folder = tmp_path / "x"
    names = ["0.tar", "1.tar.gz", "2.TGZ", "more/3.tar", "more/deep/4.tar.gz"]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        made = make_tar(folder / name.lower(), sample(number, LABELS[number]))
        made.rename(folder / name)
    make_tar(folder / "5.tar", {})
    make(folder, {"README.md": b"-", "more/.cache": b"-", "classes.txt": b"cat\ndog\nowl\n"})
    samples, classes, skipped = web(folder)
    assert [label for _, _, label in samples] == LABELS and classes == ["cat", "dog", "owl"]
    for content, (_, pixels, _) in zip(PICTURES, samples, strict=True):
        assert np.array_equal(pixels, exact(content))
    assert {entry["file"]: entry["reason"] for entry in skipped} == {
        "README.md": "not a shard", "more/.cache": "hidden, or left there by a system", "5.tar": "an empty shard",
    }  # fmt: skip


def test_train_beside_val_is_refused(tmp_path):
    for name in ("train/0.tar", "val/0.tar"):
        (tmp_path / name).parent.mkdir()
        make_tar(tmp_path / name, sample(0, 0))
    message = web_refused(tmp_path)
    assert "shards lie in 'train' and 'val'" in message and message.endswith(f"set data.path to {tmp_path / 'train'}")
    assert len(web(tmp_path / "train")[0]) == 1


def test_a_shard_that_is_missing_by_the_names_of_the_others_is_named(tmp_path):
    for number in (0, 2):
        make_tar(tmp_path / f"train-{number:05d}-of-00003.tar", sample(number, 0))
    assert "train-00001-of-00003 is missing, by the names of the others" in web_refused(tmp_path)
    make_tar(tmp_path / "train-00001-of-00003.tar", sample(1, 0))
    assert len(web(tmp_path)[0]) == 3


@pytest.mark.parametrize(
    "names",
    [
        ("train-000.tar", "val-000.tar"),
        ("imagenet1k-train-0000.tar", "imagenet1k-validation-00.tar"),
        ("pets/v1/train/0.tar", "pets/v1/val/0.tar"),
    ],
)
def test_splits_in_the_names_of_shards_are_not_mixed(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        make_tar(tmp_path / name, sample(0, 0))
    message = web_refused(tmp_path)
    assert "holds the splits train, val" in message and message.endswith("move the files of all but one away")
    (tmp_path / names[1]).rename(tmp_path / names[0].replace("0.tar", "1.tar"))
    assert len(web(tmp_path)[0]) == 2


def test_a_shard_of_no_bytes_is_refused(tmp_path):
    folder = shards(tmp_path / "x")
    (folder / "c.tar").write_bytes(b"")
    assert f"{folder / 'c.tar'} cannot be read as an archive (the archive is cut off" in web_refused(folder)


def test_a_class_file_in_another_encoding_is_refused(tmp_path):
    folder = shards(tmp_path / "x")
    (folder / "classes.txt").write_bytes("cat\ndog\nPer\xfccke\n".encode("latin-1"))
    assert "classes.txt is not in UTF-8" in web_refused(folder)


@pytest.mark.parametrize("name", ["\\ud800", "a\\u001b[31m", "a\\nb", " ", ""])
def test_a_class_name_that_is_no_printable_text_is_refused(tmp_path, name):
    files = {"1.png": PICTURES[0], "1.json": f'{{"label": 0, "class_name": "{name}"}}'.encode()}
    assert "no valid text without control characters" in web_refused(make_tar(tmp_path / "x.tar", files))


def test_an_index_of_another_program_is_named(tmp_path):
    path = make(shards(tmp_path / "x"), {"index.json": b'{"__kind__": "wids-shard-index-v1", "shardlist": []}'})
    message = web_refused(path)
    assert message.startswith(str(path / "index.json"))
    assert message.endswith("or move index.json away if another program wrote it")


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
