"""EDM2's U-Net (config G, arXiv 2312.02696) with the paper's adaptive double normalisation (sec. 4.1).

A residual block has one of two modulations by the embedding: `double_norm`, the paper's, or `gain`, EDM2's own, which
imported teachers have and which tests check against figures of the original program.
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
from scm.networks.magnitude import (
    SILU_GAIN,
    MPConv,
    arranged,
    downsample,
    mp_cat,
    mp_silu,
    mp_sum,
    mp_weights,
    normalize,
    upsample,
)
from scm.networks.settings import NetworkSettings

RESIDUAL_BALANCE = 0.3
ATTENTION_BALANCE = 0.3
CLIP = 256.0


class Block(nn.Module):
    """Residual block of the encoder or decoder with optional resampling and self-attention (EDM2 fig. 21).

    Double normalisation takes its scale s(t) from the first half of the embedding and its shift b(t) from the second:
    together they have the parameters of EDM2's one layer, so that a size stays the size that the paper states.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        *,
        kind: Literal["encoder", "decoder"],
        resample: Literal["keep", "down", "up"] = "keep",
        heads: int = 0,
        dropout_probability: float = 0.0,
        modulation: str = "double_norm",
    ) -> None:
        super().__init__()
        self.kind, self.resample, self.heads = kind, resample, heads
        self.dropout_probability, self.modulation = dropout_probability, modulation
        self.conv_res0 = MPConv(out_channels if kind == "encoder" else in_channels, out_channels, 3)
        self.conv_res1 = MPConv(out_channels, out_channels, 3)
        self.conv_skip = MPConv(in_channels, out_channels, 1) if in_channels != out_channels else None
        if modulation == "double_norm":
            half = embedding_channels // 2
            self.emb_scale = MPConv(half, out_channels, 0)
            self.emb_shift = MPConv(embedding_channels - half, out_channels, 0)
        else:
            self.emb_gain = nn.Parameter(torch.zeros([]))
            self.emb_linear = MPConv(embedding_channels, out_channels, 0)
        if heads:
            self.attn_qkv = MPConv(out_channels, out_channels * 3, 1)
            self.attn_proj = MPConv(out_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor, seeds: Tensor | None = None) -> Tensor:
        """[B, in, H, W] and [B, embedding] (float32) -> [B, out, H', W']."""
        if self.resample != "keep":
            x = downsample(x) if self.resample == "down" else upsample(x)
        if self.kind == "encoder":
            x = normalize(x if self.conv_skip is None else self.conv_skip(x), dims=[1])
        # A layer's gain holds the factors before and after it: of SiLU (eq. 81) and of the weighted sum (eq. 88).
        # torch.add(y, x, alpha=of_x) would save a pass, but torch 2.13 compiles its tangent to other numbers.
        of_x, of_y = mp_weights(RESIDUAL_BALANCE)
        y = self.modulate(self.conv_res0(functional.silu(x), gain=SILU_GAIN), embedding)
        y = functional.silu(y)
        if seeds is not None and self.dropout_probability > 0:
            y = dropout(y, self.dropout_probability, seeds)
        y = self.conv_res1(y, gain=SILU_GAIN * of_y)
        skip = self.conv_skip if self.kind == "decoder" else None
        x = y + (x * of_x if skip is None else skip(x, gain=of_x))
        if self.heads:
            q, k, v = normalize(split_heads(self.attn_qkv(x), self.heads), dims=[2]).unbind(3)
            of_x, of_y = mp_weights(ATTENTION_BALANCE)
            x = self.attn_proj(arranged(attention(q, k, v).reshape(x.shape)), gain=of_y) + x * of_x
        return torch.clamp(x, -CLIP, CLIP)

    def modulate(self, y: Tensor, embedding: Tensor) -> Tensor:
        """y = norm(x) * pnorm(s(t)) + pnorm(b(t)) (sec. 4.1), or EDM2's y = x * (1 + gain s(t))."""
        if self.modulation == "gain":
            return y * over_pixels(self.emb_linear(embedding, gain=self.emb_gain) + 1, y)
        half = self.emb_scale.weight.shape[1]
        scale, shift = pnorm(self.emb_scale(embedding[:, :half])), pnorm(self.emb_shift(embedding[:, half:]))
        return normalize(y, dims=[1]) * over_pixels(scale, y) + over_pixels(shift, y)


class EDM2UNet(UNet):
    """The network between an input of unit variance and F."""

    def __init__(self, settings: NetworkSettings, dropout: float = 0.0, dropout_max_resolution: int = 16) -> None:
        super().__init__(settings, dropout, dropout_max_resolution)
        # The embedding of time, class and further inputs, which modulates every block.
        self.classes, width = settings.classes, settings.width
        embedding_channels = width * max(settings.multipliers)
        self.emb_time = time_embedding(settings)
        self.emb_noise = MPConv(width, embedding_channels, 0)
        self.emb_label = MPConv(settings.classes, embedding_channels, 0) if settings.classes else None
        self.emb_guidance = ScalarInput(width, embedding_channels) if settings.guidance else None
        self.emb_segment = ScalarInput(width, embedding_channels) if settings.segments else None
        self.emb_augment = AugmentationInput(embedding_channels) if settings.augment else None

        block = partial(Block, embedding_channels=embedding_channels, modulation=settings.modulation)
        first = width * settings.multipliers[0]
        convolution = MPConv(settings.channels + 1, first, 3)  # one channel of ones stands for a bias
        skips = self._build_encoder(convolution, first, partial(block, kind="encoder"))
        out = self._build_decoder(skips, partial(block, kind="decoder"), last_alone=False)
        self.out_conv = MPConv(out, settings.channels, 3)
        self.out_gain = nn.Parameter(torch.zeros([]))

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
        """F.

        Args:
            x: [B, C, R, R] in the compute type.
            noise: c_noise(t), [B], float32.
            labels: one-hot rows [B, classes], a zero row for no label.
            guidance: scale, [B]; segment: its start in radians, [B].
            seeds: of dropout's masks, int32 [B]; None = no dropout.
            augment: how each sample was augmented, [B, 9]; None = not at all.

        Returns:
            [B, C, R, R], float32.
        """
        embedding = self.emb_noise(self.emb_time(noise))
        for layer, value in ((self.emb_guidance, guidance), (self.emb_segment, segment)):
            if layer is not None:
                embedding = embedding + layer(value)
        if self.emb_augment is not None and augment is not None:
            embedding = embedding + self.emb_augment(augment)
        if self.emb_label is not None and labels is not None:
            embedding = mp_sum(embedding, self.emb_label(labels * math.sqrt(self.classes)), 0.5)
        embedding = mp_silu(embedding)
        x = arranged(torch.cat([x, torch.ones_like(x[:, :1])], dim=1))
        x = self._down_and_up(x, embedding, seeds, mp_cat)
        return self.out_conv(x.to(embedding.dtype), gain=self.out_gain)


NETWORK = EDM2UNet
ORIGINAL = {"modulation": "gain", "embedding": "fourier", "c_noise": "log_sigma", "log_weight": "edm2"}
