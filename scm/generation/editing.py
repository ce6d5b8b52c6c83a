"""Edits of people's pictures: which models can edit, how a picture is read, and what each task keeps of it."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from scm.base.project import TEACHER
from scm.data.latents.codec import LATENT_REDUCTION, Codec
from scm.data.reading.cropping import BadImageError, square
from scm.data.reading.images import IMAGE_FAULTS, IMAGE_FORMATS, decode
from scm.errors import UserError
from scm.generation.sampler import Sampler
from scm.samplers import editing

INPAINT, COLOUR, UPSCALE, STROKE = "inpaint", "colour", "upscale", "stroke"
TASKS = (INPAINT, COLOUR, UPSCALE, STROKE)
TIMES = 10
"""Times of an edit, evenly from the first one down (docs/editing.md has the measurement)."""
STROKE_START = 1.2
"""First time of a stroke edit, in radians; the other tasks begin at the model's t_max."""
FACTOR = 2
"""Pixels on a side for each one of a small picture, unless somebody asks for more."""
GREY = (0.299, 0.587, 0.114)
"""The grey value of red, green and blue, as Pillow takes it (ITU-R BT.601; the paper has 0.2989, 0.5870, 0.1140)."""
ERASED = 160
"""Grey level in which missing pixels are shown."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture to edit, in the model's size.

    Attributes:
        given: uint8 [1, C, H, W].
        missing: bool [1, 1, H, W], the pixels to fill; None for other tasks than `inpaint`.
        factor: pixels on a side of a patch whose mean is given; for `upscale`.
    """

    task: str
    given: Tensor
    missing: Tensor | None = None
    factor: int = FACTOR

    def shown(self) -> Tensor:
        """What the edit is given, uint8 [1, C, H, W]."""
        return self.given if self.missing is None else torch.where(self.missing, ERASED, self.given).to(torch.uint8)

    def finished(self, images: Tensor) -> Tensor:
        """Decoded images [B, C, H, W] with the given pixels themselves, which a codec may have changed."""
        return images if self.missing is None else torch.where(self.missing, images, self.given)


def require_editor(header: Mapping[str, Any], what: str) -> None:
    """Refuses a model that does not jump to the data from any time; errors begin with `what`."""
    if header["model"] == TEACHER:
        raise UserError(f"{what}: a teacher does not jump to the data in one step; edit with a student")
    if "any_steps" not in header and not any("t_mid" in choice for choice in header["sampling"].values()):
        raise UserError(f"{what}: it does not jump to the data from any time; edit with another student, such as scd")


def require_task(task: str, codec: Mapping[str, Any], factor: int, has_mask: bool, dash: str = "--") -> None:
    """Refuses a task that is impossible with what the model draws, and a mask that is missing or one too many.

    Args:
        codec: the header of the model's codec.
        dash: beginning of the options' names in messages.
    """
    option = f"{dash}task {task}"
    if task not in TASKS:
        raise UserError(f"{option}: no such task; choose from {', '.join(TASKS)}")
    if task in (COLOUR, UPSCALE) and codec["autoencoder"] is not None:
        raise UserError(f"{option}: this model draws latents, which are no pixels; use {INPAINT} or {STROKE}")
    if task == COLOUR and codec["shape"][0] != 3:
        raise UserError(f"{option}: this model draws grey images; use {INPAINT}, {UPSCALE} or {STROKE}")
    side = codec["shape"][-1]
    if task == UPSCALE and (not 1 < factor <= side or side % factor):
        raise UserError(f"{dash}factor {factor}: must divide the {side} pixels of a side, and be 2 or more")
    if task == INPAINT and not has_mask:
        raise UserError(f"{option}: needs {dash}mask, a picture of its size that is white where pixels are missing")
    if task != INPAINT and has_mask:
        raise UserError(f"{dash}mask: only {dash}task {INPAINT} takes one; leave it out")


def image_shape(codec: Codec) -> tuple[int, int]:
    """Channels, and pixels on a side, of the images that a codec decodes."""
    channels, *_, side = codec.header["shape"]
    return (channels, side) if codec.header["autoencoder"] is None else (3, side * LATENT_REDUCTION)


def times_of(header: Mapping[str, Any], task: str) -> list[float]:
    """The times of an edit, in radians, descending."""
    return editing.even_times(min(STROKE_START, header["t_max"]) if task == STROKE else header["t_max"], TIMES)


def read_picture(
    task: str, codec: Codec, image: tuple[str, bytes], mask: tuple[str, bytes] | None, max_pixels: int, factor: int
) -> Picture:
    """Reads a picture, cropped and resized as the training images are.

    Args:
        image: what messages call the picture's file, and its content.
        mask: those of a picture of the same size that is white where pixels are missing; for `inpaint` alone.
    """
    channels, side = image_shape(codec)
    whole = _decoded(*image, max_pixels)
    if task == UPSCALE:
        small = _tensor(image[0], whole, side // factor, channels)
        return Picture(task, small.repeat_interleave(factor, 2).repeat_interleave(factor, 3), factor=factor)
    if task == COLOUR:
        return Picture(task, _tensor(image[0], whole, side, 1).expand(-1, 3, -1, -1))
    given = _tensor(image[0], whole, side, channels)
    if mask is None:
        return Picture(task, given)
    holes = _decoded(*mask, max_pixels)
    if holes.size != whole.size:
        raise UserError(
            f"{mask[0]}: {holes.width} x {holes.height} pixels, and {image[0]} {whole.width} x {whole.height}; "
            "make both of one size"
        )
    missing = _tensor(mask[0], holes, side, 1) >= 128
    if not missing.any():
        raise UserError(f"{mask[0]}: no pixel is white; paint white what is missing")
    return Picture(task, given, missing)


def edit_sampler(picture: Picture, codec: Codec, times: Sequence[float], device: torch.device | str) -> Sampler:
    """A sampler that edits this picture: each sample is one result."""
    sigma_d = codec.header["sigma_d"]
    stored = codec.encode(picture.given.contiguous())
    given = codec.serve(stored, lambda place: torch.Generator().manual_seed(place)).to(device)
    keep = _kept(picture, codec, given)
    start = given if picture.task == STROKE else keep(torch.zeros_like(given))
    return Sampler(len(times), lambda function, noise: editing.edit(function, noise, start, keep, times, sigma_d))


def _kept(picture: Picture, codec: Codec, given: Tensor) -> editing.Keep:
    """What a result shares with the given picture; `given` is that picture as x_0."""
    if picture.task == UPSCALE:
        return editing.patch_means(given, picture.factor)
    if picture.task == COLOUR:  # the grey value of pixels is another weighted sum of x_0's normalised channels
        return editing.grey_values(given, torch.tensor(GREY) * torch.tensor(codec.header["std"]))
    if picture.missing is None:
        return editing.nothing()
    missing = picture.missing.float()
    if given.shape[-1] < missing.shape[-1]:  # a latent is missing if any of its pixels is
        missing = torch.nn.functional.max_pool2d(missing, LATENT_REDUCTION)
    return editing.pixels(given, missing.bool().to(given.device))


def _decoded(source: str, content: bytes, max_pixels: int) -> Image.Image:
    try:
        width, height = _size(content)
        if width * height > max_pixels:
            raise UserError(f"{source}: {width} x {height} pixels; at most {max_pixels:,} are read: make it smaller")
        return decode(lambda: content, len(content), max_pixels)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{source}: too many pixels; at most {max_pixels:,} are read: make it smaller") from None
    except BadImageError as error:
        raise UserError(f"{source}: {error}") from None
    except UnidentifiedImageError:
        raise UserError(f"{source}: not a readable image; save it as PNG") from None
    except IMAGE_FAULTS as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(f"{source}: a broken image ({reason}); save it again as PNG") from None


def _size(content: bytes) -> tuple[int, int]:
    """Width and height of a picture that is not decoded yet; (0, 0) = `decode` knows more of it."""
    try:
        with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as opened:
            return opened.size
    except UnidentifiedImageError:
        return 0, 0


def _tensor(source: str, image: Image.Image, side: int, channels: int) -> Tensor:
    """The cropped picture, uint8 [1, C, side, side]."""
    try:
        pixels = square(image, side, channels)
    except BadImageError as error:
        raise UserError(f"{source}: {error}; save it as PNG with 8 bits") from None
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
