"""Small images with a structure that a classifier can learn, without any download."""

import pytest
import torch
from torch import Tensor


def striped_images() -> tuple[Tensor, Tensor]:
    """240 noisy images [1, 8, 8] of three classes: lying, standing and no stripes."""
    random = torch.Generator().manual_seed(1)
    labels = torch.arange(240) % 3
    stripes = (torch.arange(8) % 2 * 160.0)[None, :].expand(8, 8)
    patterns = torch.stack([stripes.T, stripes, torch.full((8, 8), 80.0)])
    images = patterns[labels] + 90 * torch.rand(240, 8, 8, generator=random)
    return images[:, None].to(torch.uint8), labels


@pytest.fixture(scope="session")
def striped() -> tuple[Tensor, Tensor]:
    return striped_images()
