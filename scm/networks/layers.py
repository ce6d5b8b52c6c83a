"""Layers that the architectures share; each supports forward-mode differentiation and writes nothing in place."""

import torch
from torch import Tensor

from scm.networks.magnitude import EPSILON


def pnorm(a: Tensor) -> Tensor:
    """a / sqrt(mean over channels of a^2 + eps): the pixel norm of modulation vectors (sec. 4.1). [B, C] -> [B, C]."""
    return a / ((a * a).mean(dim=1, keepdim=True) + EPSILON).sqrt()


def over_pixels(a: Tensor, like: Tensor) -> Tensor:
    """Reshapes one vector for each sample, [B, C], to [B, C, 1, 1] in the type of `like`, [B, C, H, W]."""
    return a[:, :, None, None].to(like.dtype)


def dropout(x: Tensor, probability: float) -> Tensor:
    """Zeroes elements with `probability` and rescales the rest; x and its tangent share the mask."""
    keep = torch.rand(x.shape, device=x.device) >= probability
    return x * (keep.to(x.dtype) / (1 - probability))


def split_heads(qkv: Tensor, heads: int) -> Tensor:
    """[B, 3 C, H, W] -> [B, heads, C / heads, 3, H W]: channels vary slowest over heads, fastest over q, k, v."""
    batch, channels, height, width = qkv.shape
    return qkv.reshape(batch, heads, channels // (3 * heads), 3, height * width)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention in explicit form, as forward-mode differentiation needs it. [B, heads, channels, N] each.

    The softmax is float32 at least; queries are scaled before the product, so that float16 does not overflow in it.
    """
    scores = torch.matmul((q * q.shape[-2] ** -0.5).transpose(-1, -2), k)
    weights = torch.softmax(scores.to(torch.promote_types(scores.dtype, torch.float32)), dim=-1).to(v.dtype)
    return torch.matmul(v, weights.transpose(-1, -2))
