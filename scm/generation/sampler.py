"""Samplers with fixed times, which turn noise into samples in a known number of network evaluations."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from scm.samplers import SampleNoise, consistency, ddim, edm_sigmas, heun, multistep


@dataclass(frozen=True)
class Sampler:
    """A sampler with fixed times.

    Attributes:
        nfe: network evaluations for one sample.
        run: turns F(x / sigma_d, t[, segment]) and noise into samples [B, C, H, W].
    """

    nfe: int
    run: Callable[[Callable[..., Tensor], SampleNoise], Tensor]


def heun_sampler(steps: int, sigma_min: float, sigma_max: float, rho: float, sigma_d: float) -> Sampler:
    """EDM's Heun sampler on EDM's noise levels: 2 steps - 1 evaluations."""
    sigmas = edm_sigmas(steps, sigma_min, sigma_max, rho)
    return Sampler(2 * steps - 1, lambda function, noise: heun(function, noise.draw(), sigmas, sigma_d))


def ddim_sampler(times: Sequence[float], sigma_d: float) -> Sampler:
    """DDIM at `times`, in radians from t_max down to 0."""
    return Sampler(len(times) - 1, lambda function, noise: ddim(function, noise.draw(), times, sigma_d))


def consistency_sampler(times: Sequence[float], sigma_d: float) -> Sampler:
    """Consistency sampling at `times`, in radians from t_max down."""
    return Sampler(len(times), lambda function, noise: consistency(function, noise, times, sigma_d))


def multistep_sampler(segments: int, t_max: float, sigma_d: float) -> Sampler:
    """One jump in each segment of [0, t_max]; a flow map's segments may be any number."""
    return Sampler(segments, lambda function, noise: multistep(function, noise, segments, t_max, sigma_d))


def t_max_of(sigma_max: float, sigma_d: float) -> float:
    """The time at which sampling starts: arctan(sigma_max / sigma_d), 1.5645 in the paper."""
    return math.atan(sigma_max / sigma_d)
