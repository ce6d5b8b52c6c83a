"""What is found out about images of each kind of source."""

import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from scm.errors import UserError
from scm.timebox.survey import source_of, survey


def png(number: int, colour: bool = False, side: int = 12) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (side, side + 3, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels if colour else pixels[..., 0]).save(buffer, "PNG")
    return buffer.getvalue()


def folder(path: Path, count: int = 30, colour: bool = False, classes: int = 3) -> Path:
    for number in range(count):
        place = path / f"class{number % classes}" if classes else path
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:04d}.png").write_bytes(png(number, colour))
    return path


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("classes", [0, 3])
def test_a_folder(tmp_path, colour, classes):
    found = survey(folder(tmp_path / "images", 30, colour, classes))
    assert (found.source, found.count, found.classes, found.colour) == ("folder", 30, classes, colour)
    assert (found.side, found.looked, found.unusable, found.held_out) == (12, 30, 0, 0)
    assert found.smallest == (10 if classes else 0) and found.read > 0 and found.decode > 0


def test_images_are_held_out_if_they_are_enough(tmp_path):
    found = survey(folder(tmp_path / "images", 1300))
    assert 100 <= found.held_out < 200 and found.looked < 300


def test_a_zip_and_a_tar(tmp_path):
    images = folder(tmp_path / "images")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive, tarfile.open(tmp_path / "images.tar", "w") as tar:
        for file in sorted(images.rglob("*.png")):
            archive.write(file, file.relative_to(images))
            tar.add(file, file.relative_to(images))
    for path in ("images.zip", "images.tar"):
        found = survey(tmp_path / path)
        assert (found.source, found.count, found.classes) == ("folder", 30, 3)


def test_webdataset_shards(tmp_path):
    (tmp_path / "shards").mkdir()
    for path in (tmp_path / "shards/0.tar", tmp_path / "one.tar"):
        with tarfile.open(path, "w") as tar:
            for number in range(20):
                for name, content in ((f"{number:03d}.png", png(number)), (f"{number:03d}.cls", b"%d" % (number % 2))):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    for path in ("shards", "one.tar"):
        found = survey(tmp_path / path)
        assert (found.source, found.count, found.classes) == ("webdataset", 20, 2)


def test_parquet(tmp_path):
    rows = [{"bytes": png(number, colour=True), "path": f"{number}.png"} for number in range(20)]
    table = pyarrow.table({"image": rows, "label": [number % 4 for number in range(20)]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    for path in (tmp_path, tmp_path / "rows.parquet"):
        found = survey(path)
        assert (found.source, found.count, found.classes, found.colour) == ("parquet", 20, 4, True)


def test_cifar10(tmp_path):
    for name in [f"data_batch_{number}.bin" for number in range(1, 6)]:
        rows = np.random.default_rng(0).integers(0, 256, (20, 3073), dtype=np.uint8)
        rows[:, 0] = np.arange(20) % 10
        (tmp_path / name).write_bytes(rows.tobytes())
    (tmp_path / "batches.meta.txt").write_text("\n".join("abcdefghij"))
    found = survey(tmp_path)
    assert (found.source, found.count, found.classes, found.side) == ("cifar10", 100, 10, 32)


def test_the_built_in_digits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = survey(Path("digits"))
    assert (found.source, found.count, found.classes, found.side, found.colour) == ("digits", 1797, 10, 8, False)
    assert found.held_out == 184
    folder(tmp_path / "digits")
    assert survey(Path("digits")).source == "folder"


def test_imagenets_tar_of_tars_is_known_by_its_members(tmp_path):
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("n01440764.tar"))
    assert source_of(tmp_path / "train.tar") == "imagenet"


def test_unusable_images_are_counted(tmp_path):
    images = folder(tmp_path / "images")
    (images / "class0/0000.png").write_bytes(png(0)[:60])
    assert survey(images).unusable == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "nowhere does not exist: give a folder"),
        ("empty", "no images in it"),
        ("mixed", "lies beside the class folders: move it into one, or add --no-labels"),
        ("broken", "none of the 3 images that were looked at can be read"),
        ("bad.tar", "bad.tar"),
    ],
)
def test_what_is_refused(tmp_path, name, said):
    (tmp_path / "empty").mkdir()
    folder(tmp_path / "mixed", 6)
    (tmp_path / "mixed/beside.png").write_bytes(png(0))
    (tmp_path / "broken").mkdir()
    for number in range(3):
        (tmp_path / f"broken/{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "bad.tar").write_bytes(pickle.dumps("no tar"))
    with pytest.raises(UserError, match=said):
        survey(tmp_path / name)


def test_classes_can_be_left_out(tmp_path):
    images = folder(tmp_path / "mixed", 6)
    (images / "beside.png").write_bytes(png(0))
    found = survey(images, labels=False)
    assert (found.count, found.classes) == (7, 0)
