"""Noise per sample: each image has its own seed, so that it does not depend on batch size or number of processes."""

from collections.abc import Sequence

import torch
from torch import Tensor


class SampleNoise:
    """Draws standard normal noise for a batch in which every sample has its own generator on the CPU.

    Args:
        seeds: one for each sample, B of them.
        shape: of one sample, [C, H, W].
        device: where the draws are returned.
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.shape, self.device = tuple(shape), device

    def draw(self) -> Tensor:
        """The next draw of every sample, [B, C, H, W]."""
        return torch.stack([torch.randn(self.shape, generator=each) for each in self.generators]).to(self.device)
