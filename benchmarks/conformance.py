"""What scm.jvp does with torch's operations and layers: `python -m benchmarks.conformance` writes docs/jvp.md's table.

Each row of benchmarks/operations.py and benchmarks/layers.py is a function of a float64 tensor, often with weights.
Its output must be torch's own, with the same gradients; its tangent that of torch.func.jvp and of central differences;
its buffers and the random numbers that come next must be those of one evaluation. Else the row has to be refused, by
an error that names the remedy.
"""

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from scm.jvp import Refused, output_and_tangent

PAGE = Path(__file__).parents[1] / "docs" / "jvp.md"
STEP = 1e-6
"""The step of central differences."""
START, END = "<!-- conformance -->\n", "<!-- /conformance -->\n"

Function = Callable[[Any], Any]


class Operation(NamedTuple):
    """A row of the table.

    Attributes:
        make: gives the function, or a layer with its first weights.
        shape: the input's.
        dtype: float32 where float64 would not do what the row is about.
        differences: False where a part of the function is a constant for derivatives, but not for differences.
    """

    make: Callable[[], Function]
    shape: tuple[int, ...] = (2, 4, 6)
    dtype: torch.dtype = torch.float64
    differences: bool = True


class Evaluation(NamedTuple):
    """All that one evaluation of a function leaves."""

    output: Tensor
    gradients: list[Tensor]
    buffers: list[Tensor]
    draws: Tensor


def inputs(operation: Operation) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(1)
    x, along = torch.randn(2, *operation.shape, generator=draws, dtype=torch.float64).to(operation.dtype)
    return x.clone().requires_grad_(), along.clone()


def made(operation: Operation) -> Function:
    """The function with its first weights, and torch's generator at its start."""
    torch.manual_seed(0)
    function = operation.make()
    if isinstance(function, nn.Module):
        function.to(operation.dtype)
    torch.manual_seed(7)
    return function


def evaluation(function: Function, x: Tensor, output: Tensor) -> Evaluation:
    module = function if isinstance(function, nn.Module) else nn.Module()
    draws, places = torch.get_rng_state(), [x, *module.parameters()]
    cotangent = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).to(output.dtype)
    if not output.requires_grad:
        gradients = [torch.zeros_like(place) for place in places]
    else:
        found = torch.autograd.grad(output, places, cotangent, allow_unused=True)
        gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(places, found, strict=True)]
    return Evaluation(output.detach(), gradients, [buffer.clone() for buffer in module.buffers()], draws)


def outcome(operation: Operation) -> str:
    """'exact', 'refused: ' and why, or 'WRONG: ' and what."""
    (x, along), function = inputs(operation), made(operation)
    try:
        output, tangent = output_and_tangent(function, (x,), (along,))
    except Refused as refusal:
        return f"refused: {refusal}"
    except (TypeError, ValueError, RuntimeError) as error:  # torch's or Python's own, which is no silent error either
        made(operation)(x.detach().clone())  # a row that fails without tangents says nothing
        return f"refused by torch: {type(error).__name__}"
    ours = evaluation(function, x, output)
    function = made(operation)
    plain = evaluation(function, x, function(x))
    rough = operation.dtype != torch.float64
    wrong = [name for name in Evaluation._fields if not _alike(getattr(ours, name), getattr(plain, name), rough)]
    if tangent.requires_grad or tangent.dtype != output.dtype:
        wrong.append("the tangent's graph or type")
    wrong += [f"tangent ({name})" for name, true in _true(operation, x, along) if not _alike(tangent, true, rough)]
    return f"WRONG: {', '.join(wrong)}" if wrong else "exact"


def _true(operation: Operation, x: Tensor, along: Tensor) -> list[tuple[str, Tensor]]:
    """The tangent by torch.func.jvp, where it has one, and by central differences."""
    found = []
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        with contextlib.suppress(NotImplementedError, RuntimeError):
            found.append(("torch.func.jvp", torch.func.jvp(made(operation), (x.detach(),), (along,))[1]))
        if operation.dtype == torch.float64 and operation.differences:
            ahead, behind = (made(operation)(x.detach() + step * along) for step in (STEP, -STEP))
            found.append(("central differences", (ahead - behind) / (2 * STEP)))
    assert found, "a row needs a reference"
    return found


def _alike(ours: Any, true: Any, rough: bool) -> bool:
    if isinstance(ours, list):
        return len(ours) == len(true) and all(_alike(a, b, rough) for a, b in zip(ours, true, strict=True))
    tolerance = 2e-2 if rough else 1e-7
    return ours.shape == true.shape and torch.allclose(
        ours.double(), true.double(), rtol=tolerance, atol=tolerance * max(1.0, float(true.double().abs().amax()))
    )


def rows() -> dict[str, Operation]:
    """All rows, by their names in the table."""
    from benchmarks.layers import ROWS
    from benchmarks.operations import OPERATIONS

    return {**OPERATIONS, **ROWS}


def table() -> str:
    """The table in Markdown, one row an operation."""
    lines = ["| operation | outcome |", "|---|---|"]
    for name, operation in rows().items():
        text = outcome(operation).replace("|", "\\|")
        lines.append(f"| {name} | {text} |")
    return "\n".join(lines) + "\n"


def stored() -> dict[str, str]:
    """The outcomes that docs/jvp.md states."""
    block = PAGE.read_text(encoding="utf-8").split(START)[1].split(END)[0]
    return dict(re.findall(r"^\| (.+?) \| (.+) \|$", block, flags=re.MULTILINE)[1:])


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(START)
    made, after = table(), rest.split(END)[1]
    PAGE.write_text(f"{before}{START}{made}{END}{after}", encoding="utf-8")
    counts = [sum(f"| {word}" in line for line in made.splitlines()) for word in ("exact", "refused", "WRONG")]
    print("exact {}, refused {}, wrong {}".format(*counts))


if __name__ == "__main__":
    main()
