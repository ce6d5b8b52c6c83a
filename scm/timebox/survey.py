"""Looks at images before anything is prepared: how many there are, of what sizes and colours, in which classes.

They are listed by the same sources as stage `prepare` lists them, and some of them are read.
"""

import io
import os
import tarfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
from PIL import Image

from scm.base.count import Count
from scm.data.reading.held_out import divided
from scm.data.reading.images import READ_SUFFIXES, Cropped, pillow_without_limits_of_its_own, read_cropped
from scm.data.reading.source import ImageSource, Wanted, open_source
from scm.data.shards.shards import INDEX, encode_png
from scm.errors import UserError

DIGITS = "digits"
"""Given in place of a path: scikit-learn's digits."""
MAX_PIXELS = Count("64Mi")
SHARE = 0.1
"""The share of the images that is held out, if they are enough."""
LOOKED, PATIENCE = 200, 5.0
"""Most images that are read, and most seconds that this takes."""
NAMES = 2000
"""Names of files after which a folder's or an archive's kind has shown."""
TARS = (".tar", ".tar.gz", ".tgz")
CIFAR10 = {"data_batch_1", "data_batch_1.bin"}
CLOCK = time.thread_time
"""Reading is counted in seconds of CPU: the files come from the disk's cache in a run as they did here."""
SIDE = 32
"""Pixels on a side to which the images are cropped, unless another number is given."""


@dataclass(frozen=True)
class Survey:
    """What is known of a set of images.

    Attributes:
        source: value of `data.source`.
        path: where they lie.
        count: number of images.
        held_out: how many of them are held out, if a share is; 0 = too few of them, or of a class.
        classes: number of classes; 0 = without labels.
        smallest: images of the smallest class; 0 without labels.
        side: the median of the images' shorter sides, in pixels.
        colour: False = all of those that were read are grey.
        looked: number of images that were read.
        unusable: how many of these cannot be used.
        read: seconds in which one thread reads, crops and writes an image.
        decode: seconds in which it reads it again from a shard.
    """

    source: str
    path: Path
    count: int
    held_out: int
    classes: int
    smallest: int
    side: int
    colour: bool
    looked: int
    unusable: int
    read: float
    decode: float


def survey(path: Path, resolution: int | None = None, labels: bool = True) -> Survey:
    """Surveys the images in a folder or archive, whatever kind of source it is; "digits" are scikit-learn's.

    Images that lie in no folders of classes have no labels. Other faults in the classes are refused.

    Raises:
        UserError: no images, or what stage `prepare` would refuse.
    """
    source = source_of(path)
    if not labels or (source == "folder" and _lies_flat(path)):
        return surveyed(Wanted(source, path, False, MAX_PIXELS, "skip"), resolution)
    try:
        return surveyed(Wanted(source, path, True, MAX_PIXELS, "skip"), resolution)
    except UserError as error:
        if "data.labels: false" in str(error):
            raise UserError(str(error).replace("set data.labels: false", "add --no-labels")) from None
        raise


def surveyed(wanted: Wanted, resolution: int | None = None, share: float = SHARE) -> Survey:
    """Surveys the images of a source that is known, of which a share may be held out."""
    with open_source(wanted) as images, pillow_without_limits_of_its_own():
        sizes = Counter(np.asarray(images.labels).tolist()) if images.classes else Counter[int]()
        found, unusable, read, decode = _looked_at(images, resolution or SIDE)
        if not found:
            raise UserError(f"{images.name}: none of the {unusable} images that were looked at can be read")
        return Survey(
            source=wanted.source,
            path=wanted.path,
            count=len(images),
            held_out=_held_out(images, share),
            classes=len(images.classes) if len(images.classes) > 1 else 0,
            smallest=min(sizes.values(), default=0),
            side=int(np.median([each.short_side for each in found])),
            colour=any(each.colour for each in found),
            looked=len(found) + unusable,
            unusable=unusable,
            read=read,
            decode=decode,
        )


def _looked_at(images: ImageSource, resolution: int) -> tuple[list[Cropped], int, float, float]:
    """Some images, spread over the whole; how many others are unusable; and the seconds of `Survey`, of an image."""
    found, unusable, packed = list[Cropped](), 0, list[bytes]()
    started, begun = time.monotonic(), CLOCK()
    for number in range(0, len(images), max(1, len(images) // LOOKED)):
        cropped = read_cropped(images, number, resolution, 3)
        if isinstance(cropped, Cropped):
            found.append(cropped)
            packed.append(encode_png(cropped.pixels))
        else:
            unusable += 1
        if time.monotonic() - started > PATIENCE:
            break
    written = CLOCK()
    for content in packed:
        np.save(io.BytesIO(), np.asarray(Image.open(io.BytesIO(content))))
    each = max(1, len(found))
    return found, unusable, (written - begun) / (each + unusable), (CLOCK() - written) / each


def _held_out(images: ImageSource, share: float) -> int:
    try:
        held_out = divided(images, share)[1]
    except UserError:  # too few of them
        return 0
    return 0 if held_out is None else len(held_out)


def source_of(path: Path) -> str:
    """The value of `data.source` for what lies there.

    Raises:
        UserError: nothing lies there.
    """
    if str(path) == DIGITS and not path.exists():
        return DIGITS
    if not path.exists():
        raise UserError(f"{path} does not exist: give a folder, a .zip, a .tar or Parquet files of images, or digits")
    names = list(islice(_names(path), NAMES))
    suffixes = Counter(Path(name).suffix.lower() for name in names)
    if CIFAR10 & {Path(name).name for name in names}:
        return "cifar10"
    if suffixes[".parquet"]:
        return "parquet"
    pictures = sum(suffixes[suffix] for suffix in READ_SUFFIXES)
    packed = any(name.lower().endswith(TARS) for name in names)
    if path.is_file():
        if packed and not pictures:
            return "imagenet"
        labels = suffixes[".cls"] or any(name.endswith(".json") and Path(name).stem != "dataset" for name in names)
        return "webdataset" if path.name.lower().endswith(TARS) and labels else "folder"
    return "webdataset" if (packed and not pictures) or (path / INDEX).is_file() else "folder"


def _names(path: Path) -> Iterable[str]:
    """Names of the files in a folder or tar; a file's own name if it is none, or damaged, which its source refuses."""
    if path.is_dir():
        return chain.from_iterable(files for _, _, files in os.walk(path))
    if not path.name.lower().endswith(TARS):
        return [path.name]
    try:
        with tarfile.open(path) as archive:
            return [member.name for member in islice(archive, NAMES) if member.isfile()]
    except (tarfile.TarError, EOFError, OSError):
        return [path.name]


def _lies_flat(path: Path) -> bool:
    """True for a folder with images and without folders, other than hidden ones."""
    return path.is_dir() and not any(each.is_dir() and not each.name.startswith(".") for each in path.iterdir())
