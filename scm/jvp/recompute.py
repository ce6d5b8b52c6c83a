"""Activation checkpointing for networks that carry tangents: the backward pass computes the primals alone again."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils import checkpoint

from scm.jvp.attention import without_kernel
from scm.jvp.dual import Dual

_checkpoint = cast(Any, checkpoint).checkpoint
"""Looked up once: torch.compile traces checkpoints by this function, but not through a cast."""


def recomputed(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """function(*inputs), whose graph keeps the inputs and no activation: its backward evaluates the function again.

    A tangent has no graph, so the second evaluation needs none: it costs one forward pass, not two.

    The same as `scm.networks.layers.recomputed` for inputs without tangents.

    Args:
        function: draws no random numbers, and its result depends on the inputs and on parameters alone.
        inputs: tensors, Duals or any other values.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    primals = [value.primal if isinstance(value, Dual) else value for value in inputs]
    tangents = [value.tangent if isinstance(value, Dual) else None for value in inputs]
    if torch.compiler.is_compiling():  # the compiler sees by itself that no tangent is needed again
        count = len(inputs)
        return _joined(_again(lambda *v: _evaluated(function, v[:count], v[count:]), *primals, *tangents))
    aside: list[Tensor | None] = []

    def evaluate(*primals: Any) -> Tensor:
        if not tangents:
            return function(*primals)
        with without_kernel():
            output, tangent = _evaluated(function, primals, tangents)
        tangents.clear()  # the graph keeps this function, and would keep them
        aside.append(tangent)
        return output

    return _joined((_again(evaluate, *primals), aside.pop()))


def _again(function: Callable[..., Any], *inputs: Any) -> Any:
    return _checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def _evaluated(
    function: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor | None]:
    pairs = zip(primals, tangents, strict=True)
    result = function(*[primal if tangent is None else Dual(primal, tangent) for primal, tangent in pairs])
    return (result.primal, result.tangent) if isinstance(result, Dual) else (result, None)


def _joined(parts: tuple[Tensor, Tensor | None]) -> Tensor:
    output, tangent = parts
    return output if tangent is None else cast(Tensor, Dual(output, tangent))
