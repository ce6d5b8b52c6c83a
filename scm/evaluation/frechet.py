"""The Frechet distance between real and generated images, in float64, through torchmetrics.

    FD = |m_r - m_g|^2 + tr(C_r + C_g - 2 (C_r C_g)^(1/2))          (Heusel et al. 2017, arXiv 1706.08500)

with the mean m and the unbiased covariance C of the features of the real (r) and the generated (g) images. The metric
keeps sums over images rather than features, so that the real images' part is computed once, stored and put back.

Two traps of torchmetrics that this room closes: the result comes back in the features' type, so that a float32
extractor would round a float64 metric; and float32 features would depend on how the images were put in batches.
A float64 extractor settles both. It runs here rather than in the metric, which is given the features, so that other
figures of the same images need no second pass.
"""

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from scm.errors import UserError

LARGEST_BATCH = 256
"""Images in one forward pass of the extractor; bounds the memory and changes no figure."""

FEWEST_SAMPLES = 2
"""A covariance needs two samples. With no more samples than features it is singular: the distance stays defined,
but the roots of eigenvalues that are 0 but for rounding leave a relative error of about 1e-7."""

_STATES = {
    "sum": "real_features_sum",
    "outer_sum": "real_features_cov_sum",
    "count": "real_features_num_samples",
}


class _Features(nn.Module):
    """What the metric takes for its extractor: gives back the features that it is given."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.num_features = extractor.num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class FrechetDistance:
    """Compares sets of images with a set of real images, by the features of one extractor."""

    def __init__(self, extractor: nn.Module) -> None:
        """Wraps an extractor, which is changed to float64 in place and stays on its device.

        Args:
            extractor: Maps images [B, ...] to features [B, F] and has the attribute `num_features` = F.
        """
        self._extractor = extractor.double()
        # In a group of processes the metric would add up everybody's states, the real images' as well.
        self._metric = FrechetInceptionDistance(
            feature=_Features(extractor), reset_real_features=False, sync_on_compute=False
        )
        self._metric.set_dtype(torch.float64)
        weight = next(extractor.parameters(), None)
        self._metric.to(torch.device("cpu") if weight is None else weight.device)

    @torch.no_grad()
    def features(self, images: Tensor, batch: int = LARGEST_BATCH) -> Tensor:
        """Features of images [N, ...], float64 [N, F] on the extractor's device.

        Args:
            images: Of the type that the extractor takes.
            batch: Images in one forward pass; changes the rounding alone.
        """
        parts = images.split(min(batch, LARGEST_BATCH))
        return torch.cat([self._extractor(part.to(self._metric.device)).double() for part in parts])

    def add_real(self, images: Tensor, batch: int = LARGEST_BATCH) -> None:
        """Adds images [N, ...] to the real ones."""
        for some in images.split(min(batch, LARGEST_BATCH)):
            self._metric.update(self.features(some), real=True)

    @property
    def real_statistics(self) -> dict[str, Tensor]:
        """The real images' "sum" of features [F], "outer_sum" of f f^T [F, F] and "count" [], float64 on the CPU."""
        return {name: getattr(self._metric, state).cpu().clone() for name, state in _STATES.items()}

    @real_statistics.setter
    def real_statistics(self, statistics: dict[str, Tensor]) -> None:
        for name, state in _STATES.items():
            setattr(self._metric, state, statistics[name].to(self._metric.device, torch.float64, copy=True))

    def distance(self, images: Tensor, batch: int = LARGEST_BATCH) -> float:
        """The distance between images [N, ...] and all real images so far; see `features`, `distance_of`."""
        return self.distance_of(self.features(images, batch))

    def distance_of(self, features: Tensor) -> float:
        """The distance between features [N, F] of generated images and those of all real images so far.

        Returns:
            The distance in squared units of a feature.

        Raises:
            UserError: Fewer than two images on either side.
        """
        real = int(self._metric.real_features_num_samples)
        for kind, count in (("real", real), ("generated", len(features))):
            if count < FEWEST_SAMPLES:
                raise UserError(f"a Frechet distance needs at least {FEWEST_SAMPLES} {kind} images, not {count}")
        self._metric.reset()
        for some in features.split(LARGEST_BATCH):
            self._metric.update(some, real=False)
        # Rounding can leave a distance of 0 at -1e-9. The order matters: max(0.0, nan) would be a perfect 0.
        return max(self._metric.compute().item(), 0.0)
