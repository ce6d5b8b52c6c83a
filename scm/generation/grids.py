"""Grids of small images. The report, which cuts pictures out of them, needs no torch."""

from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from scm.base.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

GAP = 1
"""Pixels between two images, and at the border."""
GAP_GREY = 160
"""Grey level of the gaps: most images have a black or a white background."""
CELL = 56
"""Target size of a small image, in pixels on a side."""


def scale_for(resolution: int) -> int:
    """The whole factor, at least 1, that enlarges images of this resolution (pixels) to about `CELL`."""
    return max(1, round(CELL / resolution))


def grid(images: "Tensor", columns: int, scale: int) -> Image.Image:
    """Arranges uint8 images [N, 1 or 3, H, W] row by row in one picture, each pixel enlarged to scale x scale.

    Raises:
        ValueError: no images, or not uint8 with 1 or 3 channels.
    """
    import torch

    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(f"a grid needs uint8 [N, 1 or 3, H, W] with N > 0, not {images.dtype} {list(images.shape)}")
    count, _, height, width = images.shape
    cell_width, cell_height = width * scale + GAP, height * scale + GAP
    size = (columns * cell_width + GAP, -(-count // columns) * cell_height + GAP)
    picture = Image.new("RGB", size, (GAP_GREY,) * 3)
    for position, image in enumerate(images.cpu().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()):
        row, column = divmod(position, columns)
        cell = Image.fromarray(image).resize((width * scale, height * scale), Image.Resampling.NEAREST)
        picture.paste(cell, (GAP + column * cell_width, GAP + row * cell_height))
    return picture


def shape_of(size: tuple[int, int], resolution: int) -> tuple[int, int]:
    """Columns and rows of a grid of this size (pixels) that shows images of this resolution."""
    cell = resolution * scale_for(resolution) + GAP
    columns, rows = ((side - GAP) // cell for side in size)
    return max(1, columns), max(1, rows)


def corner(picture: Image.Image, resolution: int, columns: int, rows: int) -> Image.Image:
    """The first columns and rows of a grid that shows images of this resolution."""
    cell = resolution * scale_for(resolution) + GAP
    return picture.crop((0, 0, min(columns * cell + GAP, picture.width), min(rows * cell + GAP, picture.height)))


def save_grid(path: Path, images: "Tensor", columns: int, scale: int) -> None:
    """Writes `grid` as a PNG."""
    picture = grid(images, columns, scale)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")
