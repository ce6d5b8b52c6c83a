"""The kernel distance against its definition, its expectation and torchmetrics."""

import numpy
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from scm.errors import UserError
from scm.evaluation import kernel
from scm.evaluation.kernel import kernel_distance


def draws(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_the_definition(real: torch.Tensor, generated: torch.Tensor) -> float:
    """All pairs in plain loops."""
    x, y = real.numpy(), generated.numpy()

    def k(a: numpy.ndarray, b: numpy.ndarray) -> float:
        return (sum(float(u) * float(v) for u, v in zip(a, b, strict=True)) / len(a) + 1.0) ** 3

    own = [
        sum(k(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j) / (len(s) * (len(s) - 1))
        for s in (x, y)
    ]
    return own[0] + own[1] - 2 * sum(k(a, b) for a in x for b in y) / (len(x) * len(y))


@pytest.mark.parametrize(("real", "generated", "features"), [(7, 5, 3), (4, 12, 1), (2, 2, 16)])
def test_equals_the_definition(real, generated, features):
    x, y = draws(0, real, features), 1.5 * draws(1, generated, features) + 0.3
    assert kernel_distance(x, y) == pytest.approx(by_the_definition(x, y), rel=1e-12, abs=1e-12)


def test_equals_torchmetrics_on_sets_of_one_size():
    x, y = draws(0, 300, 20), 1.2 * draws(1, 300, 20) - 0.1
    gamma = 1 / 20
    kernels = [(gamma * a @ b.T + 1) ** 3 for a, b in ((x, x), (x, y), (y, y))]
    expected = float(poly_mmd(x, y, degree=3, gamma=None, coef=1.0))
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-10)
    biased = float(kernels[0].mean() + kernels[2].mean() - 2 * kernels[1].mean())
    assert abs(kernel_distance(x, y) - biased) > 0.01, "and is not the biased estimate"


def test_two_sets_of_one_distribution_are_0_apart_whatever_their_number():
    """The mean over many sets of ten images; single ones may be below 0."""
    found = torch.tensor([kernel_distance(draws(2 * n, 10, 4), draws(2 * n + 1, 10, 4)) for n in range(2000)])
    assert abs(float(found.mean())) < 4 * float(found.std()) / 2000**0.5 and (found < 0).any()


def test_grows_with_a_shift_and_with_a_scale():
    x, y = draws(0, 2000, 8), draws(1, 2000, 8)
    near = kernel_distance(x, y)
    assert abs(near) < 0.02
    assert near < kernel_distance(x, y + 0.3) < kernel_distance(x, y + 1)
    assert near < kernel_distance(x, 1.5 * y) < kernel_distance(x, 2 * y)


def test_blocks_and_the_type_change_rounding_alone(monkeypatch):
    x, y = draws(0, 50, 6), draws(1, 40, 6) + 1
    whole = kernel_distance(x, y)
    assert kernel_distance(x.float(), y.float()) == pytest.approx(whole, rel=1e-5)
    monkeypatch.setattr(kernel, "BLOCK", 64)
    assert kernel_distance(x, y) == pytest.approx(whole, rel=1e-13)


@pytest.mark.parametrize(("real", "generated"), [(1, 5), (5, 1)])
def test_too_few_images(real, generated):
    text = f"a kernel distance needs at least 2 images on either side, not {real} real and {generated} generated: "
    with pytest.raises(UserError) as caught:
        kernel_distance(torch.zeros(real, 2), torch.zeros(generated, 2))
    assert str(caught.value) == text + "raise evaluate.samples, or add images"
