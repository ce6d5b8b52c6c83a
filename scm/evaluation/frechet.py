"""The Frechet distance between real and generated images, from sums over their features rather than from images.

The means and the unbiased covariances follow from these sums, so extractors run elsewhere, in a precision of their own,
and the real images' part is computed once.
"""

import torch
from torch import Tensor

from scm.base.frechet import frechet_distance
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
    for kind, statistics in (("real", real), ("generated", generated)):
        if statistics["count"] < FEWEST_SAMPLES:
            count = int(statistics["count"])
            raise UserError(f"a Frechet distance needs at least {FEWEST_SAMPLES} {kind} images, not {count}")
    device = generated["sum"].device
    return frechet_distance(*_moments(real, device), *_moments(generated, device))


def _moments(statistics: Statistics, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean [F] and unbiased covariance [F, F], float64."""
    total, outer, count = (statistics[key].to(device, torch.float64) for key in ("sum", "outer_sum", "count"))
    mean = total / count
    return mean, (outer - count * torch.outer(mean, mean)) / (count - 1)
