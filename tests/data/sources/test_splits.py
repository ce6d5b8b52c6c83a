"""train/ and val/ around the classes are named; classes that are called like splits are read."""

import pytest

from tests.support.pictures import in_every_form, make, picture, read, refused

SPLIT = {
    f"{part}/{kind}/{number}.png": picture(int(number)) for part in ("train", "val") for kind in "ab" for number in "12"
}
ALONE = [("train", "val"), ("Training", "testing"), ("train_set", "test-set")]
WITH_A_NAME = [("seg_train", "seg_test"), ("pets-train-v1", "pets-val-v1"), ("images_train2017", "images_val2017")]


@pytest.mark.parametrize("around", ["", "pets/", "pets/v1/", "a/b/c/"])
@pytest.mark.parametrize(
    ("train", "other"), [("train", "val"), ("Training", "testing"), ("train_set", "test-set"), *WITH_A_NAME]
)
def test_splits_are_not_taken_for_classes(tmp_path, around, train, other):
    names = {"train": train, "val": other}
    files = {around + names[name.split("/")[0]] + name[name.index("/") :]: data for name, data in SPLIT.items()}
    for path in in_every_form(tmp_path, files):
        message = refused(path)
        assert f"{around}{train}" in message and f"{around}{other}" in message
        remedy = f"set data.path to {path / around / train}" if path.is_dir() else f"pack {around}{train} alone"
        assert f"are splits of a data set, not classes: {remedy}, or rename folders that are classes" in message
    assert read(tmp_path / "folder" / around / train)[1] == ["a", "b"]


def test_splits_beside_other_folders_and_without_classes_are_named(tmp_path):
    assert "train, val are splits" in refused(make(tmp_path / "x", SPLIT | {"notes/1.png": picture()}))
    flat = {"train/a/1.png": picture(1), "test/1.png": picture(2)}
    assert "test, train are splits" in refused(make(tmp_path / "y", flat))


@pytest.mark.parametrize("around", ["", "horse2zebra/"])
@pytest.mark.parametrize("names", [("testA", "trainA"), ("Val_A", "Train_A")])
def test_a_split_of_one_domain_is_not_taken_for_a_class(tmp_path, around, names):
    test, train = (around + name for name in names)
    for path in in_every_form(tmp_path, {f"{name}/1.png": picture() for name in (test, train)}):
        message = refused(path)
        remedy = f"set data.path to {path / train}" if path.is_dir() else f"pack {train} alone"
        assert test in message and f": {remedy}, or rename" in message


def test_splits_of_two_domains_are_not_taken_for_four_classes(tmp_path):
    files = {f"zebra/{split}{domain}/1.png": picture() for split in ("test", "train") for domain in "AB"}
    for path in in_every_form(tmp_path, files):
        message = refused(path)
        tests, trains = ("zebra/testA, zebra/testB", "zebra/trainA, zebra/trainB")
        remedy = f"move {tests} away" if path.is_dir() else f"pack {trains} alone"
        assert f"{tests}, {trains} are splits of a data set, not classes: {remedy}, or rename" in message


@pytest.mark.parametrize("splits", [("test", "train"), ("more/test", "more/train"), ("Test_Set", "Train_Set")])
def test_the_same_splits_in_each_class_are_not_taken_together(tmp_path, splits):
    files = {f"set/{kind}/{split}/1.png": picture() for kind in ("cat", "dog") for split in splits}
    test, train = (split.split("/")[-1] for split in splits)
    for path in in_every_form(tmp_path, files):
        remedy = f"move {test} of each class away" if path.is_dir() else f"pack {train} of each class alone"
        problem = f"{test}, {train} in each class are splits of a data set"
        assert refused(path) == f"{path}: {problem}: {remedy}, or rename these folders"


@pytest.mark.parametrize(
    ("images", "others"), [("images", ["masks"]), ("JPEGImages", ["Annotations", "SegmentationClass"])]
)
def test_masks_beside_images_are_no_class(tmp_path, images, others):
    for path in in_every_form(tmp_path, {f"set/{name}/1.png": picture() for name in (images, *others)}):
        found = ", ".join(f"set/{name}" for name in sorted((images, *others)))
        remedy = f"set data.path to {path / 'set' / images}" if path.is_dir() else f"pack set/{images} alone"
        message = f"{found} are parts of a data set, not classes: {remedy}, or rename folders that are classes"
        assert refused(path) == refused(path, labels=False) == f"{path}: {message}"
    assert read(make(tmp_path / "x", {"masks/1.png": picture(1), "hats/1.png": picture(2)}))[1] == ["hats", "masks"]


@pytest.mark.parametrize(
    "files",
    [
        {"train/1.png": 1, "plane/1.png": 2},  # a picture of a train
        {"train/steam/1.png": 1, "train/diesel/1.png": 2, "test/1.png": 3, "plane/1.png": 4},
        {"cat/train/1.png": 1, "cat/val/1.png": 2, "dog/train/1.png": 3},
        {"cat/train/1.png": 1, "dog/train/1.png": 2},
        {"trainA/1.png": 1, "trainB/1.png": 2},  # two classes of CycleGAN's, without their tests
        {"TRAINS/1.png": 1, "TESTS/1.png": 2},
        {"trainer/1.png": 1, "value/1.png": 2},
        {"test tube/1.png": 1, "train station/2.png": 2, "dev_board/3.png": 3},
    ],
)
def test_classes_that_are_called_like_splits_stay_classes(tmp_path, files):
    path = make(tmp_path, {name: picture(seed) for name, seed in files.items()})
    assert read(path)[1] == sorted({name.split("/")[0] for name in files})


def test_single_folders_around_everything_are_no_classes(tmp_path):
    files = {f"a/b/{kind}/1.png": picture() for kind in ("cat", "dog")}
    for path in in_every_form(tmp_path, files):
        assert read(path)[1] == ["cat", "dog"]
