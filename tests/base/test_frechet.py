"""The Frechet distance against its closed form and against torchmetrics."""

import math

import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

from scm.base.frechet import frechet_distance


def test_the_distance_of_normal_distributions():
    """Distributions of diagonal covariance have a closed form: sum of (m - m')^2 + (s - s')^2."""
    mean, deviation = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 3.0]).double()
    turn = torch.linalg.qr(torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]

    def turned(deviation: torch.Tensor) -> torch.Tensor:
        return turn @ torch.diag(deviation**2) @ turn.T

    zero = torch.zeros(2, dtype=torch.float64)
    distance = frechet_distance(mean, turned(deviation), zero, turned(2 * deviation))
    assert distance == pytest.approx(1 + 4 + 0.25 + 9)
    assert frechet_distance(mean, turned(deviation), mean, turned(deviation)) == pytest.approx(0, abs=1e-12)
    assert math.isnan(frechet_distance(mean * math.nan, turned(deviation), zero, turned(deviation)))


class Pixels(torch.nn.Module):
    """An extractor for torchmetrics: an image's 3 x 2 x 2 pixels are its features."""

    num_features = 12

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


@pytest.mark.parametrize("count", [13, 60, 900])
def test_equals_torchmetrics(count):
    """Its metric is given images and computes mean, covariance and root by itself, the root from other eigenvalues."""
    draws = torch.Generator().manual_seed(count)
    mixing = torch.randn(12, 12, dtype=torch.float64, generator=draws)
    sets = [torch.randn(count, 12, dtype=torch.float64, generator=draws) @ mixing + shift for shift in (0, 0.3)]
    metric = FrechetInceptionDistance(feature=Pixels(), normalize=True, input_img_size=(3, 2, 2)).set_dtype(
        torch.float64
    )
    for features, real in zip(sets, (True, False), strict=True):
        metric.update(features.reshape(-1, 3, 2, 2), real=real)
    (mean, covariance), (other_mean, other_covariance) = ((each.mean(0), torch.cov(each.T)) for each in sets)
    distance = frechet_distance(mean, covariance, other_mean, other_covariance)
    assert distance == pytest.approx(metric.compute().item(), rel=1e-9)


def test_a_number_that_is_not_finite_is_no_perfect_score():
    mean, eye = torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    for place in range(4):
        values = [mean, eye, mean, eye]
        values[place] = values[place] + math.inf
        assert math.isnan(frechet_distance(*values))
