"""What this device computes against float64 on the CPU: `python -m benchmarks.correctness [--device cpu]`.

The table holds relative errors of F, of its tangent cos t sin t dF/dt, of sCT's loss and of its gradient: for a small
network of each flavour without dropout, and for attention (output, tangent, its sum of squares). Noise and times are
drawn on the CPU, so they are the same for all devices and types. The loss takes g as it is and has no weight, so it
depends on the network's numbers alone.
"""

import argparse
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import attention, precision
from scm.base.precision import DTYPES
from scm.errors import UserError
from scm.jvp import output_and_tangent
from scm.jvp.attention import HAS_TRITON
from scm.networks import Model
from scm.networks.architectures import names
from scm.objectives.consistency import consistency_tangent
from scm.objectives.protocol import Batch
from scm.objectives.sct import ConsistencyTraining
from scm.trigflow import interpolate, propose_times, velocity

BOUNDS = {"fp32": 2e-5, "fp16": 1e-2, "bf16": 1e-1}
"""Largest relative errors. The types have 24, 11 and 8 bits."""
QUANTITIES = ("F", "tangent", "loss", "gradient")
TOKENS = (70, 1024, 1100)
"""From 1,024 on attention is the kernel's; 1,100 is no multiple of its block."""
SAMPLES = 8


def head(*columns: str) -> str:
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


class SameDraws(Batch):
    """A batch whose numbers are drawn on the CPU in float32, whatever its own device and type."""

    def _own(self, draw: Callable[..., Tensor], *shape: int) -> Tensor:
        return draw(self.size, *shape, generator=self.generator).to(self.x_0)


def of_network(model: Model, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """F, its tangent, the loss and its gradient; data of type `dtype`."""
    draws, settings = torch.Generator().manual_seed(1), model.settings
    shape = (2, SAMPLES, settings.channels, settings.resolution, settings.resolution)
    x_0, z = (torch.randn(shape, generator=draws) * 0.5).to(device, dtype)
    t = propose_times(torch.randn(SAMPLES, generator=draws), -1.0, 1.4, 0.5).to(device, dtype)
    labels = torch.arange(SAMPLES, device=device) % settings.classes
    x_t, v_t = interpolate(x_0, z, t), velocity(x_0, z, t)
    tangent = consistency_tangent(lambda x, time: model(x, time, labels), x_t, t, t, v_t, 0.5, r=1.0)
    model.zero_grad()
    objective = ConsistencyTraining(sigma_d=0.5, p_mean=-1.0, p_std=1.4, tangent="raw", adaptive_weighting=False)
    loss = objective(model, SameDraws(x_0, labels, torch.Generator().manual_seed(2)), 0).value.sum()
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return tangent.output.detach(), tangent.second, loss.detach(), gradient


def of_attention(values: list[Tensor], function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
    """Output, tangent, the output's sum of squares and its gradient."""
    primals = tuple(x.clone().requires_grad_() for x in values[:3])
    output, tangent = output_and_tangent(function, primals, tuple(values[3:]))
    loss = output.double().square().sum()
    loss.backward()
    gradient = torch.cat([x.grad.flatten() for x in primals if x.grad is not None])
    return output.detach(), tangent, loss.detach(), gradient


def differences(ours: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> dict[str, float]:
    pairs = zip(QUANTITIES, ours, exact, strict=True)
    return {name: float((a.cpu().double() - b).norm() / b.norm()) for name, a, b in pairs}


def found(device: torch.device, resolution: int = 8) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Name, precision and differences of each row."""
    for flavour in (f"{name}{ending}" for name in names() for ending in ("", "-trigflow")):
        model = precision.network(flavour, resolution).eval()
        exact = of_network(model.double(), torch.device("cpu"), torch.float64)
        model.float().to(device)
        for kind, dtype in DTYPES.items():
            model.precision = dtype
            yield flavour, kind, differences(of_network(model, device, torch.float32), exact)
    for tokens in TOKENS:
        draws = torch.Generator().manual_seed(tokens)
        values = [torch.randn(1, 1, tokens, 64, generator=draws) for _ in range(6)]
        for kind, dtype in DTYPES.items():
            given = [x.to(device, dtype) for x in values]
            exact = of_attention([x.cpu().double() for x in given], attention.explicit)
            ours = of_attention(given, functional.scaled_dot_product_attention)
            yield f"attention, {tokens:,} tokens", kind, differences(ours, exact)


def lines(device: torch.device) -> Iterator[str]:
    """The table.

    Raises:
        UserError: at the end, an error exceeds its bound.
    """
    yield head("network", "precision", *QUANTITIES)
    wrong: list[str] = []
    for name, kind, errors in found(device):
        yield row(name, kind, *(f"{error:.1e}" for error in errors.values()))
        wrong += [f"{name} {kind} {key}" for key, error in errors.items() if not error < BOUNDS[kind]]
    if device.type != "cuda" or not HAS_TRITON:
        yield "\nThe kernel has not run: it needs CUDA and Triton."
    if wrong:
        raise UserError(f"errors of more than {BOUNDS}: {', '.join(wrong)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # fp32 means fp32
    for line in lines(torch.device(options.device)):
        print(line, flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
