"""What is taken for a picture, by name and by first bytes, and pictures whose pixels are easily misread."""

import io
import struct
import sys
import types
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from scm.data.reading import images
from scm.data.reading.containers import HEAD_BYTES
from scm.data.reading.cropping import BadImageError, square
from scm.data.reading.images import decode, looks_like_image, pillow_without_limits_of_its_own

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
RGB = Image.fromarray(np.stack([GREY, GREY[::-1], GREY.T], axis=2))
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def encoded(image, form, **settings):
    buffer = io.BytesIO()
    image.save(buffer, form, **settings)
    return buffer.getvalue()


def read(content, channels=3):
    with pillow_without_limits_of_its_own():
        return square(decode(lambda: content, len(content), 2**20), 8, channels)


FORMS = ("PNG", "JPEG", "GIF", "TIFF", "BMP", "DIB", "WEBP", "PPM", "AVIF", "JPEG2000", "MPO")


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_is_known_by_its_first_bytes(form):
    content = encoded(RGB, form)
    assert looks_like_image(content[:HEAD_BYTES]) or form == "DIB"  # a BMP without its first header begins with a 40
    if form != "DIB":
        assert np.abs(read(content).astype(int) - np.asarray(RGB)).mean() < 12 or form == "GIF"


@pytest.mark.parametrize(
    "head",
    [
        *(b"P%d\n# made by hand\n" % number for number in range(1, 7)),
        b"P5 8 8 255\n",
        b"II+\0\x08\0\0\0",
        b"\xff\x0a\x7f",
        b"\0\0\0\x0cJXL \r\n\x87\n",
        HEIC,
        b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif",
        b"\xff\x4f\xff\x51\0\x2f",
        b"8BPS\0\1\0\0",
        b"II\xbc\1\x08\0\0\0",
        b"qoif\0\0\0\x08",
        b"DDS \x7c\0\0\0",
        b"\x76\x2f\x31\1\2",
        b"gimp xcf v011",
    ],
)
def test_other_pictures_are_known_too(head):
    assert looks_like_image(head)


@pytest.mark.parametrize(
    "head",
    [
        b"", b"B", b"P", b"hello", b"BMW is a maker of cars, and this is a text about them", b"P1 is a name", b"RIFF",
        b"RIFF\x10\0\0\0WAVEfmt ", b"PK\3\4", b"%PDF-1.7", b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", b"\x1f\x8b\x08",
        b"<!doctype html>", b"{}", b"GIF is a format", b"\0" * 64, b"II", b"\x89PNG",
    ],
)  # fmt: skip
def test_other_files_are_no_pictures(head):
    assert not looks_like_image(head)


def test_heic_is_read_by_the_plug_in_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    images._heic_formats.cache_clear()
    with pytest.raises(BadImageError, match=r"a HEIC picture, which pip install 'scm\[heic\]' makes readable"):
        read(HEIC)
    called = []
    plugin = types.SimpleNamespace(register_heif_opener=lambda: called.append(True))
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    images._heic_formats.cache_clear()
    assert images._heic_formats() == ("HEIF",) and images._heic_formats() == ("HEIF",) and called == [True]
    images._heic_formats.cache_clear()


def test_a_heic_photograph_is_read():
    plugin = pytest.importorskip("pillow_heif")
    images._heic_formats.cache_clear()
    plugin.register_heif_opener()
    content = encoded(RGB.resize((64, 64)), "HEIF", quality=95)
    assert looks_like_image(content[:HEAD_BYTES])
    expected = square(RGB.resize((64, 64)), 8, 3).astype(int)
    assert np.abs(read(content).astype(int) - expected).mean() < 8


def tiff(data, bits, photometric, orientation=1, reduced=0):
    """A TIFF of 8 x 8 pixels in one strip, uncompressed, written field by field."""
    fields = [
        (254, 4, reduced), (256, 3, 8), (257, 3, 8), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 0),
        (274, 3, orientation), (277, 3, 1), (278, 3, 8), (279, 4, len(data)),
    ]  # fmt: skip
    place = 8 + 2 + 12 * len(fields) + 4
    entries = b"".join(
        struct.pack("<HHI", tag, kind, 1) + struct.pack("<I", place if tag == 273 else value)
        for tag, kind, value in fields
    )
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + bytes(4) + data


WIDE = GREY.astype("<u2") * 257


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(tiff(WIDE.tobytes(), 16, 1), GREY, id="16 bits"),
        pytest.param(tiff((65535 - WIDE).tobytes(), 16, 0), GREY, id="16 bits, white is zero"),
        pytest.param(tiff((65535 - WIDE).tobytes(), 16, 0, orientation=6), np.rot90(GREY, -1), id="and turned"),
        pytest.param(tiff(GREY.tobytes(), 8, 1), GREY, id="8 bits"),
        pytest.param(tiff((255 - GREY).tobytes(), 8, 0), GREY, id="8 bits, white is zero"),
    ],
)
def test_grey_of_a_tiff(content, expected):
    assert np.array_equal(read(content, 1)[..., 0], expected)


def test_grey_of_a_tiff_with_12_bits():
    values = (GREY.astype(int) * 4095 // 255).reshape(-1, 2)
    data = np.stack([values[:, 0] >> 4, (values[:, 0] & 15) << 4 | values[:, 1] >> 8, values[:, 1] & 255], axis=1)
    found = read(tiff(data.astype(np.uint8).tobytes(), 12, 1), 1)[..., 0].astype(int)
    assert np.abs(found - GREY).max() <= 1


def test_a_raw_photographs_thumbnail_is_not_taken_for_the_picture():
    with pytest.raises(BadImageError, match="begins with a smaller picture of another"):
        read(tiff(GREY.tobytes(), 8, 1, reduced=1))


def test_grey_of_10_bits_in_a_pgm():
    content = b"P5 8 8 1023\n" + (GREY.astype(int) * 1023 // 255).astype(">u2").tobytes()
    assert np.abs(read(content, 1)[..., 0].astype(int) - GREY).max() <= 1


@pytest.mark.parametrize("packed", [True, False])
def test_a_png_with_megabytes_of_text(packed):
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "x" * 2**21, zip=packed)
    assert np.array_equal(read(encoded(RGB, "PNG", pnginfo=text)), np.asarray(RGB))


def test_a_png_whose_text_is_a_bomb_is_refused(monkeypatch):
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "x" * 2**25, zip=True)
    with pytest.raises(ValueError, match="too large"):
        read(encoded(RGB, "PNG", pnginfo=text))


@pytest.mark.parametrize("form", ["AVIF", "JPEG2000"])
def test_what_claims_too_many_pixels_is_not_decoded(form):
    content = encoded(Image.new("RGB", (1025, 1024)), form)
    with pytest.raises(BadImageError, match="claims 1025 x 1024 pixels"):
        read(content)


@pytest.mark.parametrize("form", ["AVIF", "JPEG2000", "JPEG", "WEBP"])
def test_a_picture_that_is_cut_off_is_unusable(form):
    content = encoded(RGB.resize((200, 200)), form)
    for size in (20, len(content) // 3, len(content) // 2):
        with pytest.raises(images.IMAGE_FAULTS):
            read(content[:size])


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def plain_png(bits, colour, row, transparent):
    """An 8x8 PNG of equal rows, by the format's own rules; kind of colour 0 = grey, 2 = RGB."""
    header = chunk(b"IHDR", struct.pack(">2I5B", 8, 8, bits, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + row) * 8))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"tRNS", transparent) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("bits", "row", "transparent", "grey"),
    [
        (1, b"\x0f", 0, [255] * 8),
        (2, b"\x1b\x1b", 2, [0, 85, 255, 255] * 2),
        (4, b"\x13\x13\x13\x13", 3, [17, 255] * 4),
        (8, bytes(range(8)), 5, [0, 1, 2, 3, 4, 255, 6, 7]),
        (16, struct.pack(">8H", *(number * 257 for number in range(8))), 5 * 257, [0, 1, 2, 3, 4, 255, 6, 7]),
        (16, struct.pack(">8H", *(number * 257 for number in range(8))), 5 * 257 + 1, list(range(8))),
    ],
)
def test_the_transparent_grey_of_a_png_becomes_white(bits, row, transparent, grey):
    content = plain_png(bits, 0, row, struct.pack(">H", transparent))
    for channels in (1, 3):
        assert read(content, channels)[3, :, 0].tolist() == grey


def test_a_transparent_colour_of_16_bits_is_refused_as_pillow_confuses_it_with_others():
    row = struct.pack(">24H", *([1000, 2000, 3000] * 8))
    with pytest.raises(BadImageError, match="16-bit colours of which one is transparent"):
        read(plain_png(16, 2, row, struct.pack(">3H", 0x303, 0x707, 0xB0B)))


@pytest.mark.parametrize("picture", [RGB, Image.fromarray(GREY)])
@pytest.mark.parametrize("level", [0, 6])
def test_no_damaged_byte_of_a_png_changes_its_pixels_in_silence(picture, level):
    content, expected = encoded(picture, "PNG", compress_level=level), read(encoded(picture, "PNG"))
    for place in range(8, len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        try:
            pixels = read(bytes(damaged))
        except (BadImageError, *images.IMAGE_FAULTS):
            continue
        assert np.array_equal(pixels, expected), place


@pytest.mark.parametrize("form", ["JPEG", "MPO"])
def test_a_jpeg_that_was_filled_in_part_is_refused(form):
    thumbnail = Image.Exif()
    thumbnail[0x927C] = encoded(RGB, "JPEG")  # a whole JPEG before the pixels, with an end of its own
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    content = encoded(noise, form, exif=thumbnail)
    read(content + b"\0" * 99)
    read(content[:2] + b"\xff\xff" + content[2:])
    for kept in range(len(content) - 500, len(content) - 1, 50):
        with pytest.raises(BadImageError, match="a JPEG without its end"):
            read(content[:kept] + b"\0" * (len(content) - kept))


@pytest.mark.parametrize(
    ("form", "settings"), [("WEBP", {}), ("WEBP", {"lossless": True}), ("WEBP", {"save_all": True}), ("AVIF", {})]
)
def test_a_picture_that_was_filled_in_part_is_refused(form, settings):
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    frames = {"append_images": [Image.fromarray(255 - noise)]} if "save_all" in settings else {}
    content = encoded(Image.fromarray(noise), form, **settings, **frames)
    read(content + b"\0" * 99)
    for kept in range(len(content) // 3, len(content) - 150, 900):
        with pytest.raises(BadImageError, match=f"a {form} that ends in zeros"):
            read(content[:kept] + b"\0" * (len(content) - kept))


@pytest.mark.parametrize("colour", ["black", "white", (128, 7, 200)])
def test_an_even_plane_is_not_taken_for_a_picture_that_was_filled_in_part(colour):
    for form, settings in (("WEBP", {"quality": 0}), ("WEBP", {"lossless": True}), ("AVIF", {})):
        read(encoded(Image.new("RGB", (512, 512), colour), form, **settings))


@pytest.mark.parametrize("settings", [{"lossless": True, "quality": 75}, {"quality": 100}])
def test_what_a_fast_encoder_makes_of_an_even_plane_is_no_filling(settings):
    """Beside other colours a pixel of the plane takes bits, all of them 0."""
    picture = np.full((512, 512, 3), (90, 90, 91), np.uint8)
    if "lossless" in settings:
        picture[:64] = np.random.default_rng(0).integers(0, 256, (64, 512, 3))
    content = encoded(Image.fromarray(picture), "WEBP", method=0, **settings)
    assert content.endswith(b"\0" * 250)
    read(content)
    if "lossless" in settings:
        kept = len(content) // 2
        with pytest.raises(BadImageError, match="a WEBP that ends in zeros"):
            read(content[:kept] + b"\0" * (len(content) - kept))


def test_transparency_that_is_not_packed_may_end_in_zeros():
    """A WebP whose lower part is transparent, as `cwebp -alpha_method 0` writes it."""
    side = 96
    alpha = np.full((side, side), 255, np.uint8)
    alpha[side // 2 :] = 0
    places = 2 * (side - 1).to_bytes(3, "little")
    chunks = [(b"VP8X", b"\x10\0\0\0" + places), (b"ALPH", b"\0" + alpha.tobytes())]
    packed = b"".join(kind + struct.pack("<I", len(part)) + part + b"\0" * (len(part) % 2) for kind, part in chunks)
    packed = b"WEBP" + packed + encoded(RGB.resize((side, side)), "WEBP")[12:]
    content = b"RIFF" + struct.pack("<I", len(packed)) + packed
    assert np.asarray(Image.open(io.BytesIO(content)))[:, 0, 3].tolist() == alpha[:, 0].tolist()
    read(content)
