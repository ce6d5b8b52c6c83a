"""Forward-mode differentiation in which the tangent rides along with a forward that keeps its graph.

The loss of alg. 1 needs F_theta with a graph, and dF/dt without one. `torch.func.jvp` computes for each convolution
two more, one of them with a zero weight tangent, and then either keeps a graph of everything or has to be followed by
a second forward. Here a `Dual` carries (primal, tangent) through the network's own code by `__torch_function__`: the
primal is computed once, with its graph; the tangent of a linear operation is one application of it, and no tangent has
a graph.

`RULES` holds the operations whose tangent is cheaper than the general one. `torch.func.jvp` differentiates any other
operation, and any other form of calling one with a rule: a network built from operations without rules is slower, not
wrong. An operation that writes in place is refused. `COMPOSED` holds the functions that give output
and tangent by themselves.
"""

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.nn import functional

from scm.jvp.attention import attention_tangent, has_kernel
from scm.jvp.multihead import multi_head_attention

Rule = Callable[..., Any]
RANDOM = ("alpha_dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout", "rrelu", "bernoulli")
"""Functions whose output is drawn: a second evaluation, for the tangent, would draw another one."""


def _method(func: Callable[..., Any]) -> Callable[..., Any]:
    """A method of Dual that calls `func` as torch itself would, on arguments of which one is a Dual."""
    return lambda *args: Dual.__torch_function__(func, (), args)


class Dual:
    """A tensor with its tangent; passes for a tensor in torch's functions and methods, and in arithmetic.

    Written so that torch.compile can trace it: no `__slots__`, and attributes by name.

    Attributes:
        primal: the value, part of autograd's graph.
        tangent: its directional derivative, of the same shape, without a graph.
    """

    def __init__(self, primal: Tensor, tangent: Tensor) -> None:
        self.primal, self.tangent = primal, tangent

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.__name__ in COMPOSED:
            return COMPOSED[func.__name__](*args, **kwargs)
        rule = RULES.get(func.__name__, _general)
        result = func(*_each(_primal, args), **_each(_primal, kwargs))
        with torch.no_grad():
            tangent = rule(func, result, args, kwargs)
            if tangent is NotImplemented:  # a form of the call that the rule does not cover
                tangent = _general(func, result, args, kwargs)
        if tangent is None:
            return result
        return type(result)(map(Dual, result, tangent)) if _is_sequence(result) else Dual(result, tangent)

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "ndim", "dtype", "device", "is_nested"):
            return getattr(self.primal, name)
        method = getattr(Tensor, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self.__torch_function__(method, (), (self, *args), kwargs)

        return call

    def __getitem__(self, index: Any) -> "Dual":
        return Dual(self.primal[index], self.tangent[index])

    def __rsub__(self, other: Any) -> "Dual":
        return -self + other

    def __rtruediv__(self, other: Any) -> "Dual":
        return Dual.__torch_function__(torch.reciprocal, (), (self,)) * other

    __neg__, __add__, __sub__ = _method(torch.neg), _method(torch.add), _method(torch.sub)
    __mul__, __truediv__ = _method(torch.mul), _method(torch.div)
    __pow__, __matmul__ = _method(torch.pow), _method(torch.matmul)
    __radd__, __rmul__ = __add__, __mul__


def output_and_tangent(
    function: Callable[..., Tensor], primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """function(*primals) with its graph, and its directional derivative along `tangents` without one.

    Args:
        function: built from torch operations, without in-place writes to its inputs.
        primals: inputs; parameters that the function closes over receive gradients as usual.
        tangents: directions, each of its primal's shape.

    >>> primals, along_x = (torch.tensor(3.0), torch.tensor(5.0)), (torch.tensor(1.0), torch.tensor(0.0))
    >>> output_and_tangent(lambda x, y: x * y, primals, along_x)
    (tensor(15.), tensor(5.))
    """
    result = function(*map(Dual, primals, tangents))
    if not isinstance(result, Dual):
        return result, torch.zeros_like(result)
    return result.primal, result.tangent


def _each(pick: Callable[[Any], Any], values: Any) -> Any:
    """Applies `pick` to each item of nested tuples, lists and dictionaries."""
    if _is_sequence(values):
        return type(values)(_each(pick, value) for value in values)
    if _is_mapping(values):
        return {key: _each(pick, value) for key, value in values.items()}
    return pick(values)


def _is_sequence(value: Any) -> TypeGuard[tuple[Any, ...] | list[Any]]:
    return isinstance(value, tuple | list)


def _is_mapping(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _primal(value: Any) -> Any:
    return value.primal if isinstance(value, Dual) else value


def _tangent(value: Any) -> Any:
    """The tangent of a Dual, zeros for a constant."""
    return value.tangent if isinstance(value, Dual) else torch.zeros_like(value)


def _general(func: Rule, result: Any, args: Any, kwargs: Any) -> Any:
    """The tangent by torch.func.jvp: right for every operation, at the price of evaluating it a second time."""
    if kwargs.get("inplace") or (func.__name__.endswith("_") and not func.__name__.endswith("__")):
        raise TypeError(f"{func.__name__} writes in place, which a tangent cannot ride along with")
    if func.__name__ in RANDOM and kwargs.get("training", True):
        raise TypeError(f"{func.__name__} has no tangent: each evaluation draws anew; use dropout, or call eval()")
    parts = result if _is_sequence(result) else [result]
    if not all(isinstance(part, Tensor) and part.is_floating_point() for part in parts):
        return None  # a shape, a comparison: nothing to differentiate
    duals: list[Dual] = []
    _each(lambda value: duals.append(value) if isinstance(value, Dual) else None, (args, kwargs))

    def call(*primals: Tensor) -> Any:
        left = iter(primals)
        swap = _each(lambda value: next(left) if isinstance(value, Dual) else value, (args, kwargs))
        return func(*swap[0], **swap[1])

    primals, tangents = tuple(d.primal.detach() for d in duals), tuple(d.tangent for d in duals)
    return torch.func.jvp(call, primals, tangents)[1]


def _holds_dual(*values: Any) -> bool:
    return any(isinstance(value, Dual) for value in values)


def _linear(func: Rule, result: Any, args: Any, kwargs: Any) -> Any:
    """An operation that is linear in its first argument (a tensor or a list of tensors), with the others constant."""
    if not args or _holds_dual(*args[1:], *kwargs.values()):
        return NotImplemented
    first, *rest = args
    return func(_each(_tangent, first), *rest, **kwargs)


def _layer(func: Rule, result: Any, args: Any, kwargs: Any) -> Any:
    """A convolution or linear layer: the layer applied to the tangent, without the bias."""
    if len(args) < 2 or _holds_dual(*args[1:], *kwargs.values()):
        return NotImplemented
    x, weight, *rest = args
    options = {key: value for key, value in kwargs.items() if key != "bias"}
    return func(x.tangent, weight, None, *rest[1:], **options)


def _add(func: Rule, result: Any, args: Any, kwargs: Any) -> Any:
    if len(args) != 2:
        return NotImplemented
    zero = torch.zeros((), dtype=result.dtype, device=result.device)
    a, b = (value.tangent if isinstance(value, Dual) else zero for value in args)
    return func(a, b, **kwargs).expand(result.shape)


def _lerp(func: Rule, result: Any, args: Any, kwargs: Any) -> Any:
    """a + t (b - a) with a constant t."""
    if len(args) != 3 or _holds_dual(args[2]):
        return NotImplemented
    a, b = (x.tangent if isinstance(x, Dual) else torch.zeros_like(x) for x in args[:2])
    return func(a, b, args[2])


def _product(func: Rule, result: Any, args: Any, kwargs: Any) -> Any:
    """An operation that is linear in each of two factors: d(a b) = da b + a db."""
    if len(args) != 2 or kwargs:
        return NotImplemented
    a, b = args
    tangent = None
    if isinstance(a, Dual):
        tangent = func(a.tangent, _primal(b))
    if isinstance(b, Dual):
        other = func(_primal(a), b.tangent)
        tangent = other if tangent is None else tangent + other
    return tangent


def _quotient(func: Rule, result: Any, args: Any, kwargs: Any) -> Any:
    """d(a / b) = (da - (a / b) db) / b."""
    if len(args) != 2 or kwargs:
        return NotImplemented
    a, b = args
    if not isinstance(b, Dual):
        return a.tangent / b
    change = result * b.tangent
    return ((a.tangent - change) if isinstance(a, Dual) else -change) / b.primal


def _elementwise(slope: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    """y = h(x) for each element, with dh/dx from x and y."""

    def rule(func: Rule, result: Any, args: Any, kwargs: Any) -> Any:
        if not args:
            return NotImplemented
        return args[0].tangent * slope(args[0].primal, result)

    return rule


def _silu(func: Rule, result: Any, args: Any, kwargs: Any) -> Any:
    if not args or kwargs.get("inplace"):
        return NotImplemented
    return torch.ops.aten.silu_backward(args[0].tangent, args[0].primal)


def _softmax(func: Rule, result: Any, args: Any, kwargs: Any) -> Any:
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if not args or dim is None:
        return NotImplemented
    weighted = result * args[0].tangent
    return weighted - result * weighted.sum(dim, keepdim=True)


def _group_norm(func: Rule, result: Any, args: Any, kwargs: Any) -> Any:
    """y = w n + b with n = (x - mean) / std: dn = (dx - mean(dx) - n mean(n dx)) / std, means over each group."""
    given = {**dict(zip(("input", "num_groups", "weight", "bias", "eps"), args, strict=False)), **kwargs}
    x, groups, weight, epsilon = given["input"], given["num_groups"], given.get("weight"), given.get("eps", 1e-5)
    if _holds_dual(weight, given.get("bias")):
        return NotImplemented
    batch, channels = x.shape[:2]
    grouped = x.primal.reshape(batch, groups, -1)
    std = (grouped.var(dim=2, unbiased=False, keepdim=True) + epsilon).sqrt()
    n = (grouped - grouped.mean(dim=2, keepdim=True)) / std
    change = x.tangent.reshape(batch, groups, -1)
    change = change - change.mean(dim=2, keepdim=True) - n * (n * change).mean(dim=2, keepdim=True)
    change = (change / std).reshape(x.shape)
    return change if weight is None else change * weight.reshape(channels, *[1] * (x.ndim - 2))


def _attention(*args: Any, **kwargs: Any) -> Dual:
    """Softmax attention: by the kernel where it can; else the output by torch's own, and the tangent in blocks."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if given.get("dropout_p"):
        raise TypeError("scaled_dot_product_attention with dropout has no tangent: set dropout_p to 0")
    parts, mask, causal = [given[name] for name in names[:3]], given.get("attn_mask"), bool(given.get("is_causal"))
    scale = parts[0].shape[-1] ** -0.5 if given.get("scale") is None else given["scale"]
    primals, tangents = [_primal(x) for x in parts], [_tangent(x) for x in parts]
    if mask is None and not causal and has_kernel((primals[0], primals[1], primals[2])):
        from scm.jvp.flash import output_and_tangent as by_kernel

        return Dual(*by_kernel(scale, *primals, *tangents))
    output = functional.scaled_dot_product_attention(*_each(_primal, args), **_each(_primal, kwargs))
    with torch.no_grad():
        if given.get("enable_gqa"):
            for values in (primals, tangents):
                heads = values[0].shape[-3]
                values[1:] = [x.repeat_interleave(heads // x.shape[-3], dim=-3) for x in values[1:]]
        masks = None if mask is None else (_primal(mask), mask.tangent if isinstance(mask, Dual) else None)
        q, k, v = primals
        dq, dk, dv = tangents
        return Dual(output, attention_tangent((q, k, v), (dq, dk, dv), masks, causal, scale))


def _dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Dropout whose output and tangent have one mask, which is drawn once."""
    if inplace:
        raise TypeError("dropout writes in place, which a tangent cannot ride along with: set inplace to False")
    return input * functional.dropout(torch.ones_like(_primal(input)), p, training)


def _clamp(func: Rule, result: Any, args: Any, kwargs: Any) -> Any:
    if len(args) != 3 or not all(isinstance(bound, int | float) for bound in args[1:]):
        return NotImplemented
    return torch.ops.aten.hardtanh_backward(args[0].tangent, args[0].primal, args[1], args[2])


def _constant(func: Rule, result: Any, args: Any, kwargs: Any) -> None:
    return None


RULES: dict[str, Rule] = {
    **dict.fromkeys(["reshape", "transpose", "unbind", "to", "cat", "sum", "mean", "neg", "squeeze", "chunk"], _linear),
    "contiguous": _linear,
    **dict.fromkeys([functional.avg_pool2d.__name__, functional.interpolate.__name__], _linear),
    **dict.fromkeys(["conv2d", "linear"], _layer),
    **dict.fromkeys(["add", "sub"], _add),
    **dict.fromkeys(["mul", "matmul"], _product),
    "lerp": _lerp,
    "div": _quotient,
    "sqrt": _elementwise(lambda x, y: 0.5 / y),
    "log": _elementwise(lambda x, y: 1 / x),
    "sin": _elementwise(lambda x, y: torch.cos(x)),
    "cos": _elementwise(lambda x, y: -torch.sin(x)),
    "tan": _elementwise(lambda x, y: 1 + y * y),
    "silu": _silu,
    "group_norm": _group_norm,
    "softmax": _softmax,
    "clamp": _clamp,
    **dict.fromkeys(["ones_like", "zeros_like"], _constant),
}

COMPOSED: dict[str, Rule] = {
    "dropout": _dropout,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": multi_head_attention,
}
