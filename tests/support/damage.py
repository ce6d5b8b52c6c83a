"""A small set of images for each source, damaged at random: each file is taken or listed as skipped, or all is refused.

`campaign` is what the tests of the sources and the long campaigns call.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow.parquet import write_table

from scm.data.reading.images import read_cropped
from scm.data.reading.source import Wanted, open_source
from scm.errors import UserError
from tests.support.pictures import make, make_tar, make_zip, picture
from tests.support.published import COUNT, binary_form, python_form, tar


@dataclass(frozen=True)
class Made:
    """A set: `path` is `data.path`, `files` are those that may be damaged, `count` the files in it that count."""

    source: str
    path: Path
    files: list[Path]
    count: int


IMAGES = {
    "cat/1.png": picture(1),
    "cat/more/2.jpg": picture(2, suffix="JPEG"),
    "cat/3": picture(3),
    f"{'dog' * 50}/{'x' * 90}.webp": picture(4, suffix="WEBP"),
    f"{'dog' * 50}/README.txt": b"free",
}
SAMPLES = {
    "1.png": picture(1), "1.cls": b"0", "a.v2.1.png": picture(2), "a.v2.1.cls": b"1", "x.in.jpg": picture(3),
    "x.out.json": b'{"label": 0}', "y.png": picture(4), "y.cls": b"1", "y.txt": b"a thing",
}  # fmt: skip
PHOTOS = {f"{number}.JPEG": picture(number, suffix="JPEG") for number in range(2)}
CLASSES = {f"n0000000{number}.tar": tar(PHOTOS) for number in (1, 2)}


CHUNKS = {f"{number // 2:05d}/img{number:08d}.png": picture(number) for number in range(5)}
PACKED = CHUNKS | {"dataset.json": json.dumps({"labels": [[name, 0] for name in CHUNKS]}).encode()}


def _folder(folder: Path) -> Made:
    path = make(folder / "images", IMAGES)
    return Made("folder", path, sorted(file for file in path.rglob("*") if file.is_file()), len(IMAGES))


def _archive(make_it: Callable, name: str, source: str, content: dict[str, bytes], count: int) -> Callable:
    def made(folder: Path) -> Made:
        path = make_it(folder / name, content)
        return Made(source, path, [path], count)

    return made


def _packed_samples(folder: Path) -> Made:
    path = make_tar(folder / "shards/0.tar.gz", SAMPLES)
    return Made("webdataset", path.parent, [path], 5)


def _parquet(folder: Path) -> Made:
    names, images = {"label": {"_type": "ClassLabel", "names": ["cat"]}}, [picture(number) for number in range(7)]
    table = pyarrow.table({"image": [{"bytes": image, "path": "x"} for image in images], "label": [0] * len(images)})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": names}})})
    write_table(table, folder / "x.parquet", row_group_size=3)
    return Made("parquet", folder / "x.parquet", [folder / "x.parquet"], len(images))


SETS: dict[str, Callable[[Path], Made]] = {
    "folder": _folder,
    "zip": _archive(make_zip, "x.zip", "folder", IMAGES, len(IMAGES)),
    "tar": _archive(make_tar, "x.tar", "folder", IMAGES, len(IMAGES)),
    "tar.gz": _archive(make_tar, "x.tar.gz", "folder", IMAGES, len(IMAGES)),
    "zip, dataset.json": _archive(make_zip, "edm.zip", "folder", PACKED, len(PACKED)),
    "tar, dataset.json": _archive(make_tar, "edm.tar", "folder", PACKED, len(PACKED)),
    "parquet": _parquet,
    "webdataset": _archive(make_tar, "0.tar", "webdataset", SAMPLES, 5),
    "webdataset, packed": _packed_samples,
    "imagenet": _archive(make_tar, "train.tar", "imagenet", CLASSES, 4),
    "cifar10, python": _archive(make_tar, "py.tar", "cifar10", python_form(), COUNT + 1),
    "cifar10, binary": _archive(make_tar, "bin.tar", "cifar10", binary_form(), COUNT + 1),
}
"""For each source, and each form that is read in another way, what makes a set in a folder."""


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """The content with one byte changed or, one time in three, cut off anywhere."""
    place = int(random.integers(len(content)))
    if random.integers(3) == 0:
        return content[:place]
    return content[:place] + bytes([content[place] ^ int(random.integers(1, 256))]) + content[place + 1 :]


def outcome(made: Made) -> tuple[int, int] | None:
    """How many images can be used and how many files are left out; None if all is refused."""
    try:
        with open_source(Wanted(made.source, made.path, True, 4096, "skip")) as source:
            usable = sum(not isinstance(read_cropped(source, number, 8, 3), str) for number in range(len(source)))
            return usable, len(source) - usable + len(source.skipped)
    except UserError as error:
        assert "\n" not in str(error)
        return None


def campaign(kind: str, folder: Path, count: int, seed: int = 0) -> Counter[str]:
    """Damages a set `count` times, each time anew; fails if a file is lost without a word, or at a traceback.

    Returns:
        How many damages were refused, left files out, or changed none of the images' number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shards").mkdir(exist_ok=True)
    made, outcomes = SETS[kind](folder), Counter[str]()
    whole = outcome(made)
    assert whole is not None and sum(whole) == made.count
    for number in range(count):
        random = np.random.default_rng([seed, number])
        file = made.files[int(random.integers(len(made.files)))]
        content = file.read_bytes()
        file.write_bytes(damaged(content, random))
        try:
            found = outcome(made)
        except Exception as error:
            error.add_note(f"{kind}, seed {seed}, damage {number}")
            raise
        file.write_bytes(content)
        assert found is None or sum(found) == made.count, f"{kind}, seed {seed}, damage {number}: {found}"
        outcomes["refused" if found is None else "left out" if found[1] > whole[1] else "taken"] += 1
    return outcomes
