"""Cropping: the original program's bytes, every mode of pixels, every size."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from scm.data.reading.cropping import BadImageError, square


def picture(width, height, channels=3):
    pixels = (7919 * np.arange(width * height * channels) % 256).astype(np.uint8)
    return pixels.reshape(height, width, channels).squeeze()


def test_crop_equals_the_original_program_byte_for_byte():
    """Figures of NVlabs/edm2 at 4bf8162 (crop_center-crop-dhariwal): a 301 x 499 x 3 image cropped to 64."""
    pixels = (7919 * np.arange(301 * 499 * 3) % 256).astype(np.uint8).reshape(301, 499, 3)
    result = square(Image.fromarray(pixels), 64, 3)
    assert result[0, 0].tolist() == [119, 130, 136] and result[32, 32].tolist() == [116, 144, 136]
    assert hashlib.sha256(result.tobytes()).hexdigest() == (
        "46e75b3771f0721565432200b542f205c4cc911f963461d4907cf119794d8702"
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_the_right_size_passes_unchanged(channels):
    pixels = picture(8, 8, channels)
    assert np.array_equal(square(Image.fromarray(pixels), 8, channels).squeeze(), pixels)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (17, 16), (16, 31), (33, 400), (5000, 2)])
def test_any_size_becomes_the_asked_square(size):
    result = square(Image.new("RGB", size, (10, 20, 30)), 16, 3)
    assert result.shape == (16, 16, 3) and (result == [10, 20, 30]).all()


def test_a_line_of_pixels_is_not_enlarged_as_a_whole():
    """1 x 4,000,000 scaled to 64 pixels of width would be 16 G pixels."""
    assert square(Image.new("L", (4_000_000, 1), 7), 64, 1).max() == 7


def test_the_centre_is_kept():
    pixels = np.zeros((8, 24), np.uint8)
    pixels[:, 8:16] = 200
    assert (square(Image.fromarray(pixels), 8, 1) == 200).all()


def test_exif_orientation_is_applied(tmp_path):
    image = Image.fromarray(picture(8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to show
    image.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as turned:
        assert np.array_equal(square(turned, 8, 3), np.rot90(picture(8, 8), -1))


GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "image",
    [
        pytest.param(Image.fromarray(GREY), id="grey"),
        pytest.param(Image.fromarray(GREY).convert("RGB"), id="rgb"),
        pytest.param(Image.fromarray(GREY).convert("RGBA"), id="opaque rgba"),
        pytest.param(Image.fromarray(GREY).convert("LA"), id="grey with alpha"),
        pytest.param(Image.fromarray(GREY).convert("P"), id="palette"),
        pytest.param(Image.fromarray(GREY.astype(np.uint16) * 257), id="16-bit grey"),
        pytest.param(Image.fromarray(GREY.astype(np.int32) * 257), id="16-bit grey in 32 bits"),
    ],
)
def test_grey_values_survive_every_mode(image, channels):
    result = square(image, 8, channels)
    assert result.shape == (8, 8, channels)
    assert (result == GREY[:, :, None]).all()


def test_cmyk_becomes_rgb():
    assert (square(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), 8, 3) == [0, 255, 255]).all()


def test_colour_becomes_grey_by_luma():
    assert (square(Image.new("RGB", (8, 8), (255, 0, 0)), 8, 1) == 76).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_pixels_are_white(channels):
    assert (square(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), 8, channels) == 255).all()
    palette = Image.new("P", (8, 8), 3)
    palette.info["transparency"] = 3
    assert (square(palette, 8, channels) == 255).all()


def test_pixels_without_a_range_are_refused():
    with pytest.raises(BadImageError, match="floating-point"):
        square(Image.new("F", (8, 8)), 8, 1)
    with pytest.raises(BadImageError, match="exceed 16 bits"):
        square(Image.new("I", (8, 8), 70_000), 8, 1)
