"""Operations whose tangent is cheaper than the general one.

A rule of `RULES` gives the tangent beside a result; a function of `COMPOSED` gives both.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from scm.jvp.attention import attention_tangent, has_kernel
from scm.jvp.multihead import multi_head_attention
from scm.jvp.values import Pair, Refused, Rule, each, has_pair, primal_of, tangent_of


def linear(func: Rule, result: Any, args: Any, kwargs: Any) -> Any:
    """An operation that is linear in its first argument (a tensor or a list of tensors), with the others constant."""
    if not args or has_pair(*args[1:], *kwargs.values()):
        return NotImplemented
    if isinstance(result, Tensor) and not result.is_floating_point():
        return NotImplemented  # no tangent, or none that is possible
    first, *rest = args
    return func(each(tangent_of, first), *rest, **kwargs)


def _layer(func: Rule, result: Any, args: Any, kwargs: Any) -> Any:
    """A convolution or linear layer: the layer applied to the tangent, without the bias."""
    if len(args) < 2 or has_pair(*args[1:], *kwargs.values()):
        return NotImplemented
    x, weight, *rest = args
    options = {key: value for key, value in kwargs.items() if key != "bias"}
    return func(x.tangent, weight, None, *rest[1:], **options)


def _add(func: Rule, result: Any, args: Any, kwargs: Any) -> Any:
    if len(args) != 2:
        return NotImplemented
    zero = torch.zeros((), dtype=result.dtype, device=result.device)
    a, b = (value.tangent if isinstance(value, Pair) else zero for value in args)
    change = func(a, b, **kwargs)
    return change if change.shape == result.shape else change.expand(result.shape).clone()


def _lerp(func: Rule, result: Any, args: Any, kwargs: Any) -> Any:
    """a + t (b - a) with a constant t."""
    if len(args) != 3 or has_pair(args[2]):
        return NotImplemented
    a, b = (x.tangent if isinstance(x, Pair) else torch.zeros_like(x) for x in args[:2])
    return func(a, b, args[2])


def _product(func: Rule, result: Any, args: Any, kwargs: Any) -> Any:
    """An operation that is linear in each of two factors: d(a b) = da b + a db."""
    if len(args) != 2 or kwargs:
        return NotImplemented
    a, b = args
    tangent = None
    if isinstance(a, Pair):
        tangent = func(a.tangent, primal_of(b))
    if isinstance(b, Pair):
        other = func(primal_of(a), b.tangent)
        tangent = other if tangent is None else tangent + other
    return tangent


def _quotient(func: Rule, result: Any, args: Any, kwargs: Any) -> Any:
    """d(a / b) = (da - (a / b) db) / b."""
    if len(args) != 2 or kwargs:
        return NotImplemented
    a, b = args
    if not isinstance(b, Pair):
        return a.tangent / b
    change = result * b.tangent
    return ((a.tangent - change) if isinstance(a, Pair) else -change) / b.primal


def elementwise(slope: Callable[[Tensor, Tensor], Tensor]) -> Rule:
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
    if has_pair(weight, given.get("bias")):
        return NotImplemented
    batch, channels = x.shape[:2]
    grouped = x.primal.reshape(batch, groups, -1)
    std = (grouped.var(dim=2, unbiased=False, keepdim=True) + epsilon).sqrt()
    n = (grouped - grouped.mean(dim=2, keepdim=True)) / std
    change = x.tangent.reshape(batch, groups, -1)
    change = change - change.mean(dim=2, keepdim=True) - n * (n * change).mean(dim=2, keepdim=True)
    change = (change / std).reshape(x.shape)
    return change if weight is None else change * weight.reshape(channels, *[1] * (x.ndim - 2))


def _explicit_attention(parts: list[Any], mask: Any, causal: bool, scale: float, given: dict[str, Any]) -> Any:
    """Attention with dropout, which stores its weights: one mask drops for output and tangent."""
    q, k, v = parts
    if given.get("enable_gqa"):
        k, v = (x.repeat_interleave(q.shape[-3] // x.shape[-3], dim=-3) for x in (k, v))
    scores = (q * scale) @ k.transpose(-1, -2)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return functional.dropout(torch.softmax(scores, dim=-1), given["dropout_p"]) @ v


def _attention(*args: Any, **kwargs: Any) -> Any:
    """Softmax attention: by the kernel where it can; else the output by torch's own, and the tangent in blocks."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    parts, mask, causal = [given[name] for name in names[:3]], given.get("attn_mask"), bool(given.get("is_causal"))
    scale = parts[0].shape[-1] ** -0.5 if given.get("scale") is None else given["scale"]
    if given.get("dropout_p"):
        return _explicit_attention(parts, mask, causal, scale, given)
    primals, tangents = [primal_of(x) for x in parts], [tangent_of(x) for x in parts]
    if mask is None and not causal and has_kernel((primals[0], primals[1], primals[2])):
        from scm.jvp.flash import output_and_tangent as by_kernel

        return Pair(*by_kernel(scale, *primals, *tangents))
    output = functional.scaled_dot_product_attention(*each(primal_of, args), **each(primal_of, kwargs))
    with torch.no_grad():
        if given.get("enable_gqa"):
            for values in (primals, tangents):
                heads = values[0].shape[-3]
                values[1:] = [x.repeat_interleave(heads // x.shape[-3], dim=-3) for x in values[1:]]
        masks = None if mask is None else (primal_of(mask), mask.tangent if isinstance(mask, Pair) else None)
        q, k, v = primals
        dq, dk, dv = tangents
        return Pair(output, attention_tangent((q, k, v), (dq, dk, dv), masks, causal, scale))


def _dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Dropout whose output and tangent have one mask, which is drawn once."""
    if not training or p == 0:
        return input  # itself, as torch returns it
    return input * functional.dropout(torch.ones_like(primal_of(input)), p, training)


def _clamp(func: Rule, result: Any, args: Any, kwargs: Any) -> Any:
    """At a bound the tangent passes, as torch's gradient does: hardtanh's would stop there, hence wider ones."""
    if len(args) != 3 or not all(isinstance(bound, int | float) for bound in args[1:]):
        return NotImplemented
    kind = torch.finfo(args[0].primal.dtype)
    least, most = (
        sign * max(0.75 * kind.eps * abs(bound), kind.tiny) for sign, bound in zip((-1, 1), args[1:], strict=True)
    )
    return torch.ops.aten.hardtanh_backward(args[0].tangent, args[0].primal, args[1] + least, args[2] + most)


def _constant(func: Rule, result: Any, args: Any, kwargs: Any) -> None:
    return None


def _zeros(func: Rule, result: Any, args: Any, kwargs: Any) -> Any:
    """A constant, drawn or given, that carries a tangent, so that tangents can be written into it."""
    if any(isinstance(each, Pair) for each in (*args[1:], *kwargs.values())):
        name = func.__name__
        raise Refused(f"{name} takes a number, which would lose the tangent: write {name}(...) of ones times the value")
    return torch.zeros_like(result) if result.is_floating_point() else NotImplemented


RULES: dict[str, Rule] = {
    **dict.fromkeys(["reshape", "transpose", "unbind", "to", "cat", "sum", "mean", "neg", "squeeze", "chunk"], linear),
    "clone": linear,
    "contiguous": linear,
    **dict.fromkeys([functional.avg_pool2d.__name__, functional.interpolate.__name__], linear),
    **dict.fromkeys(["conv2d", "linear"], _layer),
    **dict.fromkeys(["add", "sub"], _add),
    **dict.fromkeys(["mul", "matmul"], _product),
    "lerp": _lerp,
    "div": _quotient,
    "sqrt": elementwise(lambda x, y: 0.5 / y),
    "log": elementwise(lambda x, y: 1 / x),
    "sin": elementwise(lambda x, y: torch.cos(x)),
    "cos": elementwise(lambda x, y: -torch.sin(x)),
    "tan": elementwise(lambda x, y: 1 + y * y),
    "silu": _silu,
    "group_norm": _group_norm,
    "softmax": _softmax,
    "clamp": _clamp,
    **dict.fromkeys(["detach", "dim", "is_floating_point", "numel", "size", "stride"], _constant),
    **dict.fromkeys(["empty_like", "full_like", "ones_like", "zeros_like"], _zeros),
    **dict.fromkeys(["bernoulli", "poisson", "rand_like", "randint_like", "randn_like"], _zeros),
    **dict.fromkeys(["new_empty", "new_full", "new_ones", "new_tensor", "new_zeros"], _zeros),
}

COMPOSED: dict[str, Rule] = {
    "dropout": _dropout,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": multi_head_attention,
}
