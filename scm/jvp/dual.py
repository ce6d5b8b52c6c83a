"""Forward-mode differentiation in which the tangent rides along with a forward that keeps its graph.

The loss of alg. 1 needs F_theta with a graph, and dF/dt without one. `torch.func.jvp` computes for each convolution
two more, one of them with a zero weight tangent, and then either keeps a graph of everything or has to be followed by
a second forward. Here a `Dual` carries (primal, tangent) through the network's own code by `__torch_function__`: the
primal is computed once, with its graph; the tangent of a linear operation is one application of it, and no tangent has
a graph.

`rules.RULES` holds the operations whose tangent is cheaper than the general one. `torch.func.jvp` differentiates any
other operation, and any other form of calling one with a rule (general.py): a network built from operations without
rules is slower, not wrong. What cannot be right is `Refused`, with the remedy; docs/jvp.md lists it.
"""

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from scm.jvp.general import evaluated, on_a_copy, share_memory, tangent_of_result, writable, writes
from scm.jvp.rules import COMPOSED, RULES, linear
from scm.jvp.values import Pair, Refused, each, is_sequence, items, primal_of

_forward_mode_is_on: Callable[[], bool] = forward_ad._is_fwd_grad_enabled  # pyright: ignore[reportPrivateUsage]


def _method(func: Callable[..., Any]) -> Callable[..., Any]:
    """A method of Dual that calls `func` as torch itself would, on arguments of which one is a Dual."""
    return lambda *args: Dual.__torch_function__(func, (), args)


def _reflected(func: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: Dual.__torch_function__(func, (), args[::-1])


def _of_value(name: str) -> property:
    """An attribute that is the value's. A property, so that nobody sets it on the Dual alone."""
    return property(lambda self: getattr(self.primal, name))


def _constant(kind: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any) -> Any:
        raise Refused(f"{kind} of a tensor leaves its tangent behind: use detach() first for a constant")

    return method


class Dual(Pair):
    """A tensor with its tangent; passes for a tensor in torch's functions and methods, and in arithmetic.

    Written so that torch.compile can trace it: no `__slots__`, and attributes by name.
    """

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = cast(Any, kwargs or {}), func.__name__
        _check_not_hidden(name)
        if writes(name, kwargs):
            return _written(func, args, kwargs)
        if name in COMPOSED:
            result = COMPOSED[name](*args, **kwargs)
            return _own(result.primal, result.tangent) if type(result) is Pair else result
        rule = RULES.get(name)
        if rule is None:
            result, tangent = evaluated(func, args, kwargs)
            return _joined(result, tangent, lambda value, change: _related(value, change, (args, kwargs)))
        result = func(*each(primal_of, args), **each(primal_of, kwargs))
        with torch.no_grad():
            tangent = rule(func, result, args, kwargs)
        if tangent is NotImplemented:  # a form of the call that the rule does not cover
            tangent = tangent_of_result(func, result, args, kwargs)
            return _joined(result, tangent, lambda value, change: _related(value, change, (args, kwargs)))
        if rule is linear and isinstance(args[0], Dual):
            return _joined(result, tangent, lambda value, change: _viewed(args[0], value, change))
        return _joined(result, tangent, _own)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        method = getattr(Tensor, name)
        if not callable(method):
            value = getattr(self.primal, name)
            if name in ("T", "mT", "H", "mH", "real"):
                return _viewed(self, value, getattr(self.tangent, name))
            if isinstance(value, Tensor):
                raise Refused(f"the attribute {name} of a tensor has no tangent here: use detach() for a constant")
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            return self.__torch_function__(method, (), (self, *args), kwargs)

        return call

    def __getitem__(self, index: Any) -> "Dual":
        _check_not_hidden("indexing")
        with torch.no_grad():
            change = self.tangent[index]
        return _viewed(self, self.primal[index], change)

    def __setitem__(self, index: Any, value: Any) -> None:
        Dual.__torch_function__(Tensor.__setitem__, (), (self, index, value))

    def __rsub__(self, other: Any) -> "Dual":
        return -self + other

    def __rtruediv__(self, other: Any) -> "Dual":
        return Dual.__torch_function__(torch.reciprocal, (), (self,)) * other

    def __len__(self) -> int:
        return len(self.primal)

    def __iter__(self) -> Iterator["Dual"]:
        return iter(self.unbind(0))

    def __contains__(self, value: Any) -> bool:
        return bool((self == value).any())

    def __bool__(self) -> bool:
        return bool(self.primal)

    __hash__ = object.__hash__
    __neg__, __add__, __sub__ = _method(torch.neg), _method(torch.add), _method(torch.sub)
    __mul__, __truediv__ = _method(torch.mul), _method(torch.div)
    __pow__, __matmul__ = _method(torch.pow), _method(torch.matmul)
    __radd__, __rmul__ = __add__, __mul__
    __abs__, __pos__, __mod__ = _method(torch.abs), _method(torch.positive), _method(torch.remainder)
    __floordiv__, __rfloordiv__ = _method(torch.floor_divide), _reflected(torch.floor_divide)
    __rpow__, __rmod__, __rmatmul__ = _reflected(torch.pow), _reflected(torch.remainder), _reflected(torch.matmul)
    __lt__, __le__, __gt__, __ge__ = map(_method, (torch.lt, torch.le, torch.gt, torch.ge))
    __eq__, __ne__ = _method(torch.eq), _method(torch.ne)  # type: ignore[assignment]
    __iadd__, __isub__, __imul__ = map(_method, (Tensor.add_, Tensor.sub_, Tensor.mul_))
    __itruediv__, __ifloordiv__ = _method(Tensor.div_), _method(Tensor.floor_divide_)
    __imod__, __ipow__ = _method(Tensor.remainder_), _method(Tensor.pow_)
    __float__, __int__, __index__, __complex__ = map(_constant, ("float()", "int()", "an index", "complex()"))
    __array__, data = _constant("a numpy array"), property(_constant("the data"))
    shape, ndim, dtype, device, is_nested = map(_of_value, ("shape", "ndim", "dtype", "device", "is_nested"))
    requires_grad, grad_fn, is_leaf = map(_of_value, ("requires_grad", "grad_fn", "is_leaf"))


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
    for place, (primal, tangent) in enumerate(zip(primals, tangents, strict=True)):
        _check_input(place, primal, tangent)
    with nullcontext() if torch.compiler.is_compiling() else _entered():  # torch.compile knows no threads
        result: Any = function(*map(Dual, primals, tangents))
    if isinstance(result, Dual):
        return result.primal, result.tangent
    if not isinstance(result, Tensor):
        raise Refused(f"the function gives a {type(result).__name__}: let it return one tensor")
    return result, torch.zeros_like(result)


def _check_input(place: int, primal: Tensor, tangent: Tensor) -> None:
    if not primal.is_floating_point() or primal.layout != torch.strided:
        raise Refused(f"input {place} is {primal.dtype}, {primal.layout}: only dense real numbers have tangents")
    if (primal.shape, primal.dtype, primal.device) != (tangent.shape, tangent.dtype, tangent.device):
        raise Refused(
            f"input {place} is {primal.dtype} {list(primal.shape)} on {primal.device}, but its tangent is "
            f"{tangent.dtype} {list(tangent.shape)} on {tangent.device}: a tangent has its input's form"
        )


@contextmanager
def _entered() -> Generator[None]:
    """In the block torch.is_tensor, which many networks ask about a time, says yes to a Dual.

    Threads may be in it at once, but none twice: a Dual knows one direction alone.
    """
    thread = threading.get_ident()
    with _LOCK:
        if thread in _INSIDE:
            raise Refused(
                "output_and_tangent is called inside output_and_tangent: use torch.func.jvp for the inner one"
            )
        _INSIDE.add(thread)
        torch.is_tensor = _is_tensor  # type: ignore[assignment]
    try:
        yield
    finally:
        with _LOCK:
            _INSIDE.discard(thread)
            if not _INSIDE:
                torch.is_tensor = _TORCHS


_LOCK, _INSIDE, _TORCHS = threading.Lock(), set[int](), torch.is_tensor


def _is_tensor(obj: object, /) -> bool:
    return isinstance(obj, Tensor | Dual)


def _check_not_hidden(name: str) -> None:
    """torch switches forward mode off in inference mode, and for the body of an autograd.Function."""
    if torch.compiler.is_compiling() or _forward_mode_is_on():
        return
    if torch.is_inference_mode_enabled():
        raise Refused(f"{name} is called in inference mode, which has no tangents: use torch.no_grad()")
    raise Refused(
        f"{name} is called inside an autograd.Function, which would lose the gradient: call the operations without "
        "it; instead of checkpoint(use_reentrant=True) use scm.jvp.recomputed"
    )


def _joined(result: Any, tangent: Any, join: Callable[[Tensor, Tensor], Dual]) -> Any:
    """Each part of a result with its tangent, where it has one."""
    if tangent is None:
        return result
    if not is_sequence(result):
        return join(result, tangent)
    return type(result)(
        [part if change is None else join(part, change) for part, change in zip(result, tangent, strict=True)]
    )


def _own(value: Tensor, change: Tensor) -> Dual:
    """A value of its own, which shares memory with nothing before it."""
    if change.dtype != value.dtype:  # inside autocast
        change = change.to(value.dtype)
    dual = Dual(value, change)
    dual.owned = not torch.compiler.is_compiling()
    return dual


def _viewed(source: Dual, value: Tensor, change: Tensor) -> Dual:
    """What a linear operation makes of `source` and its tangent: a view, or a copy."""
    if torch.compiler.is_compiling():
        return Dual(value, change)
    if value is source.primal:
        return source
    dual = Dual(value, change)
    if not value._is_view() and not change._is_view() and change is not source.tangent:
        dual.owned = True
    elif value._is_view() and change._is_view():
        dual.owned = source.owned
    else:
        source.owned = False
    return dual


def _related(value: Tensor, change: Tensor, arguments: Any) -> Dual:
    """What any function makes of the Duals among its arguments."""
    if torch.compiler.is_compiling():
        return Dual(value, change)
    duals = items(Dual, arguments)
    for dual in duals:
        if value is dual.primal:
            return dual
    shared = [dual for dual in duals if share_memory(dual.primal, value)]
    if not shared:
        copied = any(share_memory(dual.tangent, change) for dual in duals)
        return _own(value, change.clone() if copied else change)
    joined = Dual(value, change)
    joined.owned = all(dual.owned and share_memory(dual.tangent, change) for dual in shared)
    for dual in shared:
        dual.owned = joined.owned
    return joined


def _written(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Writes the new value and its tangent where the old ones are; views of them follow as torch's own do."""
    target: Any = writable(func.__name__, args, kwargs)
    if kwargs.get("inplace"):
        new = Dual.__torch_function__(func, (), (target.clone(), *args[1:]), {**kwargs, "inplace": False})
    else:
        new = Pair(*evaluated(on_a_copy(func), args, kwargs))
    if new.primal.shape != target.primal.shape:
        raise Refused(f"{func.__name__} gives another shape in place, which a tangent cannot follow")
    target.primal.copy_(new.primal)
    with torch.no_grad():
        target.tangent.copy_(new.tangent)
    return None if func.__name__ == "__setitem__" else target
