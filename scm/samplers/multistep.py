"""Sampling of multistep consistency models: one jump for each segment (table 6)."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from scm import trigflow
from scm.samplers.noise import SampleNoise

SegmentFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""F(x / sigma_d, t, t_k) with the labels filled in; t_k is the start of the segment."""


@torch.no_grad()
def multistep(function: SegmentFunction, noise: SampleNoise, segments: int, t_max: float, sigma_d: float) -> Tensor:
    """x <- cos(t - t_k) x - sin(t - t_k) sigma_d F from each segment's end t to its start t_k, from t_max down to 0.

    Deterministic after the first draw.

    Args:
        segments: M, of equal length in t.
        t_max: radians, arctan(sigma_max / sigma_d).

    Returns:
        Samples [B, C, H, W] with standard deviation sigma_d.
    """
    x = noise.draw() * sigma_d
    boundaries = [t_max * k / segments for k in range(segments, -1, -1)]
    for end, start in pairwise(boundaries):
        t, t_k = (torch.full(x.shape[:1], time, device=x.device, dtype=x.dtype) for time in (end, start))
        x = trigflow.denoise(x, t - t_k, function(x / sigma_d, t, t_k), sigma_d)
    return x
