"""Dropout: masks that depend on the sample alone."""

import numpy as np
import pytest
import torch

from scm.base.randomness import global_draws
from scm.networks.dropout import dropout, for_layer, hashed, samples_from, seeds_of_samples

CPU = torch.device("cpu")


def masks(seed: int = 0, first: int = 0, count: int = 64, layer: int = 0, probability: float = 0.3) -> torch.Tensor:
    """1 where an element of a layer's [count, 8, 16, 16] is kept."""
    with global_draws(seed), samples_from(first):
        seeds = for_layer(seeds_of_samples(count, CPU), layer)
    assert seeds is not None
    return (dropout(torch.ones(count, 8, 16, 16), probability, seeds) != 0).float()


def test_the_hash_is_numpys_of_unsigned_numbers():
    numbers = torch.cat([torch.arange(-5, 1000), torch.tensor([2**31 - 1, -(2**31)])]).to(torch.int32)
    x = numbers.numpy().astype(np.uint32)
    x ^= x >> 16
    x *= np.uint32(0x21F0AAAD)
    x ^= x >> 15
    x *= np.uint32(0x735A2D97)
    x ^= x >> 15
    assert np.array_equal(hashed(numbers).numpy().view(np.uint32), x)
    assert len(hashed(numbers).unique()) == len(numbers)


@pytest.mark.parametrize("probability", [0.05, 0.3, 0.5, 0.9])
def test_the_probability_and_the_scale_of_what_is_kept(probability):
    with global_draws(1):
        seeds = seeds_of_samples(64, CPU)
    found = dropout(torch.ones(64, 8, 16, 16), probability, seeds)
    assert found.unique().tolist() == pytest.approx([0.0, 1 / (1 - probability)])
    deviation = (probability * (1 - probability) / found.numel()) ** 0.5
    assert abs(float((found == 0).float().mean()) - probability) < 4 * deviation


def test_masks_of_samples_layers_steps_and_neighbours_are_independent():
    one = masks() - 0.7
    others = {
        "next sample": one.roll(1, 0), "next channel": one.roll(1, 1), "next row": one.roll(1, 2),
        "next column": one.roll(1, 3), "next layer": masks(layer=1) - 0.7, "next step": masks(seed=1) - 0.7,
        "place in the batch": masks(first=64) - 0.7,
    }  # fmt: skip
    bound = 4 / one.numel() ** 0.5
    correlations = {name: float((one * other).mean() / 0.21) for name, other in others.items()}
    assert all(abs(value) < bound for value in correlations.values()), correlations
    of_sample, of_place = masks().mean(dim=(1, 2, 3)), masks().mean(dim=0)
    assert of_sample.var() == pytest.approx(0.21 / 2048, rel=0.8)
    assert of_place.var() == pytest.approx(0.21 / 64, rel=0.2)


def test_a_part_of_a_batch_has_the_masks_of_the_whole():
    parts = [masks(first=first, count=16) for first in (0, 16, 32, 48)]
    assert torch.equal(torch.cat(parts), masks())
