"""What every source of images gives: a fixed order of images, each of which any thread may read and decode.

What a user hands over is not trusted: images that claim too many pixels are refused before anything is decoded, and
every refusal names the file.
"""

import io
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, UnidentifiedImageError

from scm.data.sources.transforms import BadImageError, square

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Pillow's names of what it may try; others (EPS, for one, starts an interpreter) are never opened."""

BYTES_PER_PIXEL = 8
METADATA_BYTES = 16 * 2**20
"""A file may have this many bytes beyond BYTES_PER_PIXEL for each pixel that is allowed."""

DECODER_FAULTS = (OSError, ValueError, EOFError, SyntaxError, RuntimeError, LookupError, TypeError, ArithmeticError)
CONTAINER_FAULTS = (struct.error, zlib.error, zipfile.BadZipFile, tarfile.TarError)
IMAGE_FAULTS = DECODER_FAULTS + CONTAINER_FAULTS
"""What reading and decoding a damaged file may raise: Pillow's decoders promise nothing narrower."""


@dataclass
class Source:
    """The images of one source in a fixed order. Use it in a `with` block, which closes the archive.

    Attributes:
        name: what messages call it, for example the archive's path.
        classes: names by label; empty = the images have no labels.
        labels: of every image file, usable or not: index into `classes`, -1 = none.
        file_name: what messages call the image of this number: its path inside the source.
        load: reads and decodes an image; raises one of IMAGE_FAULTS. Threads may call it side by side.
        skipped: files that are not images, as {"file", "reason"}.
        resources: what `with` closes.
    """

    name: str
    classes: list[str]
    labels: Sequence[int] | np.ndarray
    file_name: Callable[[int], str]
    load: Callable[[int], Image.Image]
    skipped: list[dict[str, str]] = field(default_factory=list)
    resources: ExitStack = field(default_factory=ExitStack)

    def __len__(self) -> int:
        return len(self.labels)

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        self.resources.close()

    def key(self, number: int) -> str:
        """Name of the sample in the shards, the same for the same files."""
        return f"{number:08d}"


@dataclass(frozen=True)
class Cropped:
    """An image that was read: uint8 [resolution, resolution, channels], and the original's short side in pixels."""

    pixels: np.ndarray
    short_side: int


def read_cropped(source: Source, number: int, resolution: int, channels: int) -> Cropped | str:
    """The one place where images are read: the cropped image, or in one line why it cannot be used."""
    try:
        image = source.load(number)
        return Cropped(square(image, resolution, channels), min(image.size))
    except BadImageError as error:
        return str(error)
    except UnidentifiedImageError:
        return "not a readable image"
    except IMAGE_FAULTS as error:
        first_line = next(iter(str(error).splitlines()), "")
        return f"broken image ({first_line or type(error).__name__})"


def decode(read: Callable[[], bytes], size: int, max_pixels: int) -> Image.Image:
    """Decodes a file that claims `size` bytes, unless it claims too much; of an animation the first frame.

    Raises:
        One of IMAGE_FAULTS; BadImageError if the file is empty, or claims more than `max_pixels` pixels.
    """
    if size == 0:
        raise BadImageError("the file is empty")
    if size > max_pixels * BYTES_PER_PIXEL + METADATA_BYTES:
        raise BadImageError(f"claims {size:,} bytes, too many for data.max_pixels = {max_pixels:,}")
    image = Image.open(io.BytesIO(read()), formats=IMAGE_FORMATS)
    if image.width * image.height > max_pixels:
        raise BadImageError(f"claims {image.width} x {image.height} pixels, more than data.max_pixels = {max_pixels:,}")
    image.load()
    return image


@contextmanager
def pillow_without_limits_of_its_own() -> Iterator[None]:
    """max_pixels alone decides; Pillow's warnings about odd metadata say nothing that a user could act on.

    Both are the whole process's, so this goes around all threads.
    """
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
