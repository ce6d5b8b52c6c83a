"""Embeddings of time and of other scalar inputs (sec. 4.1): positional, and EDM2's Fourier features for comparison."""

import math

import torch
from torch import Tensor, nn

from scm.networks.settings import NetworkSettings


class PositionalEmbedding(nn.Module):
    """Sines and cosines of t with frequencies from 1 down to 1/10,000 (as DDPM has them), of unit magnitude.

    The highest frequency is 1, so that the embedding's derivative in t stays bounded (sec. 4.1). [B] -> [B, channels].
    """

    frequencies: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * (-math.log(10_000) / max(half - 1, 1)))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies.to(t.dtype)
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1) * math.sqrt(2)


class FourierEmbedding(nn.Module):
    """Random Fourier features sqrt(2) cos(2 pi (f t + p)), f ~ N(0, bandwidth^2) (EDM2 eq. 75).

    [B] -> [B, channels].
    """

    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int, bandwidth: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * bandwidth * torch.randn(channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels))

    def forward(self, t: Tensor) -> Tensor:
        return torch.cos(t[:, None] * self.freqs.to(t.dtype) + self.phases.to(t.dtype)) * math.sqrt(2)


def time_embedding(settings: NetworkSettings) -> nn.Module:
    """The embedding of c_noise that the settings name, with `width` channels."""
    if settings.embedding == "positional":
        return PositionalEmbedding(settings.width)
    return FourierEmbedding(settings.width, settings.fourier_scale)


class ScalarInput(nn.Module):
    """A further input of the network, a guidance scale or the start of a segment, as an addition to the time embedding.

    A positional embedding and a linear layer (sec. 5.1, guidance). The layer starts at zero, so that a student with a
    new input starts as its teacher. [B] -> [B, channels].
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.embedding = PositionalEmbedding(width)
        self.linear = nn.Linear(width, channels, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, value: Tensor) -> Tensor:
        return self.linear(self.embedding(value))


AUGMENTATION_LABELS = 9
"""Numbers that tell F how a sample was augmented (EDM, app. F.2)."""


class AugmentationInput(nn.Linear):
    """How a training's sample was augmented, as an addition to the time embedding. [B, 9] -> [B, channels].

    Zeros, which tell "not at all", add nothing; so a sampler leaves the input out. The layer starts at zero.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(AUGMENTATION_LABELS, channels, bias=False)  # pyright: ignore[reportUnknownMemberType]

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
