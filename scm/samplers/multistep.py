"""Sampling by jumps from one time to the next: of multistep consistency models (table 6), and of flow maps."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from scm import trigflow
from scm.samplers.noise import SampleNoise

SegmentFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""F(x / sigma_d, t, s) with the labels filled in; s is the time that a jump from t ends at."""


def multistep(function: SegmentFunction, noise: SampleNoise, segments: int, t_max: float, sigma_d: float) -> Tensor:
    """One jump in each of `segments` segments of equal length in t, from t_max = arctan(sigma_max / sigma_d) to 0."""
    return jumps(function, noise, [t_max * k / segments for k in range(segments, -1, -1)], sigma_d)


@torch.no_grad()
def jumps(function: SegmentFunction, noise: SampleNoise, times: Sequence[float], sigma_d: float) -> Tensor:
    """x <- cos(t - s) x - sin(t - s) sigma_d F from each time t to the next one s. Deterministic after the first draw.

    Args:
        times: radians, descending; the first is t_max and the last 0.

    Returns:
        Samples [B, C, H, W] with standard deviation sigma_d.
    """
    x = noise.draw() * sigma_d
    for start, end in pairwise(times):
        t, s = (torch.full(x.shape[:1], time, device=x.device, dtype=x.dtype) for time in (start, end))
        x = trigflow.denoise(x, t - s, function(x / sigma_d, t, s), sigma_d)
    return x
