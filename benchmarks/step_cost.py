"""What a training step costs: `python benchmarks/step_cost.py [--device cpu] [--presets imagenet512-s ...]`.

Three ways to compute the loss of alg. 1, as multiples of a diffusion step of the same network (forward and backward):

- ours: the tangent rides along with the forward that keeps its graph (scm/jvp/dual.py);
- split: torch.func.jvp without graph, then a second forward with it, as the method is usually written;
- jvp: one torch.func.jvp with graph, whose tangent is then detached.

The first table counts, on tensors without data, operations (convolutions and matrix products) and peak memory of the
forward's tensors for the paper's networks (float32, dropout on). The second table measures time and peak memory of a
whole step on this machine (float32, no dropout).

What gpu.py shares needs torch and numpy alone, so other imports stand inside the functions.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from scm.base.live_memory import LiveMemory
from scm.base.precision import DTYPES
from scm.errors import UserError
from scm.jvp import output_and_tangent
from scm.networks import Model, NetworkSettings, flavoured
from scm.objectives import consistency
from scm.objectives.diffusion import Diffusion
from scm.objectives.protocol import Batch
from scm.objectives.scd import ConsistencyDistillation
from scm.objectives.sct import ConsistencyTraining

if TYPE_CHECKING:
    from scm.params import Params

ROOT = Path(__file__).parents[1]
TRANSFORMER: dict[str, Any] = {"multipliers": (1,), "blocks": 7, "attention": (), "channels_per_head": 48, "patch": 2}
SMALL: dict[str, dict[str, Any]] = {
    "edm2, width 16": {"width": 16, **flavoured("edm2-trigflow")},
    "edm2, width 64": {"width": 64, **flavoured("edm2-trigflow")},
    "ddpmpp, width 32": {"width": 32, **flavoured("ddpmpp-trigflow")},
    "dit, width 144": {"width": 144, **TRANSFORMER, **flavoured("dit-trigflow")},
}
"""Networks of the second table, for 16x16 pixels."""


def split(function: Callable[..., Tensor], primals: Any, tangents: Any) -> tuple[Tensor, Tensor]:
    """The tangent without graph, then the value with one; with dropout, both from the same draws."""
    with torch.random.fork_rng(), torch.no_grad():
        tangent = torch.func.jvp(function, primals, tangents)[1]
    return function(*primals), tangent


def one_jvp(function: Callable[..., Tensor], primals: Any, tangents: Any) -> tuple[Tensor, Tensor]:
    """Value and tangent at once, both with a graph."""
    output, tangent = torch.func.jvp(function, primals, tangents)[:2]
    return output, tangent.detach()


WAYS = {"ours": output_and_tangent, "split": split, "jvp": one_jvp}


@contextmanager
def tangent_by(way: str) -> Iterator[None]:
    """Inside the block, objectives compute their tangents this way."""
    ours = consistency.output_and_tangent
    consistency.output_and_tangent = WAYS[way]  # type: ignore[assignment]
    try:
        yield
    finally:
        consistency.output_and_tangent = ours


class Undrawn(Batch):
    """A batch on the meta device, where no generator draws."""

    def _own(self, draw: Callable[..., Tensor], *shape: int) -> Tensor:
        return torch.empty(self.x_0.shape[0], *shape, device=self.x_0.device)


class Steps:
    """Training steps of one network, by name: diffusion, sct, scd.

    Args:
        settings: the network of teacher and student.
        device: `meta` to count without computing.
        precision: `fp32`, `bf16` or `fp16`, in which both networks compute.
    """

    def __init__(
        self, settings: NetworkSettings, batch: int, device: str, dropout: float = 0.0, precision: str = "fp32"
    ) -> None:
        torch.manual_seed(0)
        with torch.device(device):
            self.model = Model(settings, dropout=dropout, precision=DTYPES[precision])
            teacher = Model(settings, precision=DTYPES[precision]).requires_grad_(False).eval()
            self.x_0 = torch.randn(batch, settings.channels, settings.resolution, settings.resolution) * 0.5
            self.labels = torch.zeros(batch, dtype=torch.int64)
        common: Any = {"sigma_d": 0.5, "p_mean": -1.0, "p_std": 1.4, "tangent_norm_c": 0.1, "tangent_warmup": 0}
        self.objectives = {
            "diffusion": Diffusion(0.5, -0.8, 1.6),
            "sct": ConsistencyTraining(**common),
            "scd": ConsistencyDistillation(**common, teacher=teacher),
        }

    def loss(self, name: str, part: int = 0, parts: int = 1) -> Tensor:
        """The mean over one of `parts` equal parts of the batch, which draw the same numbers as the whole."""
        count = len(self.x_0) // parts
        x_0, labels = (values[part * count : (part + 1) * count] for values in (self.x_0, self.labels))
        if self.x_0.device.type == "meta":
            batch: Batch = Undrawn(x_0, labels, torch.Generator())
        else:
            batch = Batch(x_0, labels, torch.Generator(x_0.device).manual_seed(0), part, parts)
        return self.objectives[name](self.model, batch, 1000).value.mean()

    def run(self, name: str, parts: int = 1) -> None:
        self.model.zero_grad(set_to_none=True)
        for part in range(parts):
            (self.loss(name, part, parts) / parts).backward()


class Operations(TorchDispatchMode):
    """Counts as torch's FlopCounterMode does, which takes twice the time and keeps tensors alive."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


class Cost(NamedTuple):
    flops: int
    bytes: int


def count(steps: Steps, name: str, way: str = "ours") -> Cost:
    """Floating-point operations of a step, forward and backward, and the peak bytes of its forward's tensors."""
    steps.model.zero_grad(set_to_none=True)
    with tangent_by(way), Operations() as counter:
        with LiveMemory() as memory:
            loss = steps.loss(name)
        loss.backward()
    return Cost(counter.total, memory.peak)


def preset_params(name: str) -> "Params":
    from scm.base.yaml_files import parse_mapping, render
    from scm.params import USERS_SECTIONS, dump, load, validate
    from scm.presets import apply
    from scm.presets.overlays import laid_over

    current = dump(load(ROOT / "params.yaml"))
    users = {key: current[key] for key in USERS_SECTIONS} | {"preset": name}
    return validate(laid_over(users, parse_mapping(render(apply.resolve(ROOT, name)), name)), name)


def preset_settings(name: str) -> NetworkSettings:
    """The teacher's network of a preset; only ImageNet's presets have classes."""
    from scm.build.models import network_settings

    params = preset_params(name)
    return network_settings(params.network, 1000 if name.startswith("imagenet") else 0, params.shape)


def count_presets(names: list[str], batch: int) -> None:
    print(f"Counted, batch {batch}: floating-point operations | peak memory of activations, in diffusion steps\n")
    print("| network | sCT | sCD | sCT split | sCD split | sCT jvp | sCD jvp |\n|---|---|---|---|---|---|---|")
    for name in names:
        steps = Steps(preset_settings(name), batch, "meta", dropout=0.1)
        base, cells = count(steps, "diffusion"), []
        for way in WAYS:
            for step in ("sct", "scd"):
                cost = count(steps, step, way)
                cells.append(f"{cost.flops / base.flops:.3f} \\| {cost.bytes / base.bytes:.2f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


class Measured(NamedTuple):
    ms: float
    mib: float


def measure(steps: Steps, name: str, way: str, repeats: int, parts: int = 1) -> Measured:
    """Median time of a step, forward and backward, and how far its peak memory exceeds the memory before it."""
    device, times = steps.x_0.device, []
    with tangent_by(way):
        for _ in range(repeats + 2):
            synchronize(device)
            started = time.perf_counter()
            steps.run(name, parts)
            synchronize(device)
            times.append(time.perf_counter() - started)
        steps.model.zero_grad(set_to_none=True)
        mib = peak_mib(lambda: steps.run(name, parts), device)
    return Measured(statistics.median(times[2:]) * 1e3, mib)


def peak_mib(run: Callable[[], None], device: torch.device) -> float:
    """How far the peak memory of `run` exceeds the memory before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with LiveMemory() as memory:
        run()
    return memory.peak / 2**20


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_here(networks: dict[str, NetworkSettings], batch: int, repeats: int, device: str) -> None:
    from scm.results.provenance import machine_name

    threads = torch.get_num_threads()
    print(f"\nMeasured on {machine_name()}, {device}; torch {torch.__version__}, {threads} threads; batch {batch}:")
    print("ms | peak MiB of a step\n")
    print("| network | parameters | diffusion | sCT | sCD | sCT split | sCD split | sCT jvp | sCD jvp |")
    print("|---|---|---|---|---|---|---|---|---|")
    for label, settings in networks.items():
        steps = Steps(settings, batch, device)
        cells = [f"{sum(p.numel() for p in steps.model.parameters()):,}"]
        for step, way in [("diffusion", "ours"), *((step, way) for way in WAYS for step in ("sct", "scd"))]:
            result = measure(steps, step, way, repeats)
            cells.append(f"{result.ms:.0f} \\| {result.mib:.0f}")
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


def small_networks() -> dict[str, NetworkSettings]:
    shape: Any = {"resolution": 16, "channels": 3, "classes": 10, "multipliers": (1, 2), "blocks": 1, "attention": (8,)}
    return {name: NetworkSettings(**{**shape, "channels_per_head": of["width"], **of}) for name, of in SMALL.items()}


def main() -> None:
    from scm.build.models import device_of
    from scm.params import load
    from scm.pipeline.stage import MALLOC
    from scm.presets import table

    paper = [entry.name for entry in table.entries(ROOT) if entry.parameters]  # reproduce a column of its tables
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where the second table is measured")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--presets", nargs="*", default=paper, help="default: the paper's")
    parser.add_argument("--measure", nargs="*", default=[], metavar="PRESET", help="measure these presets' networks")
    options = parser.parse_args()
    device_of(load(ROOT / "params.yaml").runtime.model_copy(update={"device": options.device}))  # fp32 means fp32
    if any(os.environ.get(key) != value for key, value in MALLOC.items()):  # the training stages also start with these
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **MALLOC})
    count_presets(options.presets, options.batch)
    networks = {name: preset_settings(name) for name in options.measure} or small_networks()
    measure_here(networks, options.batch, options.repeats, options.device)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
