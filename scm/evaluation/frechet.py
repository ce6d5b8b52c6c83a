"""The Frechet distance between real and generated images, in float64, through torchmetrics.

    FD = |m_r - m_g|^2 + tr(C_r + C_g - 2 (C_r C_g)^(1/2))          (Heusel et al. 2017, arXiv 1706.08500)

with the mean m and the unbiased covariance C of the features of the real (r) and the generated (g) images. The metric
gets sums over images (`statistics`) rather than images: extractors run elsewhere, in a precision of their own, and the
real images' part is computed once.
"""

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from scm.errors import UserError
from scm.evaluation.statistics import Statistics

FEWEST_SAMPLES = 2
"""A covariance needs two samples. With no more samples than features it is singular: the distance stays defined,
but the roots of eigenvalues that are 0 but for rounding leave a relative error of about 1e-7."""

_STATES = {"sum": "features_sum", "outer_sum": "features_cov_sum", "count": "features_num_samples"}


class _NoExtractor(nn.Module):
    """What the metric takes for its extractor, and never calls."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def frechet_distance(real: Statistics, generated: Statistics) -> float:
    """The distance in squared units of a feature; computed where the statistics of the generated images lie.

    Raises:
        UserError: fewer than two images on either side.
    """
    for kind, statistics in (("real", real), ("generated", generated)):
        if statistics["count"] < FEWEST_SAMPLES:
            count = int(statistics["count"])
            raise UserError(f"a Frechet distance needs at least {FEWEST_SAMPLES} {kind} images, not {count}")
    # In a group of processes the metric would add up everybody's states, the real images' as well.
    metric = FrechetInceptionDistance(feature=_NoExtractor(len(real["sum"])), sync_on_compute=False)
    metric.orig_dtype = torch.float64  # of the result
    for side, statistics in (("real", real), ("fake", generated)):
        for name, state in _STATES.items():
            value: Tensor = statistics[name].to(generated["sum"].device, torch.float64)
            setattr(metric, f"{side}_{state}", value)
    metric._update_count = 1  # torchmetrics would warn that nothing was measured
    # Rounding can leave a distance of 0 at -1e-9. The order matters: max(0.0, nan) would be a perfect 0.
    return max(metric.compute().item(), 0.0)
