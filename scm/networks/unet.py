"""EDM2's U-Net (config G, arXiv 2312.02696) with the paper's adaptive double normalisation (sec. 4.1).

Two modulations of a residual block by the embedding are kept: `double_norm`, the paper's, and `gain`, EDM2's own, which
the golden figures of the original program check and which the paper's fig. 4 compares with.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from scm.networks.magnitude import EPSILON, MPConv, downsample, mp_cat, mp_silu, mp_sum, normalize, upsample

Modulation = Literal["double_norm", "gain"]
RESIDUAL_BALANCE = 0.3
ATTENTION_BALANCE = 0.3
CLIP = 256.0


def pnorm(a: Tensor) -> Tensor:
    """a / sqrt(mean over channels of a^2 + eps): the pixel norm of modulation vectors (sec. 4.1). [B, C] -> [B, C]."""
    return a / ((a * a).mean(dim=1, keepdim=True) + EPSILON).sqrt()


def dropout(x: Tensor, probability: float) -> Tensor:
    """Zeroes elements with `probability` and rescales the rest; x and its tangent share the mask."""
    keep = torch.rand(x.shape, device=x.device) >= probability
    return x * (keep.to(x.dtype) / (1 - probability))


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention in explicit form, which forward-mode differentiation passes. [B, heads, N, channels] each."""
    scores = torch.matmul(q, k.transpose(-1, -2)) * (q.shape[-1] ** -0.5)
    return torch.matmul(torch.softmax(scores, dim=-1), v)


class Block(nn.Module):
    """Residual block of the encoder or decoder with optional resampling and self-attention (EDM2 fig. 21)."""

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
        modulation: Modulation = "double_norm",
    ) -> None:
        super().__init__()
        self.kind, self.resample, self.heads = kind, resample, heads
        self.dropout_probability, self.modulation = dropout_probability, modulation
        self.conv_res0 = MPConv(out_channels if kind == "encoder" else in_channels, out_channels, 3)
        self.conv_res1 = MPConv(out_channels, out_channels, 3)
        self.conv_skip = MPConv(in_channels, out_channels, 1) if in_channels != out_channels else None
        if modulation == "double_norm":
            self.emb_scale = MPConv(embedding_channels, out_channels, 0)
            self.emb_shift = MPConv(embedding_channels, out_channels, 0)
        else:
            self.emb_gain = nn.Parameter(torch.zeros([]))
            self.emb_linear = MPConv(embedding_channels, out_channels, 0)
        if heads:
            self.attn_qkv = MPConv(out_channels, out_channels * 3, 1)
            self.attn_proj = MPConv(out_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """[B, in, H, W] and [B, embedding] (float32) -> [B, out, H', W']."""
        if self.resample != "keep":
            x = downsample(x) if self.resample == "down" else upsample(x)
        if self.kind == "encoder":
            x = normalize(x if self.conv_skip is None else self.conv_skip(x), dims=[1])
        y = self._modulate(self.conv_res0(mp_silu(x)), embedding)
        y = mp_silu(y)
        if self.training and self.dropout_probability > 0:
            y = dropout(y, self.dropout_probability)
        y = self.conv_res1(y)
        if self.kind == "decoder" and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, y, RESIDUAL_BALANCE)
        if self.heads:
            x = mp_sum(x, self._attend(x), ATTENTION_BALANCE)
        return torch.clamp(x, -CLIP, CLIP)

    def _modulate(self, y: Tensor, embedding: Tensor) -> Tensor:
        """y = norm(x) * pnorm(s(t)) + pnorm(b(t)) (sec. 4.1), or EDM2's y = x * (1 + gain s(t))."""
        if self.modulation == "gain":
            scale = self.emb_linear(embedding, gain=self.emb_gain) + 1
            return y * scale[:, :, None, None].to(y.dtype)
        scale, shift = pnorm(self.emb_scale(embedding)), pnorm(self.emb_shift(embedding))
        return normalize(y, dims=[1]) * scale[:, :, None, None].to(y.dtype) + shift[:, :, None, None].to(y.dtype)

    def _attend(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.attn_qkv(x).reshape(batch, self.heads, channels // self.heads, 3, height * width)
        q, k, v = normalize(qkv, dims=[2]).unbind(3)
        y = attention(q.transpose(-1, -2), k.transpose(-1, -2), v.transpose(-1, -2))
        return self.attn_proj(y.transpose(-1, -2).reshape(batch, channels, height, width))


class UNet(nn.Module):
    """The U-Net between an input of unit variance and F, conditioned by an embedding of time and class.

    Args:
        resolution: pixels of the (square) input.
        channels: channels of input and output.
        width: channels at the highest resolution.
        multipliers: channels of each level as multiples of `width`; each level halves the resolution.
        blocks: residual blocks a level; the decoder has one more.
        attention: resolutions with self-attention in their blocks (the lowest level's middle block always has it).
        channels_per_head: channels of one attention head.
        dropout: probability in blocks at a resolution <= `dropout_max_resolution`.
    """

    def __init__(
        self,
        resolution: int,
        channels: int,
        width: int,
        multipliers: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        *,
        embedding_channels: int,
        channels_per_head: int = 64,
        dropout: float = 0.0,
        dropout_max_resolution: int = 16,
        modulation: Modulation = "double_norm",
    ) -> None:
        super().__init__()

        def block(into: int, out: int, size: int, attend: bool, **options: object) -> Block:
            probability = dropout if size <= dropout_max_resolution else 0.0
            heads = out // channels_per_head if attend else 0
            return Block(
                into, out, embedding_channels, heads=heads, dropout_probability=probability,
                modulation=modulation, **options,  # type: ignore[arg-type]
            )  # fmt: skip

        self.encoder = nn.ModuleDict()
        out, skips = channels + 1, []  # one channel of ones stands for a bias
        for level, multiplier in enumerate(multipliers):
            size, into = resolution >> level, out
            out = width * multiplier
            if level == 0:
                self.encoder[f"{size}x{size}_conv"] = MPConv(into, out, 3)
            else:
                self.encoder[f"{size}x{size}_down"] = block(into, into, size, False, kind="encoder", resample="down")
                out = into
            skips.append(out)
            for index in range(blocks):
                into, out = out, width * multiplier
                self.encoder[f"{size}x{size}_block{index}"] = block(into, out, size, size in attention, kind="encoder")
                skips.append(out)

        self.decoder = nn.ModuleDict()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            size = resolution >> level
            if level == len(multipliers) - 1:
                self.decoder[f"{size}x{size}_in0"] = block(out, out, size, True, kind="decoder")
                self.decoder[f"{size}x{size}_in1"] = block(out, out, size, False, kind="decoder")
            else:
                self.decoder[f"{size}x{size}_up"] = block(out, out, size, False, kind="decoder", resample="up")
            for index in range(blocks + 1):
                into, out = out + skips.pop(), width * multiplier
                self.decoder[f"{size}x{size}_block{index}"] = block(into, out, size, size in attention, kind="decoder")
        self.out_conv = MPConv(out, channels, 3)
        self.out_gain = nn.Parameter(torch.zeros([]))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """[B, C, R, R] in the compute type and [B, embedding] in float32 -> [B, C, R, R] in float32."""
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        skips = []
        for layer in self.encoder.values():
            x = layer(x, embedding) if isinstance(layer, Block) else layer(x)
            skips.append(x)
        for name, layer in self.decoder.items():
            if "block" in name:
                x = mp_cat(x, skips.pop())
            x = layer(x, embedding)
        return self.out_conv(x.to(embedding.dtype), gain=self.out_gain)
