"""Power-function averaging profiles: exponents, decay rates and inner products (EDM2 sec. 3 and app. C). numpy only.

A profile of exponent gamma weighs the weights at time tau <= t by tau^gamma. sigma_rel is its standard deviation
relative to t: the length of the average as a fraction of the training run.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SIGMA_REL_LIMIT = 12**-0.5
"""sigma_rel of gamma = 0, the plain mean of all weights (0.2887); longer averages do not exist."""


@lru_cache
def exponent_of(sigma_rel: float) -> float:
    """gamma for a given sigma_rel: the largest real root of EDM2's cubic.

    sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)).

    >>> round(exponent_of(0.05), 3), round(exponent_of(0.10), 3)
    (16.972, 6.937)
    """
    if not 0 < sigma_rel < SIGMA_REL_LIMIT:
        raise ValueError(f"sigma_rel must lie between 0 and {SIGMA_REL_LIMIT:.4f}, not {sigma_rel}")
    inverse = sigma_rel**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def decay(sigma_rel: float, images: int, step: int) -> float:
    """beta of the update average <- beta average + (1 - beta) weights after a step (EDM2 eq. 127).

    Args:
        images: images seen after the step.
        step: images of the step.

    >>> round(decay(0.05, images=1_000_000, step=2048), 4)
    0.9638
    """
    return (1 - step / images) ** (exponent_of(sigma_rel) + 1)


def halflife_decay(halflife: int, step: int) -> float:
    """beta of a plain exponential average whose profile halves every `halflife` images, for a step of `step` images.

    >>> halflife_decay(halflife=500, step=1000)
    0.25
    """
    return 0.5 ** (step / halflife)


def relative_width(halflife: int, images: int) -> float:
    """sigma_rel of the plain exponential average: its standard deviation, halflife / ln 2, over the images seen."""
    return halflife / math.log(2) / images


def inner_product(
    time_a: NDArray[np.float64], gamma_a: NDArray[np.float64], time_b: NDArray[np.float64], gamma_b: NDArray[np.float64]
) -> NDArray[np.float64]:
    """<p_a, p_b> of two profiles that end at the given times (EDM2 alg. 3), elementwise."""
    time_ratio = time_a / time_b
    power = np.where(time_a < time_b, gamma_b, -gamma_a)
    largest = np.maximum(time_a, time_b)
    return (gamma_a + 1) * (gamma_b + 1) * time_ratio**power / ((gamma_a + gamma_b + 1) * largest)


def coefficients(
    times: Sequence[float], sigma_rels: Sequence[float], target_time: float, target_sigma_rel: float
) -> NDArray[np.float64]:
    """Coefficients of the weighted sum of snapshots nearest to the wanted profile (least squares), scaled to sum 1.

    Args:
        times: images seen at each snapshot.
        sigma_rels: sigma_rel of each snapshot's profile.
        target_time: images seen at which the wanted average ends.

    Returns:
        float64, one for each snapshot.

    >>> coefficients([500, 1000], [0.1, 0.1], target_time=1000, target_sigma_rel=0.1).round(6) + 0.0
    array([0., 1.])
    """
    time = np.asarray(times, dtype=np.float64)
    gamma = np.array([exponent_of(value) for value in sigma_rels], dtype=np.float64)
    target_gamma = exponent_of(target_sigma_rel)
    gram = inner_product(time[:, None], gamma[:, None], time[None, :], gamma[None, :])
    wanted = inner_product(time, gamma, np.full_like(time, target_time), np.full_like(gamma, target_gamma))
    solution = np.linalg.solve(gram, wanted)
    return solution / solution.sum()
