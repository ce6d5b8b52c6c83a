"""CIFAR-10 and ImageNet in the forms in which they are published, made small, with pixels that the test chooses."""

import hashlib
import io
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from scm.data.sources import cifar10
from tests.support.pictures import make, make_tar, picture, read, refused
from tests.support.published import COUNT, NAMES, batches, binary_form, cifar, python2, python_form, tar, tar_of


def folder_form():
    """The set as PNG files in class folders, numbered within their class."""
    files = {}
    for number, (pixels, label) in enumerate(zip(*cifar(), strict=True)):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        files[f"{NAMES[label]}/{number:05d}.png"] = buffer.getvalue()
    return files


def assert_is_cifar(samples, classes, order):
    pixels, labels = cifar()
    assert classes == NAMES and [label for _, _, label in samples] == [labels[number] for number in order]
    assert np.array_equal(np.stack([image for _, image, _ in samples]), pixels[order])


@pytest.mark.parametrize("form", [python_form, binary_form])
def test_cifar_10_python_and_binary(tmp_path, form):
    paths = (
        make_tar(tmp_path / "set.tar.gz", form()),
        make_tar(tmp_path / "set.tar", form()),
        make(tmp_path / "set", form()) / next(iter(form())).split("/")[0],
    )
    for path in paths:
        samples, classes, skipped = read(path, source="cifar10", resolution=32)
        assert_is_cifar(samples, classes, range(COUNT))
        assert [entry["file"].split("/")[-1] for entry in skipped] == ["readme.html"]
        assert skipped[0]["reason"] == "no batch of training images" and len({key for key, _, _ in samples}) == COUNT


def test_cifar_10_in_arrays_that_are_stored_by_columns(tmp_path):
    _, rows, labels = next(batches())
    files = python_form() | batch(data=np.asfortranarray(rows), labels=labels)
    samples, classes, _ = read(make(tmp_path / "x", files), source="cifar10", resolution=32)
    assert_is_cifar(samples, classes, range(COUNT))


def test_cifar_10_as_image_folders(tmp_path):
    samples, classes, _ = read(make(tmp_path / "x", folder_form()), source="folder", resolution=32)
    labels = cifar()[1]
    assert_is_cifar(samples, classes, sorted(range(COUNT), key=lambda number: (labels[number], number)))


def test_cifar_10_without_labels(tmp_path):
    samples, classes, _ = read(make(tmp_path / "x", binary_form()), source="cifar10", labels=False, resolution=32)
    assert classes == [] and {label for _, _, label in samples} == {-1}


def test_numpy_reads_the_python_form_of_this_test_alike():
    """The test's own files are what pickle takes for Python 2's, so that the two readers are compared on real ones."""
    for number, rows, labels in batches():
        content = pickle.loads(python_form()[f"cifar-10-batches-py/data_batch_{number}"], encoding="bytes")
        assert np.array_equal(content[b"data"], rows) and content[b"labels"] == labels


@pytest.mark.parametrize("name", sorted(cifar10.MD5))
def test_an_archive_under_the_published_name_must_be_the_published_one(tmp_path, monkeypatch, name):
    path = make_tar(tmp_path / name, python_form())
    found = hashlib.md5(path.read_bytes()).hexdigest()
    message = refused(path, source="cifar10")
    assert f"is not the published archive (its MD5 is {found}, not {cifar10.MD5[name]}): download it again" in message
    monkeypatch.setitem(cifar10.MD5, name, found)
    assert len(read(path, source="cifar10")[0]) == COUNT


class Runs:
    """Pickled, it asks whoever unpickles it to run a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("where", ["data_batch_3", "batches.meta"])
def test_nothing_in_the_python_form_is_run(tmp_path, where):
    mark = tmp_path / "was run"
    content = pickle.dumps({"data": Runs(mark), "labels": [0], "label_names": NAMES}, protocol=2)
    path = make(tmp_path / "x", python_form() | {f"cifar-10-batches-py/{where}": content})
    message = refused(path, source="cifar10")
    assert f"{where} is not pickled as CIFAR-10 is (nothing of it was run)" in message and not mark.exists()
    pickle.loads(content)
    assert mark.exists()  # the file does what it is meant to


def batch(**changes):
    _, rows, labels = next(batches())
    return {"cifar-10-batches-py/data_batch_1": python2({"data": rows, "labels": labels} | changes)}


def binary(content):
    return {"cifar-10-batches-bin/data_batch_1.bin": content}


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        (python_form, batch(labels=[0, 1, 10, 2]), "data_batch_1: image 2 has the label 10, not one of 0 to 9"),
        (python_form, batch(labels=[0, 1, -1, 2]), "data_batch_1: image 2 has the label -1, not one of 0 to 9"),
        (python_form, batch(labels=[0, 1, 2]), "data_batch_1 does not hold a label for each image"),
        (python_form, batch(labels="0123"), "data_batch_1 does not hold a label for each image"),
        (python_form, batch(data=np.zeros((4, 3071), np.uint8)), "data_batch_1 holds no rows of 3,072 bytes"),
        (python_form, batch(data=np.zeros((4, 3072), np.float32)), "data_batch_1 holds no rows of 3,072 bytes"),
        (python_form, batch(data=np.zeros((0, 3072), np.uint8), labels=[]), "data_batch_1 holds no images"),
        (python_form, {"cifar-10-batches-py/data_batch_1": b"\x80\x02}"}, "data_batch_1 is not pickled as CIFAR-10 is"),
        (python_form, {"cifar-10-batches-py/batches.meta": python2({})}, "batches.meta does not name 10 classes"),
        (binary_form, binary(bytes(3072)), "data_batch_1.bin has 3,072 bytes, no multiple of 3,073"),
        (binary_form, binary(bytes([10]) + bytes(3072)), "data_batch_1.bin: image 0 has the label 10, not one of 0"),
        (binary_form, binary(b""), "data_batch_1.bin holds no images"),
        (binary_form, {"cifar-10-batches-bin/batches.meta.txt": b"cat\n"}, "batches.meta.txt does not name 10 classes"),
    ],
)
def test_a_damaged_cifar_10_is_named(tmp_path, form, change, message):
    assert message in refused(make(tmp_path / "x", form() | change), source="cifar10")


@pytest.mark.parametrize("missing", ["data_batch_4", "batches.meta"])
def test_a_cifar_10_that_is_not_whole_is_named(tmp_path, missing):
    files = {name: content for name, content in python_form().items() if not name.endswith(missing)}
    assert f"has no {missing}: download the archive again" in refused(make(tmp_path / "x", files), source="cifar10")


@pytest.mark.parametrize(
    ("form", "change", "name"),
    [
        (binary_form, {"cifar-10-batches-bin/data_batch_3.bin": bytes(3 * 3073)}, "data_batch_3.bin"),
        (python_form, batch(data=np.zeros((3, 3072), np.uint8), labels=[0, 1, 2]), "data_batch_1"),
    ],
)
def test_a_cifar_10_batch_that_ends_between_two_images_is_named(tmp_path, form, change, name):
    message = refused(make(tmp_path / "x", form() | change), source="cifar10")
    assert f"{name} has fewer images than another batch, and all have as many: download the archive again" in message


def test_a_cifar_10_that_is_there_twice_is_refused(tmp_path):
    make(tmp_path / "x", binary_form())
    make(tmp_path / "x/copy", binary_form())
    assert "has batches.meta.txt twice: set data.path to" in refused(tmp_path / "x", source="cifar10")


def test_another_folder_is_no_cifar_10(tmp_path):
    assert "has no data_batch_1 or data_batch_1.bin" in refused(make(tmp_path / "x", folder_form()), source="cifar10")


PHOTOS = {
    "n01443537": {"n01443537_20.JPEG": picture(1, (40, 32), suffix="JPEG"), "n01443537_3.JPEG": picture(2, (32, 32))},
    "n01440764": {"n01440764_7.JPEG": picture(3, (32, 50), suffix="JPEG")},
    "n15075141": {"n15075141_1.JPEG": picture(4, (90, 90), mode="CMYK", suffix="JPEG")},
}
"""In another order than the classes'. One is a PNG by the name of a JPEG, one is CMYK, as in the published set."""


def imagenet(path, photos):
    path.write_bytes(tar({f"{wnid}.tar": tar(files) for wnid, files in photos.items()}))
    return path


def test_imagenet_is_read_from_a_tar_of_tars(tmp_path):
    path = imagenet(tmp_path / "train.tar", PHOTOS)
    samples, classes, skipped = read(path, source="imagenet", max_pixels=10_000, resolution=32)
    assert classes == sorted(PHOTOS) and skipped == []
    assert [label for _, _, label in samples] == [0, 1, 1, 2]
    square = np.array(Image.open(io.BytesIO(PHOTOS["n01443537"]["n01443537_3.JPEG"])))
    assert np.array_equal(samples[2][1], square)
    wide = np.array(Image.open(io.BytesIO(PHOTOS["n01443537"]["n01443537_20.JPEG"])))
    assert np.array_equal(samples[1][1], wide[:, 4:36])


def test_imagenet_as_class_folders_gives_the_same_samples(tmp_path):
    files = {f"{wnid}/{name}": content for wnid, photos in PHOTOS.items() for name, content in photos.items()}
    folder = read(make(tmp_path / "train", files), max_pixels=10_000, resolution=32)
    archive = read(imagenet(tmp_path / "t.tar", PHOTOS), source="imagenet", max_pixels=10_000, resolution=32)
    assert folder[1] == archive[1] and len(folder[0]) == 4
    for (key, pixels, label), (other_key, other_pixels, other_label) in zip(folder[0], archive[0], strict=True):
        assert (key, label) == (other_key, other_label) and np.array_equal(pixels, other_pixels)


def test_what_is_no_photograph_in_imagenet_is_noted(tmp_path):
    path = imagenet(tmp_path / "t.tar", PHOTOS | {"n01440764": PHOTOS["n01440764"] | {"notes.txt": b"-"}})
    samples, _, skipped = read(path, source="imagenet", max_pixels=10_000)
    assert len(samples) == 4 and skipped == [{"file": "n01440764.tar/notes.txt", "reason": "not an image file"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tar({"cat/1.JPEG": picture()}), "the member cat/1.JPEG is no class's tar such as n01440764.tar"),
        (tar({"n01440764.tar": tar({})}), "the class n01440764 has no images"),
        (tar({"n01440764.tar": b"no tar" * 200}), "n01440764.tar cannot be read as an archive"),
        (tar({"n01440764.tar": tar({"a.JPEG": picture()})})[:-11_000], "cannot be read as an archive"),
        (tar({}), "is empty: download it again"),
        (b"no tar" * 200, "cannot be read as an archive"),
    ],
    ids=["images", "empty class", "no inner tar", "cut off", "empty", "no tar"],
)
def test_a_damaged_imagenet_is_named(tmp_path, content, message):
    path = tmp_path / "t.tar"
    path.write_bytes(content)
    assert message in refused(path, source="imagenet")


def test_an_image_twice_or_a_class_twice_in_imagenet_is_refused(tmp_path):
    path, inner = tmp_path / "t.tar", tar_of(("a.JPEG", picture()), ("a.JPEG", picture(1)))
    path.write_bytes(tar_of(("n01440764.tar", inner)))
    assert "n01440764.tar/a.JPEG is there twice" in refused(path, source="imagenet")
    once = tar({"a.JPEG": picture()})
    path.write_bytes(tar_of(("n01440764.tar", once), ("n01440764.tar", once)))
    assert "n01440764.tar is there twice" in refused(path, source="imagenet")


def test_imagenet_must_be_the_archive(tmp_path):
    assert "is not a file: set data.path to ILSVRC2012_img_train.tar" in refused(tmp_path, source="imagenet")
