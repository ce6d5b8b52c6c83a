"""Image files made for a test, in folders and archives, and what the stage `prepare` makes of them."""

import io
import os
import tarfile
import zipfile
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from PIL import Image

from scm.data.preparation.ingest import Plan, Workers, assemble, ingest
from scm.data.reading.source import Wanted, open_source
from scm.data.shards.shards import iterate
from scm.errors import UserError

MAX_PIXELS = 4096


def picture(seed=0, size=(12, 10), mode="RGB", suffix="PNG"):
    """Encoded random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format=suffix)
    return buffer.getvalue()


GOOD = {"cat/1.png": picture(1), "cat/more/2.jpg": picture(2, suffix="JPEG"), "dog/1.PNG": picture(3, mode="L")}


def make(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, files: dict[str, bytes], links: dict[str, tuple[bytes, str]] | None = None) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, (kind, target) in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return path


def in_every_form(folder: Path, files: dict[str, bytes]):
    """Yields the files as a folder, a zip and a tar."""
    yield make(folder / "folder", files)
    yield make_zip(folder / "a.zip", files)
    yield make_tar(folder / "a.tar", files)


@contextmanager
def deep_folder(folder, levels, name="d"):
    """A folder in a folder in a folder, which is gone at the end, since few programs can remove it."""
    here = Path.cwd()
    folder.mkdir(parents=True)
    os.chdir(folder)
    try:
        for _ in range(levels):
            Path(name).mkdir()
            os.chdir(name)
        Path("1.png").write_bytes(picture())
        os.chdir(here)
        yield
    finally:
        os.chdir(folder)
        for _ in range(levels):
            os.chdir(name)
        Path("1.png").unlink()
        for _ in range(levels):
            os.chdir("..")
            Path(name).rmdir()
        os.chdir(here)


def prepare(
    folder, path, labels=True, on_bad_image="error", max_pixels=MAX_PIXELS, source="folder", channels=3, resolution=8,
    shard_images=2,
):  # fmt: skip
    """What the stage does: shards in folder/"out"; returns their index, and what happened to all files."""
    plan = Plan(resolution, channels, on_bad_image, shard_images)
    with open_source(Wanted(source, path, labels, max_pixels, on_bad_image)) as images:
        ingest(images, plan, Path(folder, "work"), Workers(2), lambda _: None)
        return assemble(images, plan, Path(folder, "work"), Path(folder, "out"))


def read(path, **settings):
    """What is found in the shards: samples, classes, skipped."""
    with TemporaryDirectory() as folder:
        index, tally = prepare(folder, path, **settings)
        return list(iterate(Path(folder, "out"))), index["classes"], list(tally.skipped)


def refused(path, **settings):
    with pytest.raises(UserError) as caught:
        read(path, **settings)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message
