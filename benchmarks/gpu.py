"""What a GPU does with this code, on one page: `python -m benchmarks.gpu` (without one: `--device cpu --small`).

- correctness: F, its tangent, a loss and its gradient against float64 on the CPU (see correctness.py);
- steps: time, memory and host time of a training step, the tangent computed in three ways (see step_cost.py);
- parts: a step in 1, 2 and 4 parts of its batch;
- checkpointing: the same with blocks that are computed again;
- attention: ours, with the kernel and in blocks, beside torch's own without a tangent (see attention.py);
- sampler: samples a second in two steps;
- compiled: the first table's steps under torch.compile.

Each section is a process of its own with a limit of time, and each line is printed as soon as it is known: what is cut
shows what it had. All of them end within --minutes. The exit code is 1 if a section failed or found a wrong number.
This needs torch and numpy alone, and Triton for the kernel and the compiled steps.
"""

import argparse
import functools
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import attention, correctness, step_cost
from benchmarks.correctness import head, row
from benchmarks.step_cost import Steps, measure, peak_mib, synchronize, tangent_by
from scm.base.precision import DTYPES
from scm.errors import UserError
from scm.generation.sampler import consistency_sampler, t_max_of
from scm.jvp import recomputed
from scm.jvp.attention import attention_tangent
from scm.networks import Model, NetworkSettings, flavoured
from scm.networks.layers import recompute_blocks
from scm.samplers import SampleNoise

SIZE_S: dict[str, Any] = {
    "resolution": 64, "classes": 1000, "width": 192, "multipliers": (1, 2, 3, 4), "blocks": 3, "attention": (16, 8),
    "channels_per_head": 64, **flavoured("edm2-trigflow"),
}  # fmt: skip
PRESETS = {
    "imagenet64-s": NetworkSettings(channels=3, **SIZE_S),
    "imagenet512-s": NetworkSettings(channels=4, **SIZE_S),
}
"""As the presets say, whose files need more than torch to be read."""
GRADIENT = "gradient's difference"
SMALL: dict[str, Any] = {"resolution": 8, "classes": 10, "width": 8, "multipliers": (1,), "blocks": 0}
SMALL_NETWORK = NetworkSettings(channels=3, **SIZE_S | SMALL | {"attention": (), "channels_per_head": 8})


@dataclass(frozen=True)
class Task:
    """What the sections measure, and where."""

    device: torch.device
    networks: dict[str, NetworkSettings]
    precision: str
    batch: int
    repeats: int
    tokens: tuple[int, ...]
    compiler: str

    def steps(self, name: str) -> Steps:
        return Steps(self.networks[name], self.batch, str(self.device), precision=self.precision)


def task_of(options: argparse.Namespace) -> Task:
    device = torch.device(options.device)
    if options.small:
        return Task(device, {"small": SMALL_NETWORK}, options.precision, 4, 1, (64, 100), "aot_eager")
    tokens = (256, 512, 1024, 2048, 4096, 8192)
    return Task(device, PRESETS, options.precision, options.batch, 5, tokens, "inductor")


def as_trainings_do() -> None:
    """The settings of scm.generation.trained.repeatable, whose module needs safetensors."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic: Any = torch.utils.deterministic
    deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False
    for reduced in ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction"):
        setattr(torch.backends.cuda.matmul, reduced, False)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


# Steps


class Busy(NamedTuple):
    """Milliseconds of a step: the GPU's work, and the host's time to issue it."""

    device: float | None
    host: float


def busy(steps: Steps, name: str, way: str) -> Busy:
    """The GPU's time is the sum of its kernels in a profile.

    The host's time is that of a step with one image, which leaves the GPU idle, until the last call has returned.
    """
    device, times, found = steps.x_0.device, [], None
    with tangent_by(way):
        for _ in range(3):
            synchronize(device)
            started = time.perf_counter()
            steps.loss(name, 0, len(steps.x_0)).backward()
            times.append(time.perf_counter() - started)
        synchronize(device)
        if device.type == "cuda":
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                steps.run(name)
                synchronize(device)
            events = [e for e in profile.events() or () if e.device_type.name == "CUDA"]
            found = sum(event.time_range.elapsed_us() for event in events) / 1e3 or None
    return Busy(found, statistics.median(times) * 1e3)


def within_memory(cells: Callable[[], list[str]]) -> list[str]:
    """The cells of a row, or that the GPU's memory does not hold them."""
    try:
        return cells()
    except torch.OutOfMemoryError:
        pass  # the exception keeps the tensors of its frames, so the memory is emptied after this block
    torch.cuda.empty_cache()
    return ["out of memory"]


def steps(task: Task) -> Iterator[str]:
    yield f"{task.precision}, {task.batch} images; host: of one image\n"
    yield head("network", "step", "way", "ms", "images/s", "GPU's ms", "host's ms", "peak MiB")
    for name in task.networks:
        made = task.steps(name)
        for step, way in [("diffusion", "ours"), *((step, way) for step in ("sct", "scd") for way in step_cost.WAYS)]:

            def cells(step: str = step, way: str = way, made: Steps = made) -> list[str]:
                taken = measure(made, step, way, task.repeats)
                at_work = busy(made, step, way)
                gpu = "-" if at_work.device is None else f"{at_work.device:.0f}"
                return [*timed(task, taken), gpu, f"{at_work.host:.0f}", f"{taken.mib:,.0f}"]

            yield row(name, step, way, *within_memory(cells))


def timed(task: Task, taken: step_cost.Measured) -> list[str]:
    return [f"{taken.ms:.0f}", f"{task.batch / taken.ms * 1e3:,.0f}"]


def parts(task: Task) -> Iterator[str]:
    """Gradients are compared with the undivided batch's; half precision rounds them differently in each part."""
    name = list(task.networks)[-1]
    yield f"{name}, {task.precision}, {task.batch} images, sct\n"
    yield head("parts", "ms", "images/s", "peak MiB", GRADIENT)
    made = task.steps(name)
    whole: Tensor | None = None
    for count in (1, 2, 4):
        taken = measure(made, "sct", "ours", task.repeats, count)
        made.run("sct", count)
        found = gradient(made)
        whole = found if whole is None else whole
        yield row(
            count, *timed(task, taken), f"{taken.mib:,.0f}", f"{float((found - whole).norm() / whole.norm()):.1e}"
        )


def gradient(made: Steps) -> Tensor:
    return torch.cat([p.grad.flatten() for p in made.model.parameters() if p.grad is not None])


def checkpointing(task: Task) -> Iterator[str]:
    """The backward pass computes the activations of blocks again."""
    name = list(task.networks)[-1]
    yield f"{name}, {task.precision}, {task.batch} images\n"
    yield head("step", "blocks computed again", "ms", "images/s", "peak MiB", GRADIENT)
    for step in ("sct", "scd"):
        kept: Tensor | None = None
        for again in (False, True):
            made = Steps(task.networks[name], task.batch, str(task.device), precision=task.precision)
            if again:
                recompute_blocks(made.model, recomputed)
            taken = measure(made, step, "ours", task.repeats)
            made.run(step)
            found = gradient(made)
            kept = found if kept is None else kept
            difference = float((found - kept).norm() / kept.norm())
            yield row(step, "yes" if again else "no", *timed(task, taken), f"{taken.mib:,.0f}", f"{difference:.1e}")


# Attention, sampler, compiled


def in_blocks(primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """As ours, without the kernel."""
    q, k, v = primals
    with torch.no_grad():
        tangent = attention_tangent((q, k, v), tangents, None, False, q.shape[-1] ** -0.5)  # type: ignore[arg-type]
    return functional.scaled_dot_product_attention(q, k, v), tangent


def no_tangent(primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    q, k, v = primals
    output = functional.scaled_dot_product_attention(q, k, v)
    return output, output


def attentions(task: Task) -> Iterator[str]:
    ways = {**attention.WAYS, "in blocks": in_blocks, "torch's, no tangent": no_tangent}
    yield f"ms \\| peak MiB of output, tangent and backward, {task.precision}, 4 samples, 4 heads of 64 channels\n"
    yield head("tokens", *ways, "ours / explicit")
    for tokens in task.tokens:

        def cells(tokens: int = tokens) -> list[str]:
            shape, dtype = (4, 4, tokens, 64), DTYPES[task.precision]
            return [*attention.measured(shape, dtype, task.device, task.repeats, ways).values()]

        yield row(f"{tokens:,}", *within_memory(cells))


def sampler(task: Task) -> Iterator[str]:
    yield head("network", "batch", "samples/s in 2 steps", "peak MiB")
    for name in task.networks:
        model = task.steps(name).model.eval()
        for batch in (1, task.batch):
            draw = functools.partial(two_steps, model, batch, task.device)
            times = []
            for _ in range(task.repeats + 1):
                started = time.perf_counter()
                draw()
                times.append(time.perf_counter() - started)
            rate = batch / statistics.median(times[1:])
            yield row(name, batch, f"{rate:,.1f}", f"{peak_mib(draw, task.device):,.0f}")


def two_steps(model: Model, batch: int, device: torch.device) -> None:
    """Draws a batch with the presets' times."""
    settings, labels = model.settings, torch.zeros(batch, dtype=torch.int64, device=device)
    noise = SampleNoise(range(batch), (settings.channels, settings.resolution, settings.resolution), device)
    with torch.no_grad():
        consistency_sampler([t_max_of(80.0, 0.5), 1.1], 0.5).run(lambda x, t: model(x, t, labels), noise)
    synchronize(device)


def compiled(task: Task) -> Iterator[str]:
    """Ours is compiled as `runtime.compile` does it: the network, which the tangent rides through."""
    yield f"{task.precision}, {task.batch} images, sct; eager and compiled\n"
    yield head("network", "way", "s to compile", "ms, eager", "ms", "images/s", "peak MiB, eager", "peak MiB", GRADIENT)
    last = list(task.networks)[-1]
    networks = {f"{last}, but 1 block a level": replace(task.networks[last], blocks=1)}  # whole ones take minutes
    if task.networks[last].blocks > 1:
        networks |= task.networks
    for name, settings in networks.items():
        for way in list(step_cost.WAYS):
            cells = functools.partial(eager_and_compiled, task, settings, way)
            yield row(name, way, *within_memory(cells))


def eager_and_compiled(task: Task, settings: NetworkSettings, way: str) -> list[str]:
    torch.compiler.reset()
    made = Steps(settings, task.batch, str(task.device), precision=task.precision)
    eager = measure(made, "sct", way, task.repeats)
    made.run("sct")
    kept = gradient(made)
    if way == "ours":
        made.model.network.compile(backend=task.compiler)
    with compiled_ways(task.compiler), tangent_by(way):
        started = time.perf_counter()
        made.run("sct")
        synchronize(task.device)
        seconds = time.perf_counter() - started
        difference = float((gradient(made) - kept).norm() / kept.norm())
        taken = measure(made, "sct", way, task.repeats)
    peaks = [f"{each.mib:,.0f}" for each in (eager, taken)]
    return [f"{seconds:.0f}", f"{eager.ms:.0f}", *timed(task, taken), *peaks, f"{difference:.1e}"]


@contextmanager
def compiled_ways(compiler: str) -> Iterator[None]:
    """Inside the block, the usual ways are compiled whole, and `split` knows no dropout, at which its graph breaks."""
    eager = dict(step_cost.WAYS)
    tangent: Any
    value: Any
    tangent, value = (torch.compile(each, backend=compiler) for each in (tangent_alone, value_alone))

    def split(function: Callable[..., Tensor], primals: Any, tangents: Any) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            found = tangent(function, primals, tangents)
        return value(function, primals), found

    step_cost.WAYS |= {"split": split, "jvp": torch.compile(step_cost.one_jvp, backend=compiler)}
    try:
        yield
    finally:
        step_cost.WAYS |= eager


def tangent_alone(function: Callable[..., Tensor], primals: Any, tangents: Any) -> Tensor:
    return torch.func.jvp(function, primals, tangents)[1]


def value_alone(function: Callable[..., Tensor], primals: Any) -> Tensor:
    return function(*primals)


SECTIONS: dict[str, tuple[Callable[[Task], Iterator[str]], float]] = {
    "correctness": (lambda task: correctness.lines(task.device), 75),
    "steps": (steps, 120),
    "parts": (parts, 40),
    "checkpointing": (checkpointing, 60),
    "attention": (attentions, 75),
    "sampler": (sampler, 40),
    "compiled": (compiled, 480),
}
"""Name to what it prints and its limit in seconds; the last one has what is left of all."""


def run_section(name: str, options: argparse.Namespace) -> None:
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: --device cuda: this machine has no CUDA device; use --device cpu --small")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as stages have it, before cuBLAS starts
    as_trainings_do()
    try:
        for line in SECTIONS[name][0](task_of(options)):
            print(line, flush=True)
    except UserError as error:
        sys.exit(f"error: {error}")


def run_all(options: argparse.Namespace) -> list[str]:
    """Runs each section in a process of its own; returns what became of those that did not end well.

    The processes are forked, so that torch is loaded once; CUDA is loaded in them alone, as it cannot be shared.
    """
    minutes = options.minutes or (0.9 if options.small else 7.5)
    ends, troubles = time.monotonic() + minutes * 60, []
    for name in options.sections:
        print(f"\n## {name}\n", flush=True)
        started = time.monotonic()
        limit = max(min(SECTIONS[name][1], ends - started), 0.0)
        process = multiprocessing.get_context("fork").Process(target=run_section, args=(name, options))
        process.start()
        process.join(limit)
        if process.is_alive():
            process.kill()
            process.join()
            troubles.append(f"{name} was cut after {limit:.0f} s")
        elif process.exitcode:
            troubles.append(f"{name} failed")
        print(f"\n({time.monotonic() - started:.0f} s)", flush=True)
    return troubles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--small", action="store_true", help="a tiny network and few repeats")
    parser.add_argument("--precision", choices=[*DTYPES], default="fp16", help="(default: the presets', %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="images of a step (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="for all sections (default: 7.5; small: 0.9)")
    parser.add_argument("--sections", nargs="*", choices=[*SECTIONS], default=[*SECTIONS], metavar="NAME")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {options.device}{', small' if options.small else ''}", flush=True)
    troubles = run_all(options)
    print(f"\n{'; '.join(troubles) or 'All sections are complete.'}")
    if any(trouble.endswith("failed") for trouble in troubles):
        raise UserError("a section failed, as it says")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
