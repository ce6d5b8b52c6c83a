"""The Frechet distance between real and generated images, from sums over their features rather than from images.

The means and the unbiased covariances follow from these sums, so extractors run elsewhere, in a precision of their own,
and the real images' part is computed once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from scm.base.frechet import frechet_distance, square_root
from scm.errors import UserError
from scm.evaluation.statistics import Statistics

FEWEST_SAMPLES = 2
"""A covariance needs two samples. With no more samples than features it is singular: the distance stays defined,
but the roots of eigenvalues that are 0 but for rounding leave a relative error of about 1e-7."""


def distance_between(real: Statistics, generated: Statistics) -> float:
    """The distance in squared units of a feature; computed where the statistics of the generated images lie.

    Raises:
        UserError: fewer than two images on either side.
    """
    return distances_between(real, [generated])[0]


def distances_between(real: Statistics, generated: Sequence[Statistics]) -> list[float]:
    """The distances of several sets of generated images, for which the real ones' covariance is taken apart once."""
    for each in generated:
        _check(real, each)
    device = generated[0]["sum"].device
    mean, covariance = _moments(real, device)
    root = square_root(covariance) if bool(covariance.isfinite().all()) else None
    return [frechet_distance(mean, covariance, *_moments(each, device), root) for each in generated]


def _check(real: Statistics, generated: Statistics) -> None:
    for kind, statistics in (("real", real), ("generated", generated)):
        if statistics["count"] < FEWEST_SAMPLES:
            count = int(statistics["count"])
            raise UserError(f"a Frechet distance needs at least {FEWEST_SAMPLES} {kind} images, not {count}")


def _moments(statistics: Statistics, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean [F] and unbiased covariance [F, F], float64."""
    total, outer, count = (statistics[key].to(device, torch.float64) for key in ("sum", "outer_sum", "count"))
    mean = total / count
    return mean, (outer - count * torch.outer(mean, mean)) / (count - 1)
