"""Interpolation: noise that stays standard normal, ends that are the seeds' own, classes on a circle."""

import math

import pytest
import torch

from scm.generation.generate import conditioned
from scm.samplers import SampleNoise
from scm.samplers.interpolation import NoiseBetween, class_rows
from tests.support.models import tiny_model

SHAPE = (1, 8, 8)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.5, 0.9])
def test_noise_between_seeds_stays_standard_normal(fraction):
    count = 2000
    noise = NoiseBetween(range(count), range(count, 2 * count), [fraction] * count, SHAPE)
    for draw in (noise.draw(), noise.draw()):
        squares = draw.square().sum((1, 2, 3))  # chi-squared of 64 degrees: mean 64, variance 128
        assert squares.mean().item() == pytest.approx(64, abs=4 * math.sqrt(128 / count))
        assert squares.var().item() == pytest.approx(128, rel=0.2)
        assert abs(draw.mean().item()) < 4 / math.sqrt(count * 64)


def test_the_ends_are_the_seeds_own_noise_in_each_draw():
    start, end = NoiseBetween([3], [4], [0.0], SHAPE), NoiseBetween([3], [4], [1.0], SHAPE)
    first, second = SampleNoise([3], SHAPE), SampleNoise([4], SHAPE)
    for _ in range(2):
        assert torch.equal(start.draw(), first.draw())
        torch.testing.assert_close(end.draw(), second.draw(), rtol=0, atol=1e-6)


def test_neighbouring_fractions_give_neighbouring_noise():
    """The path has constant speed: a step of a moves by pi / 2 a along a circle of radius sqrt(64)."""
    fractions = [step / 30 for step in range(31)]
    path = NoiseBetween([0] * 31, [1] * 31, fractions, SHAPE).draw().flatten(1)
    steps = (path[1:] - path[:-1]).norm(dim=1)
    assert steps.max() / steps.min() < 1.4 and steps.mean() == pytest.approx(math.pi / 60 * 8, rel=0.2)


def test_class_rows_lie_on_the_circle_from_one_class_to_the_other():
    first, second = torch.tensor([0, 0, 2, -1]), torch.tensor([1, 1, 2, -1])
    rows = class_rows(first, second, [0.0, 1 / 3, 0.7, 0.5], 3)
    expected = [[1, 0, 0], [math.sqrt(3) / 2, 0.5, 0], [0, 0, 1], [0, 0, 0]]
    torch.testing.assert_close(rows, torch.tensor(expected))
    assert torch.equal(rows[0], torch.tensor([1.0, 0, 0]))


@pytest.mark.parametrize("architecture", ["edm2", "ddpmpp"])
def test_a_network_takes_rows_between_classes(architecture):
    """A row at a class is that class bit for bit, guided too, and the network changes steadily in between."""
    model = tiny_model(architecture=architecture, width=16).eval()
    x, t = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.full((3,), 1.2)
    labels, rows = torch.tensor([0, 1, 2]), torch.eye(3)
    with torch.no_grad():
        for guidance in (1.0, 1.5):
            own = conditioned(model, labels, guidance)(x, t)
            assert torch.equal(conditioned(model, rows, guidance)(x, t), own)
        between = [conditioned(model, torch.tensor([[1 - a, a, 0.0]]), 1.0)(x[:1], t[:1]) for a in (0.0, 0.5, 1.0)]
    apart = (between[2] - between[0]).norm()
    assert apart > 0 and all((between[1] - end).norm() < apart for end in (between[0], between[2]))
