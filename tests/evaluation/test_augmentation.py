"""The classifier's augmentation."""

import torch

from scm.evaluation.augmentation import augment


def blob():
    """A smooth blob in the middle of 32 x 32 pixels."""
    steps = torch.arange(32.0) - 15.5
    return torch.exp(-(steps[:, None] ** 2 + steps[None] ** 2) / 20)[None, None]


def test_augment_moves_images_a_little_and_each_differently():
    images = blob().expand(64, 3, -1, -1)
    moved = augment(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape and moved.dtype == torch.float32
    mass = moved[:, 0].sum((1, 2))
    steps = torch.arange(32.0) - 15.5
    centre_x, centre_y = ((moved[:, 0] * axis).sum((1, 2)) / mass for axis in (steps, steps[:, None]))
    for centre in (centre_x, centre_y):
        assert centre.abs().max() < 3.3 and centre.std() > 1 and centre.abs().mean() > 1
    scale = (mass / images[0, 0].sum()).sqrt()
    assert 0.88 < scale.min() < 0.95 and 1.05 < scale.max() < 1.12


def test_augment_depends_on_its_generator_alone():
    images = blob().expand(4, 1, -1, -1)
    first, again, other = (augment(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_augment_repeats_the_edge():
    assert torch.allclose(augment(torch.full((8, 1, 8, 8), 0.7), torch.Generator().manual_seed(0)), torch.tensor(0.7))
