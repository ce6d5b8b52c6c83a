"""Data sets as the tools of EDM, EDM2 and StyleGAN write them: chunks of images, and dataset.json with the labels."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from scm.data.reading.source import Wanted, open_source
from tests.support.pictures import MAX_PIXELS, in_every_form, make, make_tar, make_zip, picture, read, refused

COUNT = 7
NAMES = [f"{number // 3:05d}/img{number:08d}.png" for number in range(COUNT)]
LABELS = [2, 0, 1, 1, 2, 0, 0]
ENTRIES = [[name, label] for name, label in zip(NAMES, LABELS, strict=True)]


def flat_png(seed):
    """An uncompressed PNG, as the tools write it."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture(seed, (8, 8)))).save(buffer, "PNG", compress_level=0, optimize=False)
    return buffer.getvalue()


IMAGES = {name: flat_png(number) if number % 2 else picture(number, (8, 8)) for number, name in enumerate(NAMES)}


def labelled(content, images=IMAGES):
    """The files of a data set; `content` is the dataset.json, or what it has under "labels"."""
    if not isinstance(content, bytes):
        content = json.dumps({"labels": content}).encode()
    return {**images, "dataset.json": content}


def test_the_labels_of_dataset_json_are_taken_from_every_form(tmp_path):
    for path in in_every_form(tmp_path, labelled(ENTRIES)):
        samples, classes, skipped = read(path)
        assert classes == ["0", "1", "2"] and [label for _, _, label in samples] == LABELS
        for (_, pixels, _), content in zip(samples, IMAGES.values(), strict=True):
            assert np.array_equal(pixels, np.array(Image.open(io.BytesIO(content))))
        assert skipped == [{"file": "dataset.json", "reason": "read for the labels"}]


def test_a_data_set_in_a_folder_of_its_own(tmp_path):
    files = {f"cifar10/{name}": content for name, content in labelled(ENTRIES).items()}
    for path in in_every_form(tmp_path, files):
        assert [label for _, _, label in read(path)[0]] == LABELS


@pytest.mark.parametrize("written", ["{0}", ".\\{0}", "./{0}"])
def test_names_are_matched_as_windows_writes_them_and_in_any_order(tmp_path, written):
    entries = [[written.format(name).replace("/", "\\"), label] for name, label in reversed(ENTRIES)]
    path = make_zip(tmp_path / "a.zip", labelled(entries))
    assert [label for _, _, label in read(path)[0]] == LABELS


def test_without_labels_the_file_is_not_read(tmp_path):
    path = make_zip(tmp_path / "a.zip", labelled(b"{"))
    samples, classes, skipped = read(path, labels=False)
    assert [label for _, _, label in samples] == [-1] * COUNT and classes == []
    assert skipped == [{"file": "dataset.json", "reason": "not an image file"}]


def test_ten_classes_and_more_are_in_the_order_of_their_numbers(tmp_path):
    images = {f"{number}.png": picture(number) for number in range(12)}
    entries = [[name, 11 - number] for number, name in enumerate(images)]
    with open_source(Wanted("folder", make(tmp_path, labelled(entries, images)), True, MAX_PIXELS, "error")) as source:
        assert source.classes == [str(number) for number in range(12)]
        named = {source.file_name(number): label for number, label in enumerate(source.labels)}
    assert named == dict(entries)


def test_a_dataset_json_of_another_kind_leaves_the_class_folders(tmp_path):
    files = {"cat/1.png": picture(1), "dog/1.png": picture(2), "dog/dataset.json": b'{"labels": []}'}
    for content in (b"[]", b'{"name": "pets"}', b"3"):
        samples, classes, skipped = read(make(tmp_path, files | {"dataset.json": content}))
        assert classes == ["cat", "dog"] and len(samples) == 2 and len(skipped) == 2


def changed(position, entry):
    return [*ENTRIES[:position], entry, *ENTRIES[position + 1 :]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "says that there are no labels (null): set data.labels: false"),
        ({"a": 1}, 'has no list of [file, label] under "labels": repair it, or set data.labels: false'),
        (changed(3, [NAMES[3], [0.0, 1.0]]), f"gives {NAMES[3]} a vector as its label, not a class's number: set data"),
        (changed(3, [NAMES[3], True]), f"gives {NAMES[3]} the label true, not a whole number from 0 on: repair it"),
        (changed(3, [NAMES[3], 1.0]), f"gives {NAMES[3]} the label 1.0, not"),
        (changed(3, [NAMES[3], "1"]), f'gives {NAMES[3]} the label "1", not'),
        (changed(3, [NAMES[3], None]), f"gives {NAMES[3]} the label null, not"),
        (changed(3, [NAMES[3], -1]), f"gives {NAMES[3]} the label -1, not"),
        (changed(3, [NAMES[3], {"a": 1}]), f"gives {NAMES[3]} the label of an object, not"),
        (changed(3, [NAMES[3], 2**31]), f"gives {NAMES[3]} the label 2147483648, not"),
        (changed(3, [NAMES[3], 10**4000]), f"gives {NAMES[3]} the label 1{'0' * 39}..., not"),
        (changed(3, [NAMES[3], 2**31 - 1]), "no image has the label 3, but one has 2147483647: count labels from 0"),
        (changed(3, [NAMES[3]]), "has an entry 3 that is no [file, label]: repair it, or set data.labels: false"),
        (changed(3, {"file": NAMES[3], "label": 1}), "has an entry 3 that is no [file, label]"),
        (changed(3, [3, 3]), "has an entry 3 that is no [file, label]"),
        ([*ENTRIES, ENTRIES[4]], f"names {NAMES[4]} twice: remove one of the entries, or set data.labels: false"),
        ([*ENTRIES, [NAMES[4].replace("/", "\\"), 0]], "twice: remove one of the entries"),
        ([*ENTRIES, ["b.png", 0], ["c.png", 0]], "names b.png (and 1 more), which is no image beside it: copy"),
        ([*ENTRIES, ["../x.png", 0]], "names ../x.png, which is no image beside it"),
        (ENTRIES[1:], f"{NAMES[0]}: dataset.json gives it no label: add it, or set data.on_bad_image: skip or data."),
        (b'{"labels": ' + b"[" * 100_000, "is not valid JSON (maximum recursion depth exceeded"),
        (b'{"labels": [["a", ' + b"1" * 5000 + b"]]}", "is not valid JSON (Exceeds the limit"),
        (b'<<<<<<< HEAD\n{"labels": []}\n=======\n', "is not valid JSON (Expecting value: line 1 column 1 (char 0))"),
        (b"", "is not valid JSON (Expecting value"),
        (b"\xff\xff\xff", "is not valid JSON ('utf-8' codec can't decode"),
        (json.dumps({"labels": ENTRIES}).encode()[:-9], "is not valid JSON (Unterminated string"),
        (b" " * (2**20 + 4096 * 9), "has 1,085,440 bytes, too many for 8 files: repair it, or set data.labels: false"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_a_dataset_json_that_does_not_fit_is_refused(tmp_path, content, message):
    assert message in refused(make_zip(tmp_path / "a.zip", labelled(content)))


def test_a_dataset_json_that_is_damaged_or_there_twice_is_refused(tmp_path):
    path = make_zip(tmp_path / "a.zip", labelled(ENTRIES))
    content = path.read_bytes()
    path.write_bytes(content.replace(b'{"labels": [[', b'{"labelz": [['))
    assert "dataset.json cannot be read (Bad CRC-32): copy it again" in refused(path)
    twice = make_tar(tmp_path / "b.tar", labelled(ENTRIES) | {"./dataset.json": b'{"labels": []}'})
    assert "dataset.json is there twice: pack the archive again with one of them" in refused(twice)


def test_images_without_a_label_are_left_out_where_bad_images_are(tmp_path):
    samples, _, skipped = read(make_zip(tmp_path / "a.zip", labelled(ENTRIES[2:])), on_bad_image="skip")
    assert [label for _, _, label in samples] == LABELS[2:]
    assert skipped[1:] == [{"file": name, "reason": "dataset.json gives it no label"} for name in NAMES[:2]]
    none = make_zip(tmp_path / "b.zip", labelled([]))
    assert "dataset.json gives no image a label: set data.labels: false" in refused(none, on_bad_image="skip")


def test_the_chunks_of_a_lost_dataset_json_are_not_taken_for_classes(tmp_path):
    thousands = {f"{number // 1000:05d}/img{number:08d}.png": picture(number) for number in (0, 1, 999, 1000, 2001)}
    for files in (
        thousands,
        {"00000/img00000000.png": picture()},
        {f"x/{name}": data for name, data in thousands.items()},
        {f"{number // 1000 * 1000:05d}/{number:05d}.png": picture(number) for number in (0, 999, 1000, 69999)},
    ):
        path = make_zip(tmp_path / "a.zip", files)
        assert "numbered as EDM's tool does it, but no dataset.json has their labels: put it there" in refused(path)
    other = make_zip(tmp_path / "b.zip", thousands | {"00002/img00000007.png": picture()})
    assert read(other)[1] == ["00000", "00001", "00002"]


def test_latents_are_named(tmp_path):
    files = {"00000/img-mean-std-00000000.npy": b"\x93NUMPY", "dataset.json": b'{"labels": null}'}
    message = refused(make_zip(tmp_path / "a.zip", files))
    assert "00000/img-mean-std-00000000.npy is a latent of EDM2's tool; set data.path to the images" in message


def test_parquet_is_named(tmp_path):
    assert "no images in it: set data.source: parquet" in refused(make(tmp_path, {"data/train-0.parquet": b"PAR1"}))
