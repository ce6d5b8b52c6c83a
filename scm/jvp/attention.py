"""The tangent of softmax attention in blocks of queries and keys, by online softmax: memory linear in the tokens.

With scores S and weights P = softmax(S), O = P v has the tangent (P * (dS - mu)) v + P dv, where mu = sum(P * dS) over
the keys. All sums over the keys are kept relative to the largest score so far.
"""

from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor

QUERIES, KEYS = 128, 512
"""Tokens of a block."""

LONG = 1024
"""Tokens from which on the kernel of scm/jvp/flash.py is used."""
CHANNELS = (16, 32, 64, 128)
"""Sizes of a head that the kernel takes."""
HAS_TRITON = find_spec("triton") is not None
"""Found once, for torch.compile does not trace the search."""


_kernel_wanted = [True]


@contextmanager
def without_kernel() -> Generator[None]:
    """In the block attention is torch's own, so that a second evaluation without tangents keeps the same tensors."""
    before, _kernel_wanted[0] = _kernel_wanted[0], False
    try:
        yield
    finally:
        _kernel_wanted[0] = before


def has_kernel(primals: tuple[Tensor, Tensor, Tensor]) -> bool:
    """True if scm/jvp/flash.py computes this attention without mask: on CUDA, with the extra `triton` installed."""
    q, k, v = primals
    return (
        q.is_cuda
        and _kernel_wanted[0]
        and min(q.shape[-2], k.shape[-2]) >= LONG
        and q.shape[-1] in CHANNELS
        and k.shape == v.shape == (*q.shape[:-2], k.shape[-2], q.shape[-1])
        and q.dtype in (torch.float32, torch.float16, torch.bfloat16)
        and q.dtype == k.dtype == v.dtype
        and HAS_TRITON
    )


def attention_tangent(
    primals: tuple[Tensor, Tensor, Tensor],
    tangents: tuple[Tensor, Tensor, Tensor],
    mask: tuple[Tensor, Tensor | None] | None,
    is_causal: bool,
    scale: float,
) -> Tensor:
    """The directional derivative of softmax(scale q k^T + mask) v.

    Args:
        primals: q [..., L, E], k [..., S, E], v [..., S, D], with leading dimensions that broadcast.
        tangents: their directions, of the same shapes.
        mask: None; or the mask, [..., L, S], True where a query sees a key or a number to add, and its tangent.
        is_causal: query i sees keys up to i alone.

    Returns:
        [..., L, D]; 0 for a query that sees no key.
    """
    length, keys = primals[0].shape[-2], primals[1].shape[-2]
    if mask is not None:
        shape = (*mask[0].shape[:-2], length, keys)
        mask = (mask[0].expand(shape), None if mask[1] is None else mask[1].expand(shape))
    rows = [
        _rows(primals, tangents, mask, start, min(start + QUERIES, length), is_causal, scale)
        for start in range(0, length, QUERIES)
    ]
    return torch.cat(rows, dim=-2)


def _rows(
    primals: tuple[Tensor, Tensor, Tensor],
    tangents: tuple[Tensor, Tensor, Tensor],
    mask: tuple[Tensor, Tensor | None] | None,
    start: int,
    stop: int,
    is_causal: bool,
    scale: float,
) -> Tensor:
    """The tangent of the queries from `start` to `stop`."""
    q, dq = primals[0][..., start:stop, :] * scale, tangents[0][..., start:stop, :] * scale
    wide = torch.promote_types(q.dtype, torch.float32)
    largest = torch.full((*q.shape[:-1], 1), torch.finfo(wide).min, dtype=wide, device=q.device)
    total = mean = value = change = torch.zeros_like(largest)
    last = min(stop, primals[1].shape[-2]) if is_causal else primals[1].shape[-2]
    for first in range(0, last, KEYS):
        part = slice(first, min(first + KEYS, last))
        k, v, dk, dv = (x[..., part, :] for x in (*primals[1:], *tangents[1:]))
        scores = (q @ k.transpose(-1, -2)).to(wide)
        slopes = (dq @ k.transpose(-1, -2)).to(wide) + (q @ dk.transpose(-1, -2)).to(wide)
        if mask is not None:
            scores, slopes = _masked(scores, slopes, mask, start, stop, part)
        if is_causal:
            places = torch.arange(part.start, part.stop, device=q.device)
            hidden = places > torch.arange(start, stop, device=q.device)[:, None]
            scores = scores.masked_fill(hidden, -torch.inf)
        larger = torch.maximum(largest, scores.amax(dim=-1, keepdim=True))
        weights, shrink = torch.exp(scores - larger), torch.exp(largest - larger)
        weighted = weights * slopes
        total = total * shrink + weights.sum(dim=-1, keepdim=True)
        mean = mean * shrink + weighted.sum(dim=-1, keepdim=True)
        value = value * shrink + weights @ v.to(wide)
        change = change * shrink + weighted @ v.to(wide) + weights @ dv.to(wide)
        largest = larger
    total = total.clamp(min=torch.finfo(wide).tiny)
    return ((change - mean / total * value) / total).to(q.dtype)


def _masked(
    scores: Tensor, slopes: Tensor, mask: tuple[Tensor, Tensor | None], start: int, stop: int, part: slice
) -> tuple[Tensor, Tensor]:
    """Scores and their tangents under the mask's block."""
    block = mask[0][..., start:stop, part]
    if block.dtype == torch.bool:
        return scores.masked_fill(~block, -torch.inf), slopes
    if mask[1] is not None:
        slopes = slopes + mask[1][..., start:stop, part]
    return scores + block, slopes
