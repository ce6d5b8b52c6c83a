"""Values with tangents, in the nested arguments of torch's functions."""

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor

Rule = Callable[..., Any]


class Refused(RuntimeError):
    """An operation whose tangent would be wrong, with its name and the remedy.

    Not a TypeError: Python answers one in `a += b` by trying `a + b`, which would not write into `a`.
    """


class Pair:
    """A tensor and its tangent.

    Attributes:
        primal: the value, part of autograd's graph.
        tangent: its directional derivative, of the same shape, without a graph.
        owned: True if writing into both is right: no input of the whole function shares the value's memory, and what
            shares the value's memory shares the tangent's in the same way.
    """

    def __init__(self, primal: Tensor, tangent: Tensor) -> None:
        self.primal, self.tangent = primal, tangent
        self.owned = False


def each(pick: Callable[[Any], Any], values: Any) -> Any:
    """Applies `pick` to each item of nested tuples, lists and dictionaries."""
    if is_sequence(values):
        return type(values)(each(pick, value) for value in values)
    if _is_mapping(values):
        return {key: each(pick, value) for key, value in values.items()}
    return pick(values)


def is_sequence(value: Any) -> TypeGuard[tuple[Any, ...] | list[Any]]:
    return isinstance(value, tuple | list)


def _is_mapping(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def primal_of(value: Any) -> Any:
    return value.primal if isinstance(value, Pair) else value


def tangent_of(value: Any) -> Any:
    """The tangent of a pair, zeros for a constant."""
    return value.tangent if isinstance(value, Pair) else torch.zeros_like(value)


def has_pair(*values: Any) -> bool:
    return any(isinstance(value, Pair) for value in values)


def items(kind: type[Any], values: Any) -> list[Any]:
    """All items of this type, in order."""
    found: list[Any] = []
    each(lambda value: found.append(value) if isinstance(value, kind) else None, values)
    return found
