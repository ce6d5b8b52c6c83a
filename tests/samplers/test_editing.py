"""Zero-shot editing: orthogonal transforms, parts that are kept, and Gaussian data whose answer is known."""

import math

import pytest
import torch

from scm.samplers import SampleNoise
from scm.samplers.editing import (
    basis,
    edit,
    even_times,
    from_patches,
    grey_values,
    nothing,
    patch_means,
    pixels,
    to_patches,
)  # fmt: skip
from tests.support.models import Linear

SIGMA_D, T_MAX = 0.5, math.atan(80 / 0.5)
LUMA = torch.tensor([0.299, 0.587, 0.114])


class Exact:
    """F of the exact consistency function of Gaussian data, element by element: f(x_t, t) = mean + scale (x_t - cos t
    mean) / std(x_t), with std(x_t)^2 = cos^2 t scale^2 + sin^2 t sigma_d^2."""

    def __init__(self, scale: float, mean: float = 0.0) -> None:
        self.scale, self.mean = scale, mean

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        cos, sin, x_t = math.cos(t[0]), math.sin(t[0]), x * SIGMA_D
        deviation = math.sqrt((cos * self.scale) ** 2 + (sin * SIGMA_D) ** 2)
        solution = self.mean + self.scale * (x_t - cos * self.mean) / deviation
        return (cos * x_t - solution) / (sin * SIGMA_D)


def drawn(count: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)) * SIGMA_D


@pytest.mark.parametrize("first", [LUMA, torch.ones(4), torch.ones(9), torch.tensor([-1.0, 2.0]), torch.ones(1)])
def test_a_basis_is_orthogonal_and_begins_with_the_given_direction(first):
    matrix = basis(first)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(first), dtype=torch.float64), rtol=0, atol=1e-15)
    torch.testing.assert_close(matrix[:, 0], first.double() / first.double().norm(), rtol=0, atol=1e-15)


def test_patches_are_the_pixels_of_a_square_and_go_back_to_their_places():
    x = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    patches = to_patches(x, 2)
    assert patches.shape == (2, 3, 2, 3, 4)
    assert torch.equal(patches[1, 2, 1, 2], x[1, 2, 2:4, 4:6].flatten())
    assert torch.equal(from_patches(patches, 2), x)


def test_the_known_part_is_kept_and_the_rest_is_new():
    """Pixels bit for bit; means of patches and grey values to rounding, and what is orthogonal to them is x's own."""
    given, x = drawn(2, 3, 8, 8), drawn(2, 3, 8, 8, seed=1)
    missing = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    missing[..., 4:] = True
    kept = pixels(given, missing)(x)
    assert torch.equal(kept[..., :4], given[..., :4]) and torch.equal(kept[..., 4:], x[..., 4:])

    def means(images):
        return torch.nn.functional.avg_pool2d(images, 4)

    kept = patch_means(given, 4)(x)
    torch.testing.assert_close(means(kept), means(given), rtol=0, atol=1e-6)
    detail = x - means(x).repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(kept - means(given).repeat_interleave(4, 2).repeat_interleave(4, 3), detail)

    def grey(images):
        return torch.einsum("bchw,c->bhw", images, LUMA)

    kept = grey_values(given, LUMA)(x)
    torch.testing.assert_close(grey(kept), grey(given), rtol=0, atol=1e-6)
    change = (grey(given) - grey(x))[:, None] * (LUMA / LUMA.square().sum())[:, None, None]
    torch.testing.assert_close(kept - x, change, rtol=0, atol=1e-6)
    assert torch.equal(nothing()(x), x)


def test_the_first_start_is_the_paper_s_second_line():
    """y <- A^-1 [(A y) (1 - Omega)]: missing pixels are 0, and a patch or a colour is even."""
    given = drawn(1, 3, 4, 4)
    even = patch_means(given, 2)(torch.zeros_like(given))
    torch.testing.assert_close(
        even, torch.nn.functional.avg_pool2d(given, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    )
    line = grey_values(given, LUMA)(torch.zeros_like(given))
    torch.testing.assert_close(line[:, 0] / LUMA[0], line[:, 2] / LUMA[2])


def test_times_descend_evenly_to_the_one_before_zero():
    times = even_times(T_MAX, 10)
    assert times[0] == T_MAX and times == sorted(times, reverse=True)
    torch.testing.assert_close(torch.tensor(times[:-1]) - torch.tensor(times[1:]), torch.full((9,), T_MAX / 10))
    assert times[-1] == pytest.approx(T_MAX / 10)


def test_each_step_is_algorithm_4_s():
    """Diffuse, jump, replace, written out with the paper's own symbols; each step takes a new draw."""
    y, omega = drawn(1, 1, 2, 2), torch.tensor([[[[True, False], [False, True]]]])
    f, times = Exact(0.3), [1.5, 0.8]
    noise = SampleNoise([7], (1, 2, 2))
    x = y * ~omega
    for t in times:
        x_t = math.cos(t) * x + math.sin(t) * SIGMA_D * noise.draw()
        deviation = math.sqrt((math.cos(t) * 0.3) ** 2 + (math.sin(t) * SIGMA_D) ** 2)
        x = y * ~omega + 0.3 * x_t / deviation * omega
    keep = pixels(y, omega)
    edited = edit(f, SampleNoise([7], (1, 2, 2)), keep(torch.zeros_like(y)), keep, times, SIGMA_D)
    torch.testing.assert_close(edited, x)


def test_the_missing_pixels_of_gaussian_data_have_the_data_s_mean_and_deviation():
    """Independent pixels: the conditional distribution is the data's own, whatever the given pixels are."""
    count, mean, scale = 4000, 0.25, 0.3
    given = torch.full((count, 1, 2, 2), 3.0)
    missing = torch.tensor([[True, True], [False, False]])
    keep, noise = pixels(given, missing), SampleNoise(range(count), (1, 2, 2))
    edited = edit(Exact(scale, mean), noise, keep(torch.zeros_like(given)), keep, even_times(T_MAX, 6), SIGMA_D)
    assert torch.equal(edited[..., 1, :], given[..., 1, :])
    new = edited[..., 0, :]
    assert new.mean().item() == pytest.approx(mean, abs=4 * scale / math.sqrt(2 * count))
    assert new.std().item() == pytest.approx(scale, rel=0.04)


def test_the_detail_of_gaussian_data_has_its_conditional_deviation():
    """Equal pixels of deviation s around a given patch mean: each deviates by s sqrt(1 - 1 / N) from it."""
    count, scale, size = 4000, 0.3, 2
    given = torch.full((1, 1, 2, 2), 0.7)  # one image for all samples
    keep, noise = patch_means(given, size), SampleNoise(range(count), (1, 2, 2))
    edited = edit(Exact(scale), noise, keep(torch.zeros_like(given)), keep, even_times(T_MAX, 6), SIGMA_D)
    torch.testing.assert_close(edited.mean((1, 2, 3)), torch.full((count,), 0.7), rtol=0, atol=1e-6)
    assert (edited - 0.7).std().item() == pytest.approx(scale * math.sqrt(1 - 1 / 4), rel=0.04)


@pytest.mark.parametrize("first", [0.2, 0.8, 1.5])
def test_strokes_are_followed_the_more_the_less_they_are_diffused(first):
    """The mean of f(cos t y + sin t z, t) is mean + scale cos t (y - mean) / std(x_t)."""
    count, mean, scale, stroke = 4000, 0.1, 0.3, 0.9
    start = torch.full((count, 1, 1, 1), stroke)
    edited = edit(Exact(scale, mean), SampleNoise(range(count), (1, 1, 1)), start, nothing(), [first], SIGMA_D)
    deviation = math.sqrt((math.cos(first) * scale) ** 2 + (math.sin(first) * SIGMA_D) ** 2)
    expected = mean + scale * math.cos(first) * (stroke - mean) / deviation
    assert edited.mean().item() == pytest.approx(expected, abs=4 * scale / math.sqrt(count))


def test_the_exact_function_of_these_tests_is_the_flow_of_the_exact_teacher():
    """`Linear`'s velocity at f's solution: d/dt of scale x_t / std(x_t) along the ODE is 0."""
    t, x_t = torch.tensor([0.9], dtype=torch.float64), torch.tensor([[[[0.4]]]], dtype=torch.float64)
    step = 1e-5

    def solution(x, time):
        output = Exact(0.3)(x / SIGMA_D, time)
        return torch.cos(time) * x - torch.sin(time) * SIGMA_D * output

    along = x_t + step * SIGMA_D * Linear(0.3, SIGMA_D).double()(x_t / SIGMA_D, t)
    assert solution(along, t + step).item() == pytest.approx(solution(x_t, t).item(), abs=1e-9)
