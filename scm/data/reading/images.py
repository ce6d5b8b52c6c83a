"""Decode and crop images from files that are not trusted.

Images that claim too many pixels are refused before anything is decoded.
"""

import io
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from scm.data.reading.catalogue import Catalogue
from scm.data.reading.containers import Read
from scm.data.reading.cropping import BadImageError, square
from scm.data.reading.source import ImageSource

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Pillow's names of the formats it may try; others are never opened (EPS, for one, starts an interpreter)."""

BYTES_PER_PIXEL = 8
METADATA_BYTES = 16 * 2**20
"""A file may have this many bytes beyond BYTES_PER_PIXEL for each pixel that is allowed."""

DECODER_FAULTS = (OSError, ValueError, EOFError, SyntaxError, RuntimeError, LookupError, TypeError, ArithmeticError)
CONTAINER_FAULTS = (struct.error, zlib.error, zipfile.BadZipFile, tarfile.TarError)
IMAGE_FAULTS = DECODER_FAULTS + CONTAINER_FAULTS
"""What reading and decoding a damaged file may raise: Pillow's decoders promise nothing narrower."""


@dataclass(frozen=True)
class Cropped:
    """An image that was read: uint8 [resolution, resolution, channels], and the original's short side in pixels."""

    pixels: np.ndarray
    short_side: int


def read_cropped(source: ImageSource, number: int, resolution: int, channels: int) -> Cropped | str:
    """Reads one image, as every image is read: the cropped image, or in one line why it cannot be used."""
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
    """Decodes a file that claims `size` bytes, unless it claims too much; an animation gives its first frame.

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


def loading(read: Read, images: Catalogue, max_pixels: int) -> Callable[[int], Image.Image]:
    """The `load` of an ImageSource whose images are these files."""
    return lambda number: decode(lambda: read(images, number), images.sizes[number], max_pixels)


@contextmanager
def pillow_without_limits_of_its_own() -> Iterator[None]:
    """Lifts Pillow's own limit, as max_pixels alone decides, and hides its warnings, which no user could act on.

    Both settings belong to the whole process, so the block encloses all threads.
    """
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
