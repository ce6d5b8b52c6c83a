"""DDPM++ (Song et al. 2021, arXiv 2011.13456) with EDM's settings: the network of the paper's CIFAR-10 models.

A residual block has one of three modulations by the embedding: `add`, EDM's own; `scale_shift`, adaptive group norm;
or `double_norm`, the paper's adaptive double normalisation (sec. 4.1).
"""

import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from scm.networks.dropout import dropout
from scm.networks.embedding import AugmentationInput, ScalarInput, time_embedding
from scm.networks.layers import UNet, attention, over_pixels, pnorm, split_heads
from scm.networks.magnitude import downsample, upsample
from scm.networks.settings import NetworkSettings

GROUP_EPSILON = 1e-6
SMALL, ATTENTION = 1e-5, math.sqrt(0.2)
"""Initial size of the last convolution of each branch and of q, k, v, relative to Xavier's (EDM)."""


def groups_of(channels: int) -> int:
    """Groups of a group norm: 32, but at least four channels in each."""
    return min(32, channels // 4)


class Linear(nn.Linear):
    """nn.Linear as EDM initialises it: Xavier's uniform weights and zero biases. [B, in] -> [B, out]."""

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)


class Conv(nn.Conv2d):
    """A convolution that computes in its input's type and is initialised as EDM's. [B, in, H, W] -> [B, out, H, W].

    Args:
        scale: factor of Xavier's initial weights; biases start at zero.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, scale: float = 1.0) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2)  # pyright: ignore[reportUnknownMemberType]
        nn.init.xavier_uniform_(self.weight, gain=scale)
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return functional.conv2d(input, self.weight.to(input.dtype), bias, padding=self.padding)


class GroupNorm(nn.GroupNorm):
    """A group norm that sums in float32 at least and returns its input's type."""

    def __init__(self, channels: int) -> None:
        super().__init__(groups_of(channels), channels, eps=GROUP_EPSILON)  # pyright: ignore[reportUnknownMemberType]

    def forward(self, input: Tensor) -> Tensor:
        precise = input.to(torch.promote_types(input.dtype, torch.float32))
        return functional.group_norm(precise, self.num_groups, self.weight, self.bias, self.eps).to(input.dtype)


class Block(nn.Module):
    """Residual block with optional resampling and self-attention; the sum with the skip is scaled by sqrt(1/2)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        *,
        resample: Literal["keep", "down", "up"] = "keep",
        heads: int = 0,
        dropout_probability: float = 0.0,
        modulation: str = "double_norm",
    ) -> None:
        super().__init__()
        self.resample, self.heads = resample, heads
        self.dropout_probability, self.modulation = dropout_probability, modulation
        self.norm0, self.conv0 = GroupNorm(in_channels), Conv(in_channels, out_channels, 3)
        self.affine = Linear(embedding_channels, out_channels * (1 if modulation == "add" else 2))
        self.norm1, self.conv1 = GroupNorm(out_channels), Conv(out_channels, out_channels, 3, SMALL)
        same = in_channels == out_channels and resample == "keep"
        self.skip = None if same else Conv(in_channels, out_channels, 1)
        if heads:
            self.norm2 = GroupNorm(out_channels)
            self.qkv = Conv(out_channels, out_channels * 3, 1, ATTENTION)
            self.proj = Conv(out_channels, out_channels, 1, SMALL)

    def forward(self, x: Tensor, embedding: Tensor, seeds: Tensor | None = None) -> Tensor:
        """[B, in, H, W] and [B, embedding] (float32) -> [B, out, H', W']."""
        y = self.conv0(self._resampled(functional.silu(self.norm0(x))))
        y = functional.silu(self.modulate(y, embedding))
        if seeds is not None and self.dropout_probability > 0:
            y = dropout(y, self.dropout_probability, seeds)
        x = x if self.skip is None else self.skip(self._resampled(x))
        x = (self.conv1(y) + x) * math.sqrt(0.5)
        if self.heads:
            q, k, v = split_heads(self.qkv(self.norm2(x)), self.heads).unbind(3)
            x = (self.proj(attention(q, k, v).reshape(x.shape)) + x) * math.sqrt(0.5)
        return x

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "keep":
            return x
        return downsample(x) if self.resample == "down" else upsample(x)

    def modulate(self, y: Tensor, embedding: Tensor) -> Tensor:
        """norm(x) * pnorm(s(t)) + pnorm(b(t)) (sec. 4.1), norm(x) * (s(t) + 1) + b(t), or EDM's norm(x + b(t))."""
        affine = self.affine(embedding)
        if self.modulation == "add":
            return self.norm1(y + over_pixels(affine, y))
        scale, shift = affine.chunk(2, dim=1)
        if self.modulation == "double_norm":
            return self.norm1(y) * over_pixels(pnorm(scale), y) + over_pixels(pnorm(shift), y)
        return self.norm1(y) * over_pixels(scale + 1, y) + over_pixels(shift, y)


class DDPMPP(UNet):
    """The network between an input of unit variance and F; in the decoder only the last block of a level attends."""

    def __init__(self, settings: NetworkSettings, dropout: float = 0.0, dropout_max_resolution: int = 16) -> None:
        super().__init__(settings, dropout, dropout_max_resolution)
        # The embedding of time, class and further inputs, which modulates every block.
        self.classes, width = settings.classes, settings.width
        embedding_channels = width * 4
        self.positional = settings.embedding == "positional"
        self.emb_time = time_embedding(settings)
        self.map_label = Linear(settings.classes, width) if settings.classes else None
        self.map_guidance = ScalarInput(width, width) if settings.guidance else None
        self.map_segment = ScalarInput(width, width) if settings.segments else None
        self.map_augment = AugmentationInput(width) if settings.augment else None
        self.map_layer0 = Linear(width, embedding_channels)
        self.map_layer1 = Linear(embedding_channels, embedding_channels)

        block = partial(Block, embedding_channels=embedding_channels, modulation=settings.modulation)
        skips = self._build_encoder(Conv(settings.channels, width, 3), width, block)
        out = self._build_decoder(skips, block, last_alone=True)
        self.out_norm, self.out_conv = GroupNorm(out), Conv(out, settings.channels, 3, SMALL)

    def forward(
        self,
        x: Tensor,
        noise: Tensor,
        labels: Tensor | None,
        guidance: Tensor | None,
        segment: Tensor | None,
        seeds: Tensor | None = None,
        augment: Tensor | None = None,
    ) -> Tensor:
        """F; arguments as in EDM2UNet.forward."""
        embedding = self.emb_time(noise)
        if self.positional:  # in EDM's order and size
            cos, sin = embedding.chunk(2, dim=1)
            embedding = torch.cat([sin, cos], dim=1) * math.sqrt(0.5)
        for layer, value in ((self.map_guidance, guidance), (self.map_segment, segment)):
            if layer is not None:
                embedding = embedding + layer(value)
        if self.map_augment is not None and augment is not None:
            embedding = embedding + self.map_augment(augment)
        if self.map_label is not None and labels is not None:
            embedding = embedding + self.map_label(labels * math.sqrt(self.classes))
        embedding = functional.silu(self.map_layer1(functional.silu(self.map_layer0(embedding))))
        x = self._down_and_up(x, embedding, seeds, lambda a, b: torch.cat([a, b], dim=1))
        return self.out_conv(functional.silu(self.out_norm(x.to(embedding.dtype))))


NETWORK = DDPMPP
ORIGINAL = {"modulation": "add", "c_noise": "log_sigma"}
