"""Consistency sampling in one step or several (sec. 2 and 5; Song et al. 2023, alg. 1)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scm import trigflow
from scm.samplers.noise import SampleNoise
from scm.samplers.ode import Function


@torch.no_grad()
def consistency(function: Function, noise: SampleNoise, times: Sequence[float], sigma_d: float) -> Tensor:
    """x <- f(x, t) at the first time, then for each further one: diffuse back to it with fresh noise and apply f again.

    Args:
        noise: the first draw is the start; each further step takes a new draw.
        times: radians, descending; the first is t_max = arctan(sigma_max / sigma_d).

    Returns:
        Samples [B, C, H, W] with standard deviation sigma_d.
    """
    x = torch.zeros(())
    for step, t in enumerate(times):
        z = noise.draw() * sigma_d
        x = z if step == 0 else math.cos(t) * x + math.sin(t) * z
        time = torch.full(x.shape[:1], t, device=x.device, dtype=x.dtype)
        x = trigflow.denoise(x, time, function(x / sigma_d, time), sigma_d)
    return x
