"""Decode and crop images from files that are not trusted.

A file's first bytes say what it is, whatever its name ends in. Images that claim too many pixels are refused before
anything is decoded.
"""

import functools
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
from PIL import Image, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from scm.data.reading.catalogue import Catalogue
from scm.data.reading.containers import ARCHIVE_FAULTS, HEAD_BYTES, Read
from scm.data.reading.cropping import BadImageError, in_colour, square
from scm.data.reading.source import ImageSource

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
"""Pillow's names of the formats it may try; others are never opened (EPS, for one, starts an interpreter)."""
READ_SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff",
    ".pgm", ".ppm", ".pbm", ".pnm", ".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpx", ".heic", ".heif", ".hif",
)  # fmt: skip
OTHER_SUFFIXES = (
    ".jxl", ".psd", ".svg", ".tga", ".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2",
    ".jxr", ".wdp", ".qoi", ".bpg", ".dds", ".pcx", ".xcf", ".pam", ".pfm",
)  # fmt: skip
"""Suffixes of pictures that are not read: such a file is an unusable image, not a file of another kind."""
SUFFIXES = READ_SUFFIXES + OTHER_SUFFIXES
NO_IMAGE = "not an image file"
"""Why other files are skipped."""

STARTS = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
    b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51\0", b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a",
    b"8BPS\0\1", b"II\xbc\1", b"qoif", b"BPG\xfb", b"DDS \x7c\0\0\0", b"\x76\x2f\x31\1", b"gimp xcf ",
    b"FUJIFILMCCD-RAW",
)  # fmt: skip
"""First bytes of PNG, JPEG, GIF, TIFF, JPEG 2000, JPEG XL, and of pictures that are not read."""
HEIC_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"mif2", b"heif"})
AVIF_BRANDS = frozenset({b"avif", b"avis"})
BMP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
"""Sizes that the second header of a BMP may have."""

BYTES_PER_PIXEL = 8
METADATA_BYTES = 16 * 2**20
"""A file may have this many bytes beyond BYTES_PER_PIXEL for each pixel that is allowed."""

DECODER_FAULTS = (OSError, ValueError, EOFError, SyntaxError, RuntimeError, LookupError, TypeError, ArithmeticError)
TEXT_BYTES = 2**24
"""Most bytes that one text of a PNG may unpack to."""
FREE_ZEROS, PIXELS_PER_ZERO = 64, 2048
"""The packed pixels of a WebP, AVIF or HEIC may end in FREE_ZEROS zeros, and one more for each PIXELS_PER_ZERO pixels:
half a bit for each block of 16 x 16 is what an even plane of WebP usually takes."""
REDUCED, BITS, PHOTOMETRIC, WHITE_IS_ZERO = 254, 258, 262, 0
"""Tags of a TIFF: that a picture is a smaller one of another, the bits of its numbers, and what these mean."""

CONTAINER_FAULTS = (struct.error, zlib.error, zipfile.BadZipFile, tarfile.TarError)
IMAGE_FAULTS = DECODER_FAULTS + CONTAINER_FAULTS
"""What reading and decoding a damaged file may raise: Pillow's decoders promise nothing narrower."""


@dataclass(frozen=True)
class Cropped:
    """An image that was read: uint8 [resolution, resolution, channels], and of the original what people want to know.

    Attributes:
        short_side: the original's, in pixels.
        colour: False = grey, whatever its number of channels.
    """

    pixels: np.ndarray
    short_side: int
    colour: bool


def read_cropped(source: ImageSource, number: int, resolution: int, channels: int) -> Cropped | str:
    """Reads one image, as every image is read: the cropped image, or in one line why it cannot be used."""
    try:
        image = source.load(number)
        pixels = square(image, resolution, channels)
        return Cropped(pixels, min(image.size), in_colour(image, pixels))
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
    content = read()
    if _is_heic(content) and not _heic_formats():
        raise BadImageError("a HEIC picture, which pip install 'scm[heic]' makes readable; or convert it to PNG")
    image = Image.open(io.BytesIO(content), formats=(*IMAGE_FORMATS, *_heic_formats()))
    if image.width * image.height > max_pixels:
        raise BadImageError(f"claims {image.width} x {image.height} pixels, more than data.max_pixels = {max_pixels:,}")
    image.load()
    if image.format == "PNG":
        _check_png(image, content)
    if image.format in ("JPEG", "MPO"):
        _check_jpeg(content)
    if image.format in ("WEBP", "AVIF", "HEIF"):
        _check_filled(image, content)
    return _as_meant(image)


def looks_like_image(head: bytes) -> bool:
    """True if a file's first bytes (HEAD_BYTES of them) are those of a picture, be it one that is read or not."""
    return (
        head.startswith(STARTS)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in BMP_HEADERS)
        or (head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace() and head[3:4] in b"0123456789#")
        or bool(_brands(head) & (HEIC_BRANDS | AVIF_BRANDS))
    )


def is_image(head: Read, files: Catalogue, number: int) -> bool:
    """True if a file has to be taken for an image: by its name's suffix, or else by its first bytes.

    A file whose first bytes cannot be read counts as one, so that it is refused or listed as an unusable image.
    """
    if files.name(number).lower().endswith(SUFFIXES):
        return True
    try:
        return looks_like_image(head(files, number))
    except (*ARCHIVE_FAULTS, ValueError):
        return True


def _brands(head: bytes) -> frozenset[bytes]:
    """The brands of an ISO media file, of which HEIC, AVIF and MP4 are kinds."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    if head[4:8] != b"ftyp":
        return frozenset()
    return frozenset({head[8:12], *(head[place : place + 4] for place in range(16, size, 4))})


def _is_heic(content: bytes) -> bool:
    brands = _brands(content[:HEAD_BYTES])
    return bool(brands & HEIC_BRANDS) and not brands & AVIF_BRANDS


@functools.cache
def _heic_formats() -> tuple[str, ...]:
    """Pillow's name of HEIC, if the extra `heic` is installed."""
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]
    except ImportError:
        return ()
    pillow_heif.register_heif_opener()
    return ("HEIF",)


def _check_png(image: Image.Image, content: bytes) -> None:
    """Compares the checksums of a PNG's pixels, which Pillow passes by, and corrects the colour that is transparent."""
    view, place, kind = memoryview(content), 8, b""
    while kind != b"IEND" and place + 12 <= len(content):
        kind, end = content[place + 4 : place + 8], place + 8 + int.from_bytes(content[place : place + 4], "big")
        if kind == b"IDAT" and zlib.crc32(view[place + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            raise BadImageError(f"a damaged PNG: the checksum of its pixels at byte {place:,} is wrong")
        place = end + 4
    # Pillow leaves that colour in the file's own bits, while the pixels have 8.
    bits = content[24]
    if image.mode == "L" and bits < 8 and "transparency" in image.info:
        image.info["transparency"] *= 255 // (2**bits - 1)
    if image.mode == "RGB" and bits > 8 and "transparency" in image.info:
        raise BadImageError("a PNG of 16-bit colours of which one is transparent: save it with an alpha channel")


def _check_jpeg(content: bytes) -> None:
    """Refuses a JPEG whose pixels have no end: Pillow takes the zeros of a file that was filled in part for pixels."""
    place = 2
    while content[place : place + 1] == b"\xff" and content[place + 1 : place + 2] != b"\xda":
        is_filling = content[place + 1 : place + 2] == b"\xff"
        place += 1 if is_filling else 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    if content.find(b"\xff\xd9", place) < 0:
        raise BadImageError("a JPEG without its end, as after a download that broke off")


def _check_filled(image: Image.Image, content: bytes) -> None:
    """Refuses packed pixels that end in zeros, which decoders take for pixels; an even plane ends in a few."""
    limit, is_webp = FREE_ZEROS + image.width * image.height // PIXELS_PER_ZERO, image.format == "WEBP"
    for part in _webp_pixels(content) if is_webp else _iso_media(content):
        if len(part) - len(part.rstrip(b"\0")) > limit and not (is_webp and _needs_its_end(part)):
            raise BadImageError(f"a {image.format} that ends in zeros, as after a download that broke off")


def _webp_pixels(content: bytes) -> Iterator[bytes]:
    """Yields the chunks of a WebP's packed colours, frame by frame; transparency lies before them."""
    place = 12
    while place + 8 <= len(content):
        kind, size = content[place : place + 4], int.from_bytes(content[place + 4 : place + 8], "little")
        if kind in (b"VP8 ", b"VP8L"):
            yield content[place : place + 8 + size]
        place += 24 if kind == b"ANMF" else 8 + size + size % 2  # a frame holds chunks behind 16 bytes of its own


def _needs_its_end(chunk: bytes) -> bool:
    """True if a WebP's colours cannot be decoded without their last zeros: fast encoders pack an even plane so."""
    kept = chunk[8:-FREE_ZEROS]
    packed = b"WEBP" + chunk[:4] + struct.pack("<I", len(kept)) + kept + b"\0" * (len(kept) % 2)
    try:
        Image.open(io.BytesIO(b"RIFF" + struct.pack("<I", len(packed)) + packed), formats=("WEBP",)).load()
    except DECODER_FAULTS:
        return True
    return False


def _iso_media(content: bytes) -> Iterator[bytes]:
    """Yields the media of an ISO media file, which in AVIF and HEIC are the packed pixels."""
    place, head = 0, 8
    while place + head <= len(content):
        kind, size = content[place + 4 : place + 8], int.from_bytes(content[place : place + 4], "big")
        if size < 8:  # 1 = the size follows in 8 bytes, 0 = to the end
            size = int.from_bytes(content[place + 8 : place + 16], "big") if size == 1 else len(content) - place
        if kind == b"mdat":
            yield content[place : place + size]
        place += max(size, head)


def _as_meant(image: Image.Image) -> Image.Image:
    """Corrects the grey of a TIFF, whose numbers Pillow leaves as they stand if they have 12 or 16 bits."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return image
    if image.tag_v2.get(REDUCED, 0) & 1:
        raise BadImageError("begins with a smaller picture of another, as cameras' raw files do: convert it to PNG")
    bits = image.tag_v2.get(BITS, (16,))[0]
    inverted = image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO
    if not image.mode.startswith("I;16") or (bits == 16 and not inverted):
        return image
    values = np.asarray(image).astype(np.uint32) * 65535 // (2**bits - 1)
    return Image.fromarray((65535 - values if inverted else values).astype(np.uint16))


def loading(read: Read, images: Catalogue, max_pixels: int) -> Callable[[int], Image.Image]:
    """The `load` of an ImageSource whose images are these files."""
    return lambda number: decode(lambda: read(images, number), images.sizes[number], max_pixels)


@contextmanager
def pillow_without_limits_of_its_own() -> Iterator[None]:
    """Lifts Pillow's own limits, as max_pixels alone decides, and hides its warnings, which no user could act on.

    These settings belong to the whole process, so the block encloses all threads.
    """
    limit, text = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
    Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = None, TEXT_BYTES
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = limit, text
