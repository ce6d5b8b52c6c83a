"""Attention with a tangent, ours beside explicit attention: `python -m benchmarks.attention [--device cpu]`.

Output, tangent and the output's backward, for one sample:

- ours: torch's scaled_dot_product_attention, whose tangent is computed in blocks or, on CUDA, by the kernel;
- explicit: all scores stored, the tangent riding along (scm/jvp/dual.py);
- jvp: all scores stored, torch.func.jvp with a graph, whose tangent is then detached.

Time is the median of `--repeats` in turns of the three; memory is the peak of what the step allocates.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.step_cost import one_jvp, peak_mib, synchronize
from scm.base.precision import DTYPES
from scm.errors import UserError
from scm.jvp import output_and_tangent
from scm.networks.layers import explicit_attention

Way = Callable[[tuple[Tensor, ...], tuple[Tensor, ...]], tuple[Tensor, Tensor]]


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[B, heads, N, channels] each, as torch's function takes them."""
    return explicit_attention(*(x.transpose(-1, -2) for x in (q, k, v))).transpose(-1, -2)


WAYS: dict[str, Way] = {
    "ours": functools.partial(output_and_tangent, functional.scaled_dot_product_attention),
    "explicit": functools.partial(output_and_tangent, explicit),
    "jvp": functools.partial(one_jvp, explicit),
}


def inputs(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> list[tuple[Tensor, ...]]:
    """Primals, which need gradients, and tangents."""
    torch.manual_seed(0)
    values = [torch.randn(shape, device=device, dtype=dtype) for _ in range(6)]
    return [tuple(x.requires_grad_() for x in values[:3]), tuple(values[3:])]


def step(way: Way, primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> None:
    output, _ = way(primals, tangents)
    torch.autograd.grad(output, primals, torch.ones_like(output))


def measured(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, repeats: int, ways: dict[str, Way] = WAYS
) -> dict[str, str]:
    """ms and MiB of each way, and how ours compares with explicit attention."""
    primals, tangents = inputs(shape, dtype, device)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            synchronize(device)
            started = time.perf_counter()
            step(way, primals, tangents)
            synchronize(device)
            times[name].append(time.perf_counter() - started)
    ms = {name: statistics.median(values[1:]) * 1e3 for name, values in times.items()}
    mib = {name: peak_mib(functools.partial(step, way, primals, tangents), device) for name, way in ways.items()}
    cells = {name: f"{ms[name]:,.1f} \\| {mib[name]:,.0f}" for name in ways}
    cells["ratio"] = f"{ms['ours'] / ms['explicit']:.2f} \\| {mib['ours'] / mib['explicit']:.2f}"
    return cells


def main() -> None:
    from scm.results.provenance import machine_name

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=[*DTYPES], default="fp32")
    parser.add_argument("--tokens", type=int, nargs="*", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--channels", type=int, default=64, help="of a head")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no CUDA device; use --device cpu")
    print(f"{machine_name()}, {options.device}, {options.precision}; torch {torch.__version__}, ", end="")
    print(f"{torch.get_num_threads()} threads; {options.heads} heads of {options.channels} channels:")
    print("ms | peak MiB of output, tangent and backward\n")
    print("| tokens | ours | explicit | jvp | ours / explicit |\n|---|---|---|---|---|")
    for tokens in options.tokens:
        shape = (1, options.heads, tokens, options.channels)
        cells = measured(shape, DTYPES[options.precision], torch.device(options.device), options.repeats)
        print(f"| {tokens:,} | {' | '.join(cells.values())} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
