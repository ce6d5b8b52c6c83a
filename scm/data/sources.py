"""Where images come from: scikit-learn's digits, or the user's own folder, zip or tar.

What a user hands over is not trusted: names that leave the archive, links that leave the folder and images that claim
too many pixels are refused before anything is decoded, and every refusal names the file. The same files give the same
images, keys and classes whether they lie in a folder, a zip or a tar.
"""

import io
import posixpath
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from scm.data.containers import ARCHIVE_SUFFIXES, Listing, Member, list_files, shown
from scm.data.transforms import BadImageError, square
from scm.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm", ".pbm")
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Pillow's names of what it may try; others (EPS, for one, starts an interpreter) are never opened."""

BYTES_PER_PIXEL = 8
METADATA_BYTES = 16 * 2**20
"""A file may have this many bytes beyond BYTES_PER_PIXEL for each pixel that is allowed."""

DECODER_FAULTS = (OSError, ValueError, EOFError, SyntaxError, RuntimeError, LookupError, TypeError, ArithmeticError)
CONTAINER_FAULTS = (struct.error, zlib.error, zipfile.BadZipFile, tarfile.TarError)
IMAGE_FAULTS = DECODER_FAULTS + CONTAINER_FAULTS
"""What reading and decoding a damaged file may raise: Pillow's decoders promise nothing narrower."""


@dataclass(frozen=True)
class RawImage:
    """One image of a source, not read yet.

    Attributes:
        key: name of the sample in the shards, the same for the same files.
        name: what messages call it: the file's path inside the source.
        label: index into the source's classes, -1 = none.
        load: reads and decodes the image; raises one of IMAGE_FAULTS.
    """

    key: str
    name: str
    label: int
    load: Callable[[], Image.Image]


@dataclass
class Source:
    """The images of one source in a fixed order. Use it in a `with` block, which closes the archive.

    Attributes:
        name: what messages call it, for example the archive's path.
        classes: names by label; empty = the images have no labels.
        images: every image file, usable or not.
        skipped: files that are not images, as {"file", "reason"}.
    """

    name: str
    classes: list[str]
    images: list[RawImage]
    skipped: list[dict[str, str]] = field(default_factory=list)
    resources: ExitStack = field(default_factory=ExitStack)

    def __iter__(self) -> Iterator[RawImage]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self.resources.close()


def open_source(name: str, path: Path, labels: bool, max_pixels: int) -> Source:
    """Lists the images of a source without decoding any.

    Args:
        name: "digits" (the next two arguments are ignored) or "folder".
        path: a folder, .zip, .tar or .tar.gz.
        labels: True = one sub-folder per class, sorted by name; False = every image at any depth, without labels.
            Either way a single folder that wraps all the others is looked through.
        max_pixels: images that claim more are refused undecoded.

    Raises:
        UserError: nothing to read, a mixed or empty class, a path or link that leads outside.
    """
    if name == "digits":
        return _digits()
    if name != "folder":
        raise UserError(f"data.source: {name} is unknown: use digits or folder")
    with ExitStack() as stack:
        source = _arrange(list_files(path, stack), path, labels, max_pixels)
        source.resources = stack.pop_all()
    return source


def usable(
    source: Source, resolution: int, channels: int, on_bad_image: str, skipped: list[dict[str, str]]
) -> Iterator[tuple[str, np.ndarray, int]]:
    """The one place where images are read: yields (key, uint8 [resolution, resolution, channels], label).

    Args:
        source: what `open_source` gave.
        resolution: side of the images in pixels.
        channels: 1 = grey, 3 = RGB.
        on_bad_image: "error" = stop at the first image that cannot be used; "skip" = note it in `skipped` and go on.
        skipped: gets {"file", "reason"} of each file that is left out, the source's own ones first.

    Raises:
        UserError: an unusable image (with "error"), or a class of which nothing is left.
    """
    skipped.extend(source.skipped)
    counts: Counter[int] = Counter()
    for image in source:
        try:
            with _pillow_without_limits_of_its_own():
                pixels = square(image.load(), resolution, channels)
        except IMAGE_FAULTS as error:
            if on_bad_image != "skip":
                raise UserError(
                    f"{source.name}: {shown(image.name)}: {_reason(error)}: "
                    "repair or remove it, or set data.on_bad_image: skip"
                ) from error
            skipped.append({"file": image.name, "reason": _reason(error)})
            continue
        counts[image.label] += 1
        yield image.key, pixels, image.label
    empty = [name for label, name in enumerate(source.classes) if not counts[label]]
    if empty or not counts:
        what = f"the class {shown(empty[0])}" if empty else "the source"
        raise UserError(f"{source.name}: {what} has no usable image: data.on_bad_image: error tells why")


def _reason(error: BaseException) -> str:
    if isinstance(error, BadImageError):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        return "not a readable image"
    first_line = next(iter(str(error).splitlines()), "")
    return f"broken image ({first_line or type(error).__name__})"


def _digits() -> Source:
    from sklearn.datasets import load_digits

    flat, labels = load_digits(return_X_y=True)
    pixels = np.round(np.asarray(flat) * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)

    def loader(number: int) -> Callable[[], Image.Image]:
        return lambda: Image.fromarray(pixels[number])

    images = [
        RawImage(key=f"{number:08d}", name=f"digit {number}", label=int(label), load=loader(number))
        for number, label in enumerate(labels)
    ]
    return Source(name="digits", classes=[str(digit) for digit in range(10)], images=images)


def _arrange(listing: Listing, path: Path, labels: bool, max_pixels: int) -> Source:
    names = sorted((name for name in listing.files if _is_image(name)), key=lambda name: name.split("/"))
    others = sorted(name for name in listing.files if not _is_image(name))
    if not names:
        archives = [name for name in others if name.lower().endswith(ARCHIVE_SUFFIXES)]
        remedy = f"set data.path to {path / archives[0]}" if archives else f"put {_some_suffixes()} files there"
        raise UserError(f"{path}: no images in it: {remedy}")
    classes, prefix = _classes(listing, names, path) if labels else ([], "")
    label_of = {name: label for label, name in enumerate(classes)}
    images = []
    for number, name in enumerate(names):
        label = label_of[name.removeprefix(prefix).split("/")[0]] if labels else -1
        images.append(RawImage(f"{number:08d}", name, label, _loader(listing.files[name], max_pixels)))
    skipped = [{"file": name, "reason": "not an image file"} for name in others]
    return Source(name=str(path), classes=classes, images=images, skipped=skipped)


def _classes(listing: Listing, names: list[str], path: Path) -> tuple[list[str], str]:
    """Names of the class folders and the prefix of the folder that wraps them; refuses mixed and empty classes."""
    folders = listing.folders | {posixpath.dirname(name) for name in listing.files}
    top = sorted({folder.split("/")[0] for folder in folders if folder})
    inner = sorted({folder.split("/")[1] for folder in folders if folder.count("/")})
    wrapped = len(top) == 1 and bool(inner) and all("/" in name for name in names)
    classes, prefix = (inner, f"{top[0]}/") if wrapped else (top, "")
    loose = next((name for name in names if "/" not in name.removeprefix(prefix)), None)
    if loose is not None:
        kind = "lies beside the class folders" if classes else "lies in no class folder"
        raise UserError(f"{path}: {shown(loose)} {kind}: move it into one, or set data.labels: false")
    filled = {name.removeprefix(prefix).split("/")[0] for name in names}
    for name in classes:
        if name not in filled:
            raise UserError(f"{path}: the class folder {shown(prefix + name)} has no images: fill it or delete it")
    return classes, prefix


def _loader(member: Member, max_pixels: int) -> Callable[[], Image.Image]:
    def load() -> Image.Image:
        if member.size == 0:
            raise BadImageError("the file is empty")
        if member.size > max_pixels * BYTES_PER_PIXEL + METADATA_BYTES:
            raise BadImageError(f"claims {member.size:,} bytes, too many for data.max_pixels = {max_pixels:,}")
        data = member.read()
        image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
        if image.width * image.height > max_pixels:
            raise BadImageError(
                f"claims {image.width} x {image.height} pixels, more than data.max_pixels = {max_pixels:,}"
            )
        image.load()
        return image

    return load


@contextmanager
def _pillow_without_limits_of_its_own() -> Iterator[None]:
    """max_pixels alone decides; Pillow's warnings about odd metadata say nothing that a user could act on."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _is_image(name: str) -> bool:
    return posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _some_suffixes() -> str:
    return ", ".join(IMAGE_SUFFIXES)
