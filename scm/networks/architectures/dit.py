"""DiT (Peebles and Xie 2022, arXiv 2212.09748): a transformer on patches of a (latent) image, with bounded tangents.

A block has one of two modulations by the embedding: `scale_shift`, DiT's own adaLN-Zero, or `double_norm`, in which the
paper's adaptive double normalisation (sec. 4.1) takes its place. Scales, shifts and gates then have unit size at every
t, and what makes a block start as the identity is a gain that does not depend on t.

Otherwise this is DiT but for three things. Queries and keys are normalised, so that no score grows without bound. Norms
divide by the root mean square. The activation is SiLU. The last two have the cheapest tangents.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from scm.networks.dropout import dropout, for_layer
from scm.networks.embedding import AugmentationInput, PositionalEmbedding, ScalarInput, time_embedding
from scm.networks.layers import Blockwise, attention, pnorm
from scm.networks.magnitude import normalize
from scm.networks.settings import NetworkSettings

MLP = 4
"""Channels inside a block's two-layer network, as multiples of `width`."""


class Linear(nn.Linear):
    """A linear layer that computes in its input's type; biases start at zero. [..., in] -> [..., out].

    Args:
        zero: weights start at zero as well, instead of keeping the magnitude of their input.
    """

    def __init__(self, in_features: int, out_features: int, *, zero: bool = False) -> None:
        super().__init__(in_features, out_features)  # pyright: ignore[reportUnknownMemberType]
        nn.init.normal_(self.weight, std=0.0 if zero else in_features**-0.5)
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight.to(input.dtype), self.bias.to(input.dtype))


def over_tokens(a: Tensor, like: Tensor) -> Tensor:
    """Reshapes one vector for each sample, [B, C], to [B, 1, C] in the type of `like`, [B, N, C]."""
    return a[:, None].to(like.dtype)


def modulate(x: Tensor, scale: Tensor, shift: Tensor, modulation: str) -> Tensor:
    """norm(x) * pnorm(s) + pnorm(b) (sec. 4.1), or DiT's norm(x) * (s + 1) + b. [B, N, C] and [B, C] twice."""
    scale, shift = (pnorm(scale), pnorm(shift)) if modulation == "double_norm" else (scale + 1, shift)
    return normalize(x, dims=[2]) * over_tokens(scale, x) + over_tokens(shift, x)


def to_tokens(x: Tensor, patch: int) -> Tensor:
    """[B, C, R, R] -> [B, (R / patch)^2, C patch^2]: the patches row by row."""
    batch, channels, size, _ = x.shape
    grid = size // patch
    x = x.reshape(batch, channels, grid, patch, grid, patch).transpose(3, 4).transpose(1, 2).transpose(2, 3)
    return x.reshape(batch, grid * grid, channels * patch * patch)


def to_image(x: Tensor, patch: int) -> Tensor:
    """The inverse of `to_tokens`."""
    batch, tokens, channels = x.shape
    grid, channels = math.isqrt(tokens), channels // (patch * patch)
    x = x.reshape(batch, grid, grid, channels, patch, patch).transpose(2, 3).transpose(1, 2).transpose(3, 4)
    return x.reshape(batch, channels, grid * patch, grid * patch)


class Block(nn.Module):
    """Self-attention and a two-layer network over the channels, each behind an adaptive norm and before a gate."""

    def __init__(self, width: int, heads: int, dropout_probability: float, modulation: str) -> None:
        super().__init__()
        self.heads, self.dropout_probability, self.modulation = heads, dropout_probability, modulation
        double = modulation == "double_norm"
        self.affine_proj = Linear(width, width * 6, zero=not double)
        self.attn_qkv, self.attn_proj = Linear(width, width * 3), Linear(width, width)
        self.mlp_in, self.mlp_proj = Linear(width, width * MLP), Linear(width * MLP, width)
        self.attn_gain = nn.Parameter(torch.zeros([])) if double else None
        self.mlp_gain = nn.Parameter(torch.zeros([])) if double else None

    def forward(self, x: Tensor, embedding: Tensor, seeds: Tensor | None = None) -> Tensor:
        """[B, N, width] and [B, width] (float32) -> [B, N, width]."""
        scale, shift, gate, mlp_scale, mlp_shift, mlp_gate = self.affine_proj(embedding).chunk(6, dim=1)
        y = self._attended(modulate(x, scale, shift, self.modulation))
        x = x + over_tokens(gated(gate, self.attn_gain), x) * y
        y = functional.silu(self.mlp_in(modulate(x, mlp_scale, mlp_shift, self.modulation)))
        if seeds is not None and self.dropout_probability > 0:
            y = dropout(y, self.dropout_probability, seeds)
        return x + over_tokens(gated(mlp_gate, self.mlp_gain), x) * self.mlp_proj(y)

    def _attended(self, y: Tensor) -> Tensor:
        batch, tokens, width = y.shape
        parts = self.attn_qkv(y).reshape(batch, tokens, 3, self.heads, width // self.heads).transpose(1, 3)
        q, k, v = parts.unbind(2)
        q, k = normalize(q, dims=[3]), normalize(k, dims=[3])
        y = attention(q.transpose(2, 3), k.transpose(2, 3), v.transpose(2, 3))
        return self.attn_proj(y.transpose(2, 3).transpose(1, 2).reshape(batch, tokens, width))


def gated(gate: Tensor, gain: Tensor | None) -> Tensor:
    """gain * pnorm(g) with a gain that starts at zero, or DiT's g, whose layer does. [B, C] -> [B, C].

    A pnorm of a g near zero would have a slope of 1 / sqrt(eps) in t; here g has unit size from the start.
    """
    return gate if gain is None else pnorm(gate) * gain


class DiT(Blockwise):
    """The network between an input of unit variance and F; patches are its tokens, and all blocks are equal.

    Args:
        dropout: probability inside the blocks, if the grid of patches is at most `dropout_max_resolution` wide.
    """

    def __init__(self, settings: NetworkSettings, dropout: float = 0.0, dropout_max_resolution: int = 16) -> None:
        super().__init__()
        width, self.patch, self.modulation = settings.width, settings.patch, settings.modulation
        grid, rest = divmod(settings.resolution, self.patch)
        if rest:
            raise ValueError(f"patches of {self.patch} pixels do not divide {settings.resolution} pixels")
        # The embedding of time, class and further inputs, which modulates every block.
        self.classes = settings.classes
        self.emb_time = time_embedding(settings)
        self.emb_layer0, self.emb_layer1 = Linear(width, width), Linear(width, width)
        self.emb_label = Linear(settings.classes, width) if settings.classes else None
        self.emb_guidance = ScalarInput(width, width) if settings.guidance else None
        self.emb_segment = ScalarInput(width, width) if settings.segments else None
        self.emb_augment = AugmentationInput(width) if settings.augment else None

        self.emb_place = PositionalEmbedding(width // 2)
        self.patch_in = Linear(settings.channels * self.patch**2, width)
        heads, probability = width // settings.channels_per_head, dropout if grid <= dropout_max_resolution else 0.0
        blocks = (Block(width, heads, probability, self.modulation) for _ in range(settings.blocks))
        self.blocks = nn.ModuleList(blocks)
        self.out_affine_proj = Linear(width, width * 2, zero=self.modulation != "double_norm")
        self.out_proj = Linear(width, settings.channels * self.patch**2, zero=True)

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
        embedding = self.emb_layer1(functional.silu(self.emb_layer0(self.emb_time(noise))))
        for layer, value in ((self.emb_guidance, guidance), (self.emb_segment, segment)):
            if layer is not None:
                embedding = embedding + layer(value)
        if self.emb_augment is not None and augment is not None:
            embedding = embedding + self.emb_augment(augment)
        if self.emb_label is not None and labels is not None:
            embedding = embedding + self.emb_label(labels * math.sqrt(self.classes))
        embedding = functional.silu(embedding)
        x = self.patch_in(to_tokens(x, self.patch)) + self._places(x.shape[2] // self.patch).to(x.dtype)
        for index, block in enumerate(self.blocks):
            x = self.evaluate(block, x, embedding, for_layer(seeds, index))
        scale, shift = self.out_affine_proj(embedding).chunk(2, dim=1)
        return to_image(self.out_proj(modulate(x.to(embedding.dtype), scale, shift, self.modulation)), self.patch)

    def _places(self, grid: int) -> Tensor:
        """Sines and cosines of each patch's row, and of its column. [grid^2, width]."""
        frequencies = self.emb_place.frequencies
        line = self.emb_place(torch.arange(grid, dtype=frequencies.dtype, device=frequencies.device))
        rows, columns = line[:, None].expand(grid, grid, -1), line.expand(grid, grid, -1)
        return torch.cat([rows, columns], dim=2).reshape(grid * grid, -1)


NETWORK = DiT
ORIGINAL = {"modulation": "scale_shift"}
