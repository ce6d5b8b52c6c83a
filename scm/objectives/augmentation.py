"""EDM's non-leaky augmentation (arXiv 2206.00364, app. F.2, table 6): x_0 is distorted, and F is told how.

Since F knows the distortion of each sample, a sampler that tells it "none" draws undistorted images. The distributions
are the paper's. Pixels between pixels are interpolated by cubic convolution, and images go on beyond their edges as in
a mirror.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from scm.objectives.protocol import Batch

STRETCH = 0.2
"""Standard deviation of the binary logarithm of a change of scale, of both sides or of one against the other."""
SHIFT = 1 / 8
"""Standard deviation of a translation, as a fraction of the side."""


def augmented(batch: Batch, probability: float) -> tuple[Batch, Tensor]:
    """The batch with distorted x_0, and the nine numbers a sample that tell F the distortion; zeros tell "none".

    Half of the samples are mirrored left to right. Each of the others is used with `probability`: turning upside down
    (every second time), scaling, rotation, stretching along a random axis, and translation.

    Args:
        batch: its x_0 are square images, [B, C, R, R].

    Returns:
        The batch, and [B, 9] in x_0's type.
    """
    chances, normal = batch.uniform(9), batch.normal(4)
    used = (chances[:, 4:] < probability).to(chances.dtype)
    flips = (chances[:, :2] < 0.5).to(chances.dtype) * torch.stack([torch.ones_like(used[:, 0]), used[:, 0]], dim=1)
    turn, axis = math.pi * (2 * chances[:, 2] - 1) * used[:, 2], math.pi * (2 * chances[:, 3] - 1)
    scale, stretch, shift = normal[:, 0] * used[:, 1], normal[:, 1] * used[:, 3], normal[:, 2:] * used[:, 4:]
    x_0 = torch.where(flips[:, 0, None, None, None] > 0, batch.x_0.flip(3), batch.x_0)
    x_0 = torch.where(flips[:, 1, None, None, None] > 0, x_0.flip(2), x_0)
    # A sample that is at most flipped keeps its pixels to the bit.
    moved = used[:, 1:].any(dim=1)[:, None, None, None]
    x_0 = torch.where(moved, warped(x_0, *inverse(scale, turn, stretch, axis, shift, x_0.shape[-1])), x_0)
    along = stretch[:, None] * torch.stack([axis.cos(), axis.sin()], dim=1)
    told = torch.stack([scale, turn.cos() - 1, turn.sin()], dim=1)
    return replace(batch, x_0=x_0), torch.cat([flips, told, along, shift], dim=1)


def inverse(
    scale: Tensor, turn: Tensor, stretch: Tensor, axis: Tensor, shift: Tensor, side: int
) -> tuple[Tensor, Tensor]:
    """Where a place of the distorted image comes from: linear [B, 2, 2] and offset [B, 2], as `warped` takes them.

    An image is scaled by 2^(0.2 scale), rotated by -turn, stretched by 2^(0.2 stretch) along the axis and as much
    compressed across it, and then moved by shift / 8 of its side; x points right and y down.

    Args:
        scale: [B], as `turn`, `stretch` and `axis`, which are angles in radians.
        shift: along x and y, [B, 2].
        side: pixels of a side.
    """
    along = torch.exp2(-STRETCH * stretch)
    stretched = torch.diag_embed(torch.stack([along, 1 / along], dim=1))
    linear = rotation(turn) @ rotation(axis) @ stretched @ rotation(-axis)
    linear = torch.exp2(-STRETCH * scale)[:, None, None] * linear
    places = SHIFT * side * 2 / (side - 1)  # of one shift, in units of half the image
    return linear, -(linear @ (places * shift)[:, :, None]).squeeze(2)


def rotation(angle: Tensor) -> Tensor:
    """[[cos, -sin], [sin, cos]] of each angle. [B] -> [B, 2, 2]."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, -sin, sin, cos], dim=1).reshape(-1, 2, 2)


def warped(images: Tensor, linear: Tensor, offset: Tensor) -> Tensor:
    """Images whose pixel at p shows what was at linear p + offset.

    Places are (x, y), 0 at the image's centre and -1 and 1 at the centres of its outermost pixels. torch's own sampling
    needs no inverse of a matrix, for which a GPU would be waited for.

    Args:
        images: [B, C, R, R].
    """
    theta = torch.cat([linear, offset[:, :, None]], dim=2)
    places = functional.affine_grid(theta, list(images.shape), align_corners=True)
    return functional.grid_sample(images, places, mode="bicubic", padding_mode="reflection", align_corners=True)
