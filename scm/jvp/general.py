"""The tangent of any function by torch.func.jvp, and what must not be computed that way.

torch.func.jvp evaluates the function a second time. That is right for a pure function. What draws random numbers is
evaluated again with the same draws; what writes into its arguments, returns numbers or hides its derivative is refused.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from scm.jvp.values import Pair, Refused, Rule, each, is_sequence, items, primal_of

RANDOM = (
    "alpha_dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout", "feature_dropout",
    "fractional_max_pool2d", "fractional_max_pool3d", "gumbel_softmax", "native_dropout", "rrelu",
)  # fmt: skip
"""Functions that draw. torch.compile cannot keep their draws for the tangent, nor can devices of other types."""

STATISTICS = ("batch_norm", "instance_norm")
"""Functions that write running statistics, of which their own result does not depend while they are written."""

LEAVING = ("__array__", "__dlpack__", "data_ptr", "item", "numpy", "tolist", "untyped_storage", "storage")
HIDDEN = {
    **dict.fromkeys(LEAVING, "leaves torch's arithmetic, and the tangent with it: use detach() first for a constant"),
    **dict.fromkeys(["backward", "grad"], "differentiates inside the function, whose tangent has no graph"),
    "normal": "draws numbers whose derivative torch takes for 0: use mean + std * torch.randn_like(mean)",
    "as_strided": "reads memory by its layout, which a tangent need not share: use indexing or unfold",
}
"""Functions that are refused, and why."""

LAYOUT = (
    "as_strided_", "detach_", "requires_grad_", "resize_", "resize_as_", "set_", "squeeze_", "swapaxes_", "swapdims_",
    "t_", "transpose_", "unsqueeze_",
)  # fmt: skip
"""Methods that change a tensor's layout or its part in autograd, and no values."""


def evaluated(func: Rule, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The result of a function of pairs, with its graph, and its tangent; None for parts that have none."""
    name = func.__name__
    _check(func, name, args, kwargs)
    if torch.compiler.is_compiling():
        if name in RANDOM and kwargs.get("training", True):
            raise Refused(f"{name} draws random numbers, and compiled code would draw others for the tangent: {EAGER}")
        result = func(*each(primal_of, args), **each(primal_of, kwargs))
        return result, tangent_of_result(func, result, args, kwargs)
    witness = Witness(args, kwargs)
    result = func(*each(primal_of, args), **each(primal_of, kwargs))
    if name not in STATISTICS:
        witness.check_nothing_written(name)
    drawn = witness.drawn()
    if not drawn:
        return result, tangent_of_result(func, result, args, kwargs)
    after = [(generator, generator.get_state()) for generator, _ in drawn]
    for generator, state in drawn:
        generator.set_state(state)
    try:
        return result, tangent_of_result(func, result, args, kwargs, drawn=True)
    finally:
        for generator, state in after:
            generator.set_state(state)


EAGER = "call eval(), or leave this part out of torch.compile"


def _check(func: Rule, name: str, args: Any, kwargs: Any) -> None:
    """Refuses functions of which no second evaluation tells the tangent."""
    if name in HIDDEN:
        raise Refused(f"{name} {HIDDEN[name]}")
    if name == "view" and items(torch.dtype, (args, kwargs)):
        raise Refused("view(dtype) reads a number's bits as another number, which has no derivative: use to(dtype)")
    if getattr(func, "_qualified_op_name", "aten::")[:6] != "aten::" or getattr(func, "namespace", "aten") != "aten":
        raise Refused(f"{name} is an operator of a library, whose tangent torch may take for 0: {RULE}")
    devices = {pair.primal.device.type for pair in items(Pair, (args, kwargs))}
    if name in RANDOM and kwargs.get("training", True) and not devices <= {"cpu", "cuda"}:
        raise Refused(f"{name} draws random numbers, which are repeated for the tangent on CPU and CUDA alone")


RULE = "write a rule for it (docs/jvp.md)"


class Witness:
    """Notices what a second evaluation would do again: draws of random numbers, and writes into arguments."""

    def __init__(self, args: Any, kwargs: Any) -> None:
        pairs = items(Pair, (args, kwargs))
        tensors: list[Tensor] = [*items(Tensor, (args, kwargs)), *(pair.primal for pair in pairs)]
        self.versions = [(tensor, tensor._version) for tensor in tensors if not tensor.is_inference()]
        generators: list[torch.Generator] = [torch.default_generator, *items(torch.Generator, (args, kwargs))]
        for device in {pair.primal.device for pair in pairs}:
            if device.type == "cuda":
                generators.append(cast(Any, torch.cuda).default_generators[device.index])
        self.states = [(generator, generator.get_state()) for generator in generators]

    def check_nothing_written(self, name: str) -> None:
        if any(tensor._version != version for tensor, version in self.versions):
            raise Refused(f"{name} wrote into one of its arguments, which the tangent would do again: {RULE}")

    def drawn(self) -> list[tuple[torch.Generator, Tensor]]:
        """Generators that gave numbers, with their states before."""
        return [(source, state) for source, state in self.states if not torch.equal(source.get_state(), state)]


def tangent_of_result(func: Rule, result: Any, args: Any, kwargs: Any, drawn: bool = False) -> Any:
    """The tangent by torch.func.jvp; for a view the same view of the tangent.

    Args:
        drawn: the second evaluation must give `result` again.
    """
    parts = list(result) if is_sequence(result) else [result]
    places = [place for place, part in enumerate(parts) if _is_differentiable(func.__name__, part)]
    pairs = items(Pair, (args, kwargs))
    if not places:
        return None  # a shape, a comparison: nothing to differentiate

    def call(*values: Tensor) -> tuple[Tensor, ...]:
        left = iter(values)
        swap = each(lambda value: next(left) if isinstance(value, Pair) else value, (args, kwargs))
        if func.__name__ in STATISTICS:
            swap = each(lambda value: value.clone() if isinstance(value, Tensor) else value, swap)
        found = func(*swap[0], **swap[1])
        return tuple(found[place] for place in places) if is_sequence(result) else (found,)

    with torch.no_grad():
        tangents = tuple(pair.tangent for pair in pairs)
        if not torch.compiler.is_compiling() and len(pairs) == 1 and _is_view_of(pairs[0].primal, parts):
            changes = call(*tangents)  # a view is linear, and its tangent shares memory as it does
        else:
            again, changes = _jvp(func, call, tuple(pair.primal.detach() for pair in pairs), tangents)
            if drawn and not all(map(_agree, again, (parts[place] for place in places))):
                raise Refused(f"{func.__name__} draws random numbers, and drew others for the tangent: call eval()")
    if not is_sequence(result):
        return changes[0]
    filled: list[Tensor | None] = [None] * len(parts)
    for place, change in zip(places, changes, strict=True):
        filled[place] = change
    return filled


def _jvp(func: Rule, call: Callable[..., Any], primals: Any, tangents: Any) -> Any:
    try:
        return torch.func.jvp(call, primals, tangents)
    except NotImplementedError as error:
        raise Refused(f"torch has no forward derivative of {func.__name__}: {RULE}") from error


def _is_differentiable(name: str, part: Any) -> bool:
    """True for a tensor of real numbers, False for integers and what describes a tensor; anything else is refused."""
    if isinstance(part, Tensor):
        if part.is_complex():
            raise Refused(f"{name} gives complex numbers, which have no tangent here: use real and imaginary parts")
        if part.layout != torch.strided or part.is_quantized or part.is_nested:
            raise Refused(f"{name} gives a tensor that is not dense, which has no tangent here")
        return part.is_floating_point()
    if part is None or isinstance(part, int | str | torch.dtype | torch.device | torch.layout):
        return False
    if is_sequence(part) and all(isinstance(item, int | str | None) for item in part):
        return False
    raise Refused(f"{name} gives a {type(part).__name__}, which leaves the tangent behind: use detach() for a constant")


def _is_view_of(primal: Tensor, parts: list[Any]) -> bool:
    return all(isinstance(part, Tensor) and part._is_view() and share_memory(part, primal) for part in parts)


def share_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _agree(again: Tensor, before: Tensor) -> bool:
    return torch.allclose(again, before, rtol=1e-3, atol=1e-5, equal_nan=True)


def writes(name: str, kwargs: Any) -> bool:
    """True for a function that changes its first argument, or an argument `out`."""
    if name[-2:] == "__":
        return name in IN_PLACE
    return name[-1:] == "_" or bool(kwargs.get("inplace")) or kwargs.get("out") is not None


IN_PLACE = frozenset(
    f"__{name}__"
    for name in ("setitem", "iadd", "isub", "imul", "itruediv", "idiv", "ifloordiv", "imod", "ipow", "imatmul", "iand",
                 "ior", "ixor", "ilshift", "irshift")
)  # fmt: skip


def writable(name: str, args: Any, kwargs: Any) -> Pair:
    """The argument that a function writes into; refused where its tangent could not follow."""
    if kwargs.get("out") is not None:
        raise Refused(f"{name}(out=...) writes into a tensor that carries no tangent: take the result that it returns")
    target = args[0] if args else kwargs.get("input", kwargs.get("self"))
    if not isinstance(target, Pair):
        raise Refused(
            f"{name} writes in place, into a tensor that carries no tangent: make it from an input, as "
            "torch.zeros_like(x) or x.new_zeros(shape), or use cat, stack or where"
        )
    if not args or name in LAYOUT:
        raise Refused(f"{name} writes in place, which a tangent cannot follow here: use what gives a new tensor")
    if not target.owned:
        raise Refused(
            f"{name} writes in place, into memory that an input has, or whose tangent has another layout: "
            "call it on x.clone(), or use what gives a new tensor"
        )
    return target


def on_a_copy(func: Rule) -> Rule:
    """The function that changes and returns a copy of its first argument."""

    def changed(target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        copy = target.clone()
        func(copy, *args, **kwargs)
        return copy

    changed.__name__ = func.__name__
    return changed
