import math

import numpy
import pytest
import scipy.linalg
import torch
from torch import nn

from scm.errors import UserError
from scm.evaluation.frechet import FrechetDistance

EDM_FID_16D = 2.9998704239994427
"""What EDM2's original program (NVlabs/edm2 at 4bf8162, calculate_metrics.py) answers for the two sets below."""


class Identity(nn.Module):
    """Takes features for images."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.num_features = features

    def forward(self, images):
        return images


class Squashed(nn.Module):
    """A float32 extractor of flattened uint8 images."""

    def __init__(self, pixels: int, features: int) -> None:
        super().__init__()
        self.num_features = features
        self.layer = nn.Linear(pixels, features)

    def forward(self, images):
        return torch.tanh(self.layer(images.to(self.layer.weight.dtype).flatten(1) / 255))


def with_scipy(real, generated):
    """The distance's definition, with a matrix square root."""
    real, generated = real.double().numpy(), generated.double().numpy()
    difference = real.mean(0) - generated.mean(0)
    first, second = numpy.cov(real, rowvar=False), numpy.cov(generated, rowvar=False)
    root = numpy.real(numpy.asarray(scipy.linalg.sqrtm(first @ second)))
    return difference @ difference + numpy.trace(first + second - 2 * root)


def measured(real, generated, extractor=None, **settings):
    frechet = FrechetDistance(extractor or Identity(real.shape[1]))
    frechet.add_real(real)
    return frechet.distance(generated, **settings)


def drawn(count, features, seed):
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(features, features, generator=random, dtype=torch.float64)
    return torch.randn(count, features, generator=random, dtype=torch.float64) @ mixing + seed


def test_equals_scipy():
    real, generated = drawn(900, 24, 1), drawn(700, 24, 2)
    assert measured(real, generated) == pytest.approx(with_scipy(real, generated), rel=1e-6)


def test_equals_edms_program():
    """Both covariances are singular, so that the program itself is 1e-7 away from the exact distance."""
    j = torch.arange(500 * 16, dtype=torch.float64).reshape(500, 16)
    real = torch.cos(0.37 * j) + torch.sin(0.011 * j**1.3)
    j = j[:400]
    generated = 1.1 * torch.cos(0.53 * j + 1) + torch.sin(0.013 * j**1.3)
    assert measured(real, generated) == pytest.approx(EDM_FID_16D, rel=1e-6)


def test_fewer_samples_than_features():
    """scipy's matrix root fails on singular covariances, so the expectation is the sum of the small matrix's roots."""
    real, generated = drawn(300, 32, 1), drawn(10, 32, 2)
    first, second = numpy.cov(real.numpy(), rowvar=False), numpy.cov(generated.numpy(), rowvar=False)
    values, vectors = numpy.linalg.eigh(first)
    root = vectors * numpy.sqrt(values) @ vectors.T
    common = numpy.sqrt(numpy.linalg.eigvalsh(root @ second @ root).clip(min=0)).sum()
    difference = (real.mean(0) - generated.mean(0)).numpy()
    expected = difference @ difference + numpy.trace(first) + numpy.trace(second) - 2 * common
    assert measured(real, generated) == pytest.approx(expected, rel=1e-6)


def test_of_a_set_to_itself_is_zero_and_never_negative():
    real = drawn(500, 16, 3)
    assert 0 <= measured(real, real) < 1e-6 * real.var(0).sum()


def test_what_is_not_finite_is_no_perfect_score():
    real, generated = drawn(500, 16, 3), drawn(500, 16, 4)
    generated[0, 0] = math.inf
    assert math.isnan(measured(real, generated))


def test_does_not_depend_on_the_batches():
    random = torch.Generator().manual_seed(0)
    real = torch.randint(256, (600, 1, 8, 8), generator=random, dtype=torch.uint8)
    generated = (real[:400] // 2 + 30).to(torch.uint8)
    extractor = Squashed(64, 8)
    whole = measured(real, generated, extractor)
    assert whole > 0
    for batch in (1, 7, 399, 5000):
        assert measured(real, generated, extractor, batch=batch) == pytest.approx(whole, rel=1e-8)


def test_features_serve_for_the_distance_without_a_second_pass():
    random = torch.Generator().manual_seed(0)
    real = torch.randint(256, (600, 1, 8, 8), generator=random, dtype=torch.uint8)
    extractor = Squashed(64, 8)
    frechet = FrechetDistance(extractor)
    frechet.add_real(real)
    features = frechet.features(255 - real)
    assert features.dtype == torch.float64 and not features.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(features, extractor(255 - real), rtol=1e-12, atol=1e-15)
    expected = frechet.distance(255 - real)
    extractor.forward = lambda images: pytest.fail("the images were measured again")  # type: ignore[method-assign]
    assert frechet.distance_of(features) == expected > 0


def test_result_is_not_rounded_to_float32():
    random = torch.Generator().manual_seed(0)
    real = torch.randint(256, (300, 1, 8, 8), generator=random, dtype=torch.uint8)
    extractor = Squashed(64, 8)
    result = measured(real, 255 - real, extractor)
    with torch.no_grad():
        expected = with_scipy(extractor(real), extractor(255 - real))
    assert result == pytest.approx(expected, rel=1e-9)
    assert result != float(numpy.float32(result))


def test_each_distance_starts_afresh_and_statistics_can_be_put_back():
    real, generated = drawn(200, 6, 1), drawn(150, 6, 2)
    frechet = FrechetDistance(Identity(6))
    frechet.add_real(real[:120])
    frechet.add_real(real[120:])
    first = frechet.distance(generated)
    frechet.distance(10 * generated)
    assert frechet.distance(generated) == first
    restored = FrechetDistance(Identity(6))
    restored.real_statistics = frechet.real_statistics
    assert restored.distance(generated) == first
    assert restored.real_statistics["count"] == 200
    restored.add_real(real)
    assert frechet.distance(generated) == first, "the statistics were copied"


@pytest.mark.parametrize(
    ("real", "generated", "text"),
    [
        (1, 5, "a Frechet distance needs at least 2 real images, not 1"),
        (5, 1, "a Frechet distance needs at least 2 generated images, not 1"),
        (5, 0, "a Frechet distance needs at least 2 generated images, not 0"),
    ],
)
def test_too_few_samples(real, generated, text):
    with pytest.raises(UserError) as error:
        measured(drawn(real, 3, 1), drawn(generated, 3, 2))
    assert str(error.value) == text
