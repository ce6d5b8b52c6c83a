"""Layers that the architectures share; each supports forward-mode differentiation and writes nothing in place."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import checkpoint

from scm.networks.dropout import for_layer
from scm.networks.magnitude import EPSILON
from scm.networks.settings import NetworkSettings

_checkpoint = cast(Any, checkpoint).checkpoint
"""Looked up once: torch.compile traces checkpoints by this function, but not through a cast."""
LONG = 1024
"""Tokens from which on attention stores no scores."""


def pnorm(a: Tensor) -> Tensor:
    """a / sqrt(mean over channels of a^2 + eps): the pixel norm of modulation vectors (sec. 4.1). [B, C] -> [B, C]."""
    return a / ((a * a).mean(dim=1, keepdim=True) + EPSILON).sqrt()


def over_pixels(a: Tensor, like: Tensor) -> Tensor:
    """Reshapes one vector for each sample, [B, C], to [B, C, 1, 1] in the type of `like`, [B, C, H, W]."""
    return a[:, :, None, None].to(like.dtype)


def split_heads(qkv: Tensor, heads: int) -> Tensor:
    """[B, 3 C, H, W] -> [B, heads, C / heads, 3, H W]: channels vary slowest over heads, fastest over q, k, v."""
    batch, channels, height, width = qkv.shape
    return qkv.reshape(batch, heads, channels // (3 * heads), 3, height * width)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention whose softmax is float32 at least. [B, heads, channels, N] each.

    From `LONG` tokens on by torch's kernels, which store no scores; their forward mode is scm.jvp's alone.
    """
    if q.shape[-1] < LONG:
        return explicit_attention(q, k, v)
    q, k, v = (x.transpose(-1, -2).contiguous() for x in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v).transpose(-1, -2)


def explicit_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention that stores its scores; queries are scaled before the product, so that float16 does not overflow."""
    scores = torch.matmul((q * q.shape[-2] ** -0.5).transpose(-1, -2), k)
    weights = torch.softmax(scores.to(torch.promote_types(scores.dtype, torch.float32)), dim=-1).to(v.dtype)
    return torch.matmul(v, weights.transpose(-1, -2))


def evaluated(block: Callable[..., Tensor], *inputs: Any) -> Tensor:
    return block(*inputs)


def recomputed(block: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """block(*inputs), whose graph keeps the inputs and no activation: its backward evaluates the block again.

    Args:
        block: draws no random numbers, and its result depends on the inputs and on parameters alone.
        inputs: tensors, or any other values; tangents take `scm.jvp.recomputed`.
    """
    if not torch.is_grad_enabled():
        return block(*inputs)
    return _checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)


class Blockwise(nn.Module):
    """A network of blocks, each of which may be evaluated without storing its activations.

    Attributes:
        evaluate: evaluates a block on its inputs; `recomputed` does so without storing activations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.evaluate: Callable[..., Tensor] = evaluated


class UNet(Blockwise):
    """Encoder and decoder of residual blocks, whose layers are named by resolution; the architectures add the rest.

    Blocks at the resolutions of `settings.attention` have self-attention, and so has the decoder's first block. At each
    resolution the decoder has one block more than the encoder.

    Args:
        dropout: probability in blocks at a resolution <= `dropout_max_resolution`.
    """

    def __init__(self, settings: NetworkSettings, dropout: float = 0.0, dropout_max_resolution: int = 16) -> None:
        super().__init__()
        self._settings, self._dropout, self._dropout_max_resolution = settings, dropout, dropout_max_resolution

    def _build_encoder(self, first: nn.Module, channels: int, block: Callable[..., nn.Module]) -> list[int]:
        """Builds the way down behind `first`, which gives `channels`; returns the channels of each layer's output."""
        self.encoder, skips = nn.ModuleDict(), [channels]
        for level, multiplier in enumerate(self._settings.multipliers):
            size, out = self._settings.resolution >> level, skips[-1]
            if level == 0:
                self.encoder[f"{size}x{size}_conv"] = first
            else:
                self.encoder[f"{size}x{size}_down"] = self._sized(block, out, out, size, False, resample="down")
                skips.append(out)
            attend = size in self._settings.attention
            for index in range(self._settings.blocks):
                into, out = out, self._settings.width * multiplier
                self.encoder[f"{size}x{size}_block{index}"] = self._sized(block, into, out, size, attend)
                skips.append(out)
        return skips

    def _build_decoder(self, skips: list[int], block: Callable[..., nn.Module], last_alone: bool) -> int:
        """Builds the way up, whose numbered blocks also take the last encoder output that is left.

        Args:
            skips: as `_build_encoder` returns them; used up.
            last_alone: only the last block at each resolution has attention.

        Returns:
            Channels of the output.
        """
        self.decoder, out = nn.ModuleDict(), skips[-1]
        for level, multiplier in reversed(list(enumerate(self._settings.multipliers))):
            size = self._settings.resolution >> level
            if level == len(self._settings.multipliers) - 1:
                self.decoder[f"{size}x{size}_in0"] = self._sized(block, out, out, size, True)
                self.decoder[f"{size}x{size}_in1"] = self._sized(block, out, out, size, False)
            else:
                self.decoder[f"{size}x{size}_up"] = self._sized(block, out, out, size, False, resample="up")
            for index in range(self._settings.blocks + 1):
                into, out = out + skips.pop(), self._settings.width * multiplier
                attend = size in self._settings.attention and (index == self._settings.blocks or not last_alone)
                self.decoder[f"{size}x{size}_block{index}"] = self._sized(block, into, out, size, attend)
        return out

    def _sized(
        self, block: Callable[..., nn.Module], into: int, out: int, size: int, attend: bool, resample: str = "keep"
    ) -> nn.Module:
        heads = out // self._settings.channels_per_head if attend else 0
        probability = self._dropout if size <= self._dropout_max_resolution else 0.0
        return block(into, out, resample=resample, heads=heads, dropout_probability=probability)

    def _down_and_up(
        self, x: Tensor, embedding: Tensor, seeds: Tensor | None, join: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Runs the encoder and the decoder; `join` puts an encoder's output beside the decoder's."""

        def joined(layer: nn.Module, x: Tensor, skip: Tensor | None, embedding: Tensor, seeds: Tensor | None) -> Tensor:
            return layer(x if skip is None else join(x, skip), embedding, seeds)

        skips: list[Tensor] = []
        for index, (name, layer) in enumerate(self.encoder.items()):
            x = layer(x) if name.endswith("_conv") else self.evaluate(layer, x, embedding, for_layer(seeds, index))
            skips.append(x)
        for index, (name, layer) in enumerate(self.decoder.items(), len(skips)):
            skip = skips.pop() if "block" in name else None
            x = self.evaluate(partial(joined, layer), x, skip, embedding, for_layer(seeds, index))
        return x


def recompute_blocks(module: nn.Module, recomputed: Callable[..., Tensor] = recomputed) -> None:
    """From now on the module's networks evaluate their blocks by `recomputed`."""
    for part in module.modules():
        if isinstance(part, Blockwise):
            part.evaluate = recomputed
