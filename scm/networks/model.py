"""The network F(x_t / sigma_d, c_noise(t) = t, label) and the learned weight w_phi(t) of the loss (sec. 4.2)."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scm.networks.embedding import FourierEmbedding, PositionalEmbedding
from scm.networks.magnitude import MPConv, mp_silu, mp_sum
from scm.networks.unet import Modulation, UNet

WEIGHT_FEATURES = 128
"""Fourier features of t that w_phi is a linear function of (EDM2's log-variance head)."""


@dataclass(frozen=True)
class NetworkSettings:
    """Everything that the shape of a network follows from; stored in each checkpoint's header.

    Attributes:
        resolution: pixels of a (latent) image.
        channels: channels of a (latent) image.
        classes: number of classes; 0 = unconditional.
        modulation: `double_norm` (the paper's) or `gain` (EDM2's).
        embedding: of t: `positional` (the paper's) or `fourier` (EDM2's).
    """

    resolution: int
    channels: int
    classes: int
    width: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    channels_per_head: int
    modulation: Modulation = "double_norm"
    embedding: Literal["positional", "fourier"] = "positional"

    def to_dict(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "NetworkSettings":
        listed = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **listed})


class Model(nn.Module):
    """F and w_phi over one U-Net.

    Args:
        settings: the network's shape.
        dropout: probability of dropout in training, at resolutions <= `dropout_max_resolution`.
        precision: type of convolutions and attention; embeddings, norms, w_phi and the output stay float32.
    """

    def __init__(
        self,
        settings: NetworkSettings,
        *,
        dropout: float = 0.0,
        dropout_max_resolution: int = 16,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.settings, self.precision = settings, precision
        embedding_channels = settings.width * max(settings.multipliers)
        embed = PositionalEmbedding if settings.embedding == "positional" else FourierEmbedding
        self.emb_time = embed(settings.width)
        self.emb_noise = MPConv(settings.width, embedding_channels, 0)
        self.emb_label = MPConv(settings.classes, embedding_channels, 0) if settings.classes else None
        self.unet = UNet(
            settings.resolution,
            settings.channels,
            settings.width,
            settings.multipliers,
            settings.blocks,
            settings.attention,
            embedding_channels=embedding_channels,
            channels_per_head=settings.channels_per_head,
            dropout=dropout,
            dropout_max_resolution=dropout_max_resolution,
            modulation=settings.modulation,
        )
        self.weight_features = FourierEmbedding(WEIGHT_FEATURES)
        self.weight_linear = nn.Linear(WEIGHT_FEATURES, 1)
        self.reset_log_weight()

    def reset_log_weight(self) -> None:
        """Sets w_phi to zero at every t: a student's loss has other magnitudes than its teacher's."""
        nn.init.zeros_(self.weight_linear.weight)
        nn.init.zeros_(self.weight_linear.bias)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """F(x, t).

        Args:
            x: x_t / sigma_d, [B, C, R, R].
            t: radians, [B].
            labels: int64 [B], -1 = no label; None = no labels at all.

        Returns:
            [B, C, R, R] in x's type.
        """
        embedding = self.emb_noise(self.emb_time(t))
        if self.emb_label is not None:
            embedding = mp_sum(embedding, self.emb_label(self._one_hot(labels, t)), 0.5)
        embedding = mp_silu(embedding)
        compute = x.dtype if x.dtype == torch.float64 else self.precision
        return self.unet(x.to(compute), embedding).to(x.dtype)

    def log_weight(self, t: Tensor) -> Tensor:
        """w_phi(t), [B] -> [B]: the learned log weight of the loss at t (sec. 4.2, adaptive weighting)."""
        return self.weight_linear(self.weight_features(t)).squeeze(1)

    def _one_hot(self, labels: Tensor | None, t: Tensor) -> Tensor:
        """One-hot rows of unit magnitude, zero rows where there is no label. [B, classes]."""
        classes = torch.arange(self.settings.classes, device=t.device)
        labels = torch.full(t.shape, -1, device=t.device) if labels is None else labels
        return (labels[:, None] == classes).to(t.dtype) * math.sqrt(self.settings.classes)
