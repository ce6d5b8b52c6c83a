"""Zero-shot editing of images by a consistency function (Song et al. 2023, arXiv 2303.01469, alg. 4), in TrigFlow.

The algorithm alternates between a jump to the data and the replacement of what the edited image must share with the
given one. What is shared are some of the coefficients of A x, for an orthogonal A: pixels (inpainting), means of
patches (super-resolution), or a grey value for each pixel (colourisation).
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scm import trigflow
from scm.samplers.noise import SampleNoise
from scm.samplers.ode import Function

Keep = Callable[[Tensor], Tensor]
"""x -> A^-1 [(A y) (1 - Omega) + (A x) Omega]: x with the known coefficients of the given y (alg. 4, lines 2, 5, 9)."""


@torch.no_grad()
def edit(
    function: Function, noise: SampleNoise, start: Tensor, keep: Keep, times: Sequence[float], sigma_d: float
) -> Tensor:
    """Diffuses x to each time with fresh noise, jumps to the data by f, and restores the known part.

    The paper's x + t_n z is TrigFlow's cos t_n x + sin t_n z at the same ratio of noise to data.

    Args:
        start: what is diffused to the first time, [B or 1, C, H, W]: `keep(zeros)` (the paper's line 2), or strokes.
        keep: restores the known part of the given images.
        times: radians, descending.

    Returns:
        Edited images [B, C, H, W] with standard deviation sigma_d.
    """
    x = start
    for t in times:
        x_t = math.cos(t) * x + math.sin(t) * sigma_d * noise.draw()
        time = torch.full(x_t.shape[:1], t, device=x_t.device, dtype=x_t.dtype)
        x = keep(trigflow.denoise(x_t, time, function(x_t / sigma_d, time), sigma_d))
    return x


def even_times(first: float, count: int) -> list[float]:
    """`count` times from `first` down, at equal distances, of which the next one would be 0.

    >>> even_times(1.5, 3)
    [1.5, 1.0, 0.5]
    """
    return [first * (count - step) / count for step in range(count)]


def nothing() -> Keep:
    """Keeps nothing: Omega = 1 everywhere, for strokes (SDEdit, arXiv 2108.01073)."""
    return lambda x: x


# In what follows, `given` is y: one image for each sample, or one for all of them, [B or 1, C, H, W].


def pixels(given: Tensor, missing: Tensor) -> Keep:
    """Keeps the pixels that are not missing: A = I, Omega = `missing`, bool [B or 1, 1, H, W]."""
    return lambda x: torch.where(missing, x, given)


def patch_means(given: Tensor, size: int) -> Keep:
    """Keeps the mean of each patch of size x size pixels: A is `basis` with equal weights, on the pixels of a patch."""
    matrix = basis(torch.ones(size * size)).to(given)
    known = to_patches(given, size) @ matrix[:, :1]

    def keep(x: Tensor) -> Tensor:
        detail = to_patches(x, size) @ matrix[:, 1:]
        whole = torch.cat([known.expand(*detail.shape[:4], 1), detail], dim=-1)
        return from_patches(whole @ matrix.T, size)

    return keep


def grey_values(given: Tensor, weights: Tensor) -> Keep:
    """Keeps the sum of each pixel's channels with these weights [C]: A is `basis(weights)` on the channels."""
    matrix = basis(weights).to(given)
    known = torch.einsum("bchw,cd->bdhw", given, matrix[:, :1])

    def keep(x: Tensor) -> Tensor:
        colour = torch.einsum("bchw,cd->bdhw", x, matrix[:, 1:])
        whole = torch.cat([known.expand(len(x), -1, -1, -1), colour], dim=1)
        return torch.einsum("bdhw,cd->bchw", whole, matrix)

    return keep


def basis(first: Tensor) -> Tensor:
    """An orthogonal matrix, float64 [N, N], whose first column is `first` [N] divided by its length.

    It is Householder's reflection of the first axis onto that vector.
    """
    precise = first.double()
    unit = precise / (precise * precise).sum().sqrt()
    axis = torch.zeros_like(unit)
    axis[0] = -1.0 if unit[0] > 0 else 1.0  # the far end of the axis, so that nothing cancels
    normal = axis - unit
    reflection = torch.eye(len(unit), dtype=torch.float64) - 2 * torch.outer(normal, normal) / torch.dot(normal, normal)
    return reflection * axis[0]


def to_patches(x: Tensor, size: int) -> Tensor:
    """[B, C, H, W] -> [B, C, H / size, W / size, size * size]: the pixels of each patch, row by row."""
    batch, channels, height, width = x.shape
    cut = x.reshape(batch, channels, height // size, size, width // size, size)
    return cut.transpose(3, 4).flatten(4)


def from_patches(patches: Tensor, size: int) -> Tensor:
    """The inverse of `to_patches`."""
    batch, channels, rows, columns, _ = patches.shape
    cut = patches.reshape(batch, channels, rows, columns, size, size)
    return cut.transpose(3, 4).reshape(batch, channels, rows * size, columns * size)
