"""Dropout whose masks follow from a seed for each sample, so that no mask depends on the rest of the batch.

A sample has the same masks in any part of a divided batch, on any device and at a repeated evaluation.
"""

import math
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_FIRST = ContextVar("place of a batch's first sample in the whole batch", default=0)


@contextmanager
def samples_from(first: int) -> Generator[None]:
    """In the block, networks are evaluated on samples `first`, `first` + 1, ... of a batch that is divided."""
    token = _FIRST.set(first)
    try:
        yield
    finally:
        _FIRST.reset(token)


def seeds_of_samples(count: int, device: torch.device) -> Tensor:
    """Seeds of one evaluation's masks: one draw from torch's global generator, and each sample's place. int32 [count].

    The draw is made on the CPU, and is the same for all parts of a batch whose global generators are in one state.
    """
    drawn = int(torch.randint(-(2**31), 2**31, ()))
    places = torch.arange(_FIRST.get(), _FIRST.get() + count, dtype=torch.int32, device=device)
    return hashed(hashed(places) ^ drawn)


def for_layer(seeds: Tensor | None, index: int) -> Tensor | None:
    """Seeds of the masks of the network's layer `index`; None = no dropout. [B] -> [B]."""
    return None if seeds is None else hashed(seeds ^ index)


def dropout(x: Tensor, probability: float, seeds: Tensor) -> Tensor:
    """Zeroes elements with `probability` and rescales the rest; x and its tangent share the mask.

    Args:
        x: [B, ...], such as [B, C, H, W].
        seeds: int32 [B].
    """
    batch, *shape = x.shape
    places = hashed(torch.arange(math.prod(shape), dtype=torch.int32, device=x.device))
    bits = hashed(places.reshape(1, *shape) ^ seeds.reshape(batch, *[1] * len(shape)))
    keep = bits >= round(probability * 2**32) - 2**31
    return x * (keep.to(x.dtype) / (1 - probability))


def hashed(x: Tensor) -> Tensor:
    """Mixes the bits of whole numbers, so that neighbours become independent of each other; int32 -> int32, one to one.

    The products wrap around. Shifts and factors are those that C. Wellons' search for 32-bit mixers found best.
    """
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * 0x21F0AAAD
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * 0x735A2D97
    return x ^ ((x >> 15) & 0x1FFFF)
