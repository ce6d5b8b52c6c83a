"""Crop a decoded image to a square uint8 array (method sec. 5)."""

import numpy as np
from PIL import Image, ImageOps

LONGEST_SIDE = 16
"""Longest side that is resized, in short sides: enlarging a whole 1 x 60,000,000 image would fill the memory."""

GREY16_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")
GREY_MODES = ("1", "L", "LA", "La", *GREY16_MODES)
SAMPLED_SIDE = 64
"""Pixels on a side of the grid at which an image is looked at for colours that grey pixels no longer show."""


class BadImageError(ValueError):
    """An image that was read but cannot be used. The text is the reason; the caller knows the file's name."""


def square(image: Image.Image, resolution: int, channels: int) -> np.ndarray:
    """ADM's centre crop: halves with a box filter while large enough, resizes bicubically, crops the centre.

    The camera's orientation (EXIF) is applied first. Images that are too small are enlarged by the same bicubic filter.

    Args:
        image: any mode that `flatten` knows.
        resolution: side of the result in pixels.
        channels: 1 = grey, 3 = RGB.

    Returns:
        uint8 [resolution, resolution, channels].

    Raises:
        BadImageError: the pixels have no meaning as 8-bit grey or RGB.
    """
    image = flatten(ImageOps.exif_transpose(image), channels)
    while min(image.size) >= 2 * resolution:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    limit = LONGEST_SIDE * min(image.size)
    image = _centre(image, min(image.width, limit), min(image.height, limit))
    scale = resolution / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    image = _centre(image, resolution, resolution)
    return np.array(image, dtype=np.uint8).reshape(resolution, resolution, channels)


def in_colour(image: Image.Image, pixels: np.ndarray) -> bool:
    """True if an image has colours.

    Its cropped `pixels` tell; if these are grey by order, a grid of the image's points does.
    """
    if pixels.shape[2] == 1:
        if image.mode in GREY_MODES:
            return False
        size = min(image.width, SAMPLED_SIDE), min(image.height, SAMPLED_SIDE)
        pixels = np.asarray(flatten(image.resize(size, Image.Resampling.NEAREST), 3))
    return bool((pixels != pixels[..., :1]).any())


def flatten(image: Image.Image, channels: int) -> Image.Image:
    """Converts any mode of pixels to 8-bit grey (mode L) or RGB.

    Transparent pixels become white, since pictures with a transparent background are drawn for a white page, and dark
    lines would vanish on black. 16-bit grey is scaled by 255 / 65535. Colour profiles are not applied.
    """
    if image.mode in GREY16_MODES:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise BadImageError("its 32-bit pixels exceed 16 bits")
        transparent = image.info.get("transparency")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
        if transparent is not None:
            image.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    elif image.mode == "F":
        raise BadImageError("its pixels are floating-point numbers of unknown range")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
