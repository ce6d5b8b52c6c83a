"""Animations of small images."""

from pathlib import Path

from PIL import Image
from torch import Tensor

FRAME_SECONDS = 0.06
SIDE = 128
"""Target size of an animation, in pixels on a side."""


def write_gif(images: Tensor, path: Path, comment: str) -> None:
    """Writes uint8 images [N, 1 or 3, H, W] as a GIF that plays for ever, each pixel enlarged to a square."""
    side = images.shape[-1] * max(1, round(SIDE / images.shape[-1]))
    frames = [
        Image.fromarray(image.squeeze(2).numpy()).resize((side, side), Image.Resampling.NEAREST)
        for image in images.permute(0, 2, 3, 1).contiguous()
    ]
    first, *rest = frames
    milliseconds = round(1000 * FRAME_SECONDS)
    first.save(path, "GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0, comment=comment)
