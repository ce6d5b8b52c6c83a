import math

import numpy
import pytest
import scipy.linalg
import torch

from scm.errors import UserError
from scm.evaluation.frechet import distance_between
from scm.evaluation.statistics import of_moments, statistics_of, together

EDM_FID_16D = 2.9998704239994427
"""What EDM2's original program (NVlabs/edm2 at 4bf8162, calculate_metrics.py) answers for the two sets below."""


def with_scipy(real, generated):
    """The distance's definition, with a matrix square root."""
    real, generated = real.double().numpy(), generated.double().numpy()
    difference = real.mean(0) - generated.mean(0)
    first, second = numpy.cov(real, rowvar=False), numpy.cov(generated, rowvar=False)
    root = numpy.real(numpy.asarray(scipy.linalg.sqrtm(first @ second)))
    return difference @ difference + numpy.trace(first + second - 2 * root)


def measured(real, generated):
    return distance_between(statistics_of(real), statistics_of(generated))


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


def test_two_images_on_either_side_suffice():
    """Means 1 and 3, variances 2 and 8 in one dimension: 2^2 + (sqrt 2 - sqrt 8)^2."""
    assert measured(torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]])) == pytest.approx(6.0)


def test_sums_may_be_taken_in_parts():
    real, generated = drawn(600, 8, 1), drawn(400, 8, 2)
    whole = measured(real, generated)
    assert whole > 0
    for size in (1, 7, 399):
        sums, parts = (together(statistics_of(some) for some in each.split(size)) for each in (real, generated))
        assert distance_between(sums, parts) == pytest.approx(whole, rel=1e-9)
        assert parts["count"] == 400


def test_statistics_are_left_alone():
    real, generated = statistics_of(drawn(200, 6, 1)), statistics_of(drawn(150, 6, 2))
    before = {name: value.clone() for name, value in real.items()}
    first = distance_between(real, generated)
    together([real, generated])
    assert distance_between(real, generated) == first
    assert all(torch.equal(real[name], value) for name, value in before.items())


def test_result_is_not_rounded_to_float32():
    real, generated = drawn(300, 8, 1), drawn(300, 8, 2)
    result = measured(real, generated)
    assert result == pytest.approx(with_scipy(real, generated), rel=1e-9)
    assert result != float(numpy.float32(result))


def test_mean_and_covariance_serve_as_well():
    """As other people's statistics come, whose number of images is not known."""
    real, generated = drawn(900, 24, 1), drawn(700, 24, 2)
    moments = of_moments(real.mean(0), real.T.cov())
    assert moments["count"] != 900
    expected = with_scipy(real, generated)
    assert distance_between(moments, statistics_of(generated)) == pytest.approx(expected, rel=1e-6)


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
