"""Interpolation between samples: between their noises along a circle, and between their classes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from scm import trigflow
from scm.samplers.noise import SampleNoise


class NoiseBetween(SampleNoise):
    """Noise between two seeds, for a batch: cos(a pi / 2) times the draw of one plus sin(a pi / 2) times the other's.

    Spherical interpolation (Shoemake 1985; Song et al. 2023, app. D) at the angle of independent noises, which is a
    right one on average. As the squares of its weights sum to 1, each draw is standard normal whatever the fraction a.

    Args:
        first: seeds of the samples at fraction 0, B of them.
        second: seeds of the samples at fraction 1.
        fractions: a, from 0 to 1.
        shape: of one sample, [C, H, W].
        device: where the draws are returned.
    """

    def __init__(
        self,
        first: Sequence[int],
        second: Sequence[int],
        fractions: Sequence[float],
        shape: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(first, shape, device)
        self._second = SampleNoise(second, shape, device)
        self._angles = torch.tensor([fraction * math.pi / 2 for fraction in fractions], dtype=torch.float64).to(device)

    def draw(self) -> Tensor:
        """The next draw of every sample, [B, C, H, W]. At fraction 0 it is the first seed's, bit for bit."""
        first, second = super().draw(), self._second.draw()
        return trigflow.interpolate(first, second, self._angles.to(first.dtype))


def class_rows(first: Tensor, second: Tensor, fractions: Sequence[float], classes: int) -> Tensor:
    """One-hot rows of labels, on the circle from one class to another: float32 [B, classes], each of length 1.

    Args:
        first: labels at fraction 0, int64 [B], -1 = no label.
        second: labels at fraction 1.

    >>> class_rows(torch.tensor([0, 0]), torch.tensor([1, 0]), [0.5, 0.5], 2)
    tensor([[0.7071, 0.7071],
            [1.0000, 0.0000]])
    """
    axes = torch.arange(classes)
    start, end = ((labels[:, None] == axes).float() for labels in (first, second))
    angles = torch.tensor([fraction * math.pi / 2 for fraction in fractions])
    return torch.nn.functional.normalize(trigflow.interpolate(start, end, angles), dim=1)
