"""Samplers of the probability-flow ODE dx_t/dt = sigma_d F(x_t / sigma_d, t) (sec. 3), for teachers."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from scm import trigflow

Function = Callable[[Tensor, Tensor], Tensor]
"""F(x / sigma_d, t) with the labels filled in: [B, C, H, W], [B] -> [B, C, H, W]."""


def edm_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float) -> list[float]:
    """EDM's noise levels for `steps` steps, from sigma_max down to sigma_min and then 0 (Karras et al. 2022, eq. 5).

    >>> [round(sigma, 3) for sigma in edm_sigmas(4, sigma_min=0.002, sigma_max=80.0, rho=7.0)]
    [80.0, 9.723, 0.47, 0.002, 0.0]
    """
    if steps == 1:
        return [sigma_max, 0.0]
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return [(high + i / (steps - 1) * (low - high)) ** rho for i in range(steps)] + [0.0]


@torch.no_grad()
def ddim(function: Function, noise: Tensor, times: Sequence[float], sigma_d: float) -> Tensor:
    """DDIM in TrigFlow (app. B): x_t = cos(s - t) x_s - sin(s - t) sigma_d F(x_s / sigma_d, s).

    Args:
        noise: standard normal [B, C, H, W]; the start is sigma_d times it.
        times: radians, descending, the last one 0; N + 1 times take N network evaluations.
    """
    x = noise * sigma_d
    for s, t in pairwise(times):
        output = function(x / sigma_d, torch.full(x.shape[:1], s, device=x.device, dtype=x.dtype))
        x = math.cos(s - t) * x - math.sin(s - t) * sigma_d * output
    return x


def heun(function: Function, noise: Tensor, sigmas: Sequence[float], sigma_d: float) -> Tensor:
    """The end of `heun_points`, [B, C, H, W]; N steps take 2 N - 1 network evaluations.

    Args:
        noise: standard normal [B, C, H, W]; the start is sigmas[0] times it.
        sigmas: noise levels, descending, the last one 0 (`edm_sigmas`).
    """
    return deque(heun_points(function, noise, sigmas, sigma_d), maxlen=1).pop()


@torch.no_grad()
def heun_points(function: Function, noise: Tensor, sigmas: Sequence[float], sigma_d: float) -> Iterator[Tensor]:
    """EDM's second-order sampler (Karras et al. 2022, alg. 1 without churn) = DPM-Solver-2S with Heun's midpoint.

    Steps in EDM's x_sigma = x_t / cos t, where the ODE reads dx/dsigma = (x - D) / sigma. The last step, to sigma = 0,
    is Euler's.

    Args:
        noise: as of `heun`.
        sigmas: as of `heun`.

    Yields:
        x_sigma at each noise level, [B, C, H, W].
    """

    def slope(x: Tensor, sigma: float) -> Tensor:
        t = torch.full(x.shape[:1], trigflow.time_of_sigma(sigma, sigma_d), device=x.device, dtype=x.dtype)
        x_t = trigflow.per_sample(torch.cos(t), x) * x
        return (x - trigflow.denoise(x_t, t, function(x_t / sigma_d, t), sigma_d)) / sigma

    x = noise * sigmas[0]
    yield x
    for sigma, following in pairwise(sigmas):
        first = slope(x, sigma)
        euler = x + (following - sigma) * first
        x = euler if following == 0 else x + (following - sigma) * (first + slope(euler, following)) / 2
        yield x
