"""Softmax attention with its tangent in one pass by a Triton kernel (app. F); needs the extra `triton`.

The sums are those of scm/jvp/attention.py. The tangent has no backward; the output's is that of torch's own attention.
"""
# pyright: basic, reportMissingImports=false

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional


class Launch(NamedTuple):
    """How the kernel is launched: tokens of a block of queries or keys, warps, stages of its pipeline."""

    block: int
    warps: int
    stages: int


def launch_of(dtype: torch.dtype, channels: int) -> Launch:
    """What fits the registers and the shared memory of GPUs with 100 KB and more."""
    if dtype == torch.float32:
        return Launch(32, 4, 1)
    return Launch(64, 4 if channels <= 64 else 8, 1 if channels > 64 else 2)


@triton.jit
def kernel(
    q_start, k_start, v_start, dq_start, dk_start, dv_start, output_start, tangent_start, lse_start,
    queries, keys, scale, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One block of queries of one head of one sample; tensors are contiguous, [heads, tokens, CHANNELS]."""
    head = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channels = tl.arange(0, CHANNELS)
    own = head * queries * CHANNELS + rows[:, None] * CHANNELS + channels[None, :]
    inside = rows[:, None] < queries
    q = tl.load(q_start + own, mask=inside, other=0.0)
    dq = tl.load(dq_start + own, mask=inside, other=0.0)
    largest = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    mean = tl.zeros([BLOCK], tl.float32)
    value = tl.zeros([BLOCK, CHANNELS], tl.float32)
    change = tl.zeros([BLOCK, CHANNELS], tl.float32)
    for first in range(0, keys, BLOCK):
        places = first + tl.arange(0, BLOCK)
        seen = places[:, None] < keys
        others = head * keys * CHANNELS + places[:, None] * CHANNELS + channels[None, :]
        k = tl.trans(tl.load(k_start + others, mask=seen, other=0.0))
        dk = tl.trans(tl.load(dk_start + others, mask=seen, other=0.0))
        v = tl.load(v_start + others, mask=seen, other=0.0)
        dv = tl.load(dv_start + others, mask=seen, other=0.0)
        scores = tl.dot(q, k, input_precision="ieee") * scale
        scores = tl.where(places[None, :] < keys, scores, float("-inf"))
        slopes = tl.dot(dq, k, input_precision="ieee")
        slopes = tl.dot(q, dk, slopes, input_precision="ieee") * scale
        larger = tl.maximum(largest, tl.max(scores, axis=1))
        weights = tl.exp(scores - larger[:, None])
        weighted = weights * slopes
        shrink = tl.exp(largest - larger)
        total = total * shrink + tl.sum(weights, axis=1)
        mean = mean * shrink + tl.sum(weighted, axis=1)
        value = tl.dot(weights.to(v.dtype), v, value * shrink[:, None], input_precision="ieee")
        change = tl.dot(weights.to(v.dtype), dv, change * shrink[:, None], input_precision="ieee")
        change = tl.dot(weighted.to(v.dtype), v, change, input_precision="ieee")
        largest = larger
    value = value / total[:, None]
    change = change / total[:, None] - (mean / total)[:, None] * value
    tl.store(output_start + own, value.to(output_start.dtype.element_ty), mask=inside)
    tl.store(tangent_start + own, change.to(tangent_start.dtype.element_ty), mask=inside)
    tl.store(lse_start + head * queries + rows, largest + tl.log(total), mask=rows < queries)


def attention(
    primals: tuple[Tensor, Tensor, Tensor], tangents: tuple[Tensor, Tensor, Tensor], scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Output and tangent of softmax(scale q k^T) v, and the scores' log-sum-exp over the keys; all without a graph.

    Args:
        primals: q [..., L, D], k and v [..., S, D], with the same leading dimensions; D a power of two from 16 on.
        tangents: their directions, of the same shapes and types.
    """
    *leading, queries, channels = primals[0].shape
    keys, dtype = primals[1].shape[-2], primals[0].dtype
    values = [x.detach().contiguous() for x in (*primals, *tangents)]
    output, tangent = torch.empty_like(values[0]), torch.empty_like(values[0])
    lse = torch.empty((*leading, queries), dtype=torch.float32, device=output.device)
    block, warps, stages = launch_of(dtype, channels)
    grid = (triton.cdiv(queries, block), output.numel() // (queries * channels))
    launch: Any = kernel
    launch[grid](
        *values, output, tangent, lse, queries, keys, scale,
        CHANNELS=channels, BLOCK=block, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return output, tangent, lse


class Attention(torch.autograd.Function):
    """Output, whose backward runs torch's own attention again, and tangent, which has none."""

    @staticmethod
    def forward(ctx: Any, scale: float, *values: Tensor) -> tuple[Tensor, Tensor]:
        """`values`: q, k, v and their tangents."""
        output, tangent, _ = attention(values[:3], values[3:], scale)  # type: ignore[arg-type]
        ctx.save_for_backward(*values[:3])
        ctx.scale = scale
        ctx.mark_non_differentiable(tangent)
        return output, tangent

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            q, k, v = (x.detach().requires_grad_() for x in ctx.saved_tensors)
            output = functional.scaled_dot_product_attention(q, k, v, scale=ctx.scale)
        return (None, *torch.autograd.grad(output, (q, k, v), gradients[0]), None, None, None)


def output_and_tangent(scale: float, *values: Tensor) -> tuple[Tensor, Tensor]:
    """The output of softmax attention with its graph, and its tangent; `values`: q, k, v and their tangents."""
    result: Any = Attention.apply(scale, *values)
    return result
