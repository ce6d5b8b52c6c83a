"""How well two processes share a training: `python -m benchmarks.scaling [--steps 8] [--rounds 9]`; Linux, gloo.

Each process has one thread on a core of its own and takes steps of the real loop, on random images. In each round the
following take their steps in turns, so that other load on the machine meets all of them:

- small and large: one process with half of the batch, and one with all of it;
- apart: two processes at once with half of the batch each, which exchange nothing;
- two: two processes with half of the batch each, which average their gradients.

Efficiencies are medians over the rounds, of the clock:

- strong: large / (2 two), the same batch on two cores;
- weak: small / two, the same batch for each core;
- exchange: apart / two, what the exchange alone costs, as both have the same load on cores and memory.

CPU is apart / two in CPU seconds of all processes, where waiting for each other costs nothing.
Sent: bytes of a step that each process sends, 2 (n - 1) / n of its messages as in a ring. Overlap: the part of the
messages' time, by torch.profiler, that lies within the backward pass.
"""

import argparse
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from scm.base.distributed import Ranks
from scm.errors import UserError
from scm.networks import Model, NetworkSettings, flavoured
from scm.objectives.diffusion import Diffusion
from scm.objectives.sct import ConsistencyTraining
from scm.results.provenance import machine_name
from scm.training.loop import Trainer
from scm.training.schedule import Schedule
from scm.training.settings import LoopSettings

WORLD = 2
NETWORKS: dict[str, tuple[dict[str, Any], int]] = {
    "digits, 8x8, width 32": ({"resolution": 8, "width": 32, "attention": (4,), "channels_per_head": 32}, 128),
    "16x16, width 64": ({"resolution": 16, "width": 64, "attention": (8,), "channels_per_head": 64}, 64),
}
"""Name to settings and batch."""
OBJECTIVES = {
    "diffusion": Diffusion(0.5, -0.8, 1.6),
    "sct": ConsistencyTraining(sigma_d=0.5, p_mean=-1.0, p_std=1.4),
}


class Turn(NamedTuple):
    """What processes measured in one turn: seconds of the clock and of their CPUs."""

    wall: float
    cpu: float


class Round(NamedTuple):
    """The turns of a round."""

    small: Turn
    large: Turn
    apart: Turn
    two: Turn

    def efficiencies(self) -> dict[str, float]:
        two = self.two.wall
        return {
            "strong": self.large.wall / (WORLD * two),
            "weak": self.small.wall / two,
            "exchange": self.apart.wall / two,
            "CPU": self.apart.cpu / self.two.cpu,
        }


class Place(NamedTuple):
    """One process: its core, its place in its group, and the images of the group's batch."""

    core: int
    rank: int
    world: int
    batch: int


class Noise:
    """Random images, this rank's part of each batch."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.x_0, self.labels = torch.randn(shape) * 0.5, torch.arange(shape[0]) % 10

    def batch_at(self, images_seen: int) -> tuple[Tensor, Tensor]:
        return self.x_0, self.labels


def trainer(network: str, objective: str, place: Place, work: Path) -> Trainer:
    options, batch = NETWORKS[network][0], place.batch
    shape: Any = {"channels": 1, "classes": 10, "multipliers": (1, 2), "blocks": 1}
    torch.manual_seed(0)
    model = Model(NetworkSettings(**shape, **options, **flavoured("edm2-trigflow")))
    data = Noise((batch // place.world, 1, options["resolution"], options["resolution"]))
    settings = LoopSettings(
        images=2**40, batch=batch, seed=0, purpose="scaling", optimizer="adam", betas=(0.9, 0.99), eps=1e-11,
        schedule=Schedule(1e-3, 0, "constant", 0, 2**40), profiles=(0.05, 0.1), halflife=None, snapshots=1,
        half_precision=False, header={}, log_every=2**40, checkpoint_every=2**40, checkpoint_minutes=None,
    )  # fmt: skip
    ranks = Ranks(place.rank, place.world, torch.device("cpu"))
    made = Trainer(model, OBJECTIVES[objective], data, settings, work, ranks, bool, print)
    made.trained.train()
    return made


@contextmanager
def messages() -> Iterator[list[int]]:
    """Inside the block, the list receives the bytes of each message that is summed over the processes."""
    sizes: list[int] = []
    original = dist.all_reduce

    def counted(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        sizes.append(tensor.nbytes)
        return original(tensor, *args, **kwargs)

    dist.all_reduce = counted
    try:
        yield sizes
    finally:
        dist.all_reduce = original


def share_within(spans: Sequence[tuple[float, float]], others: Sequence[tuple[float, float]]) -> float:
    """The part of the spans' time between the first start and the last end of `others`."""
    first, last = min(start for start, _ in others), max(end for _, end in others)
    within = sum(max(0.0, min(end, last) - max(start, first)) for start, end in spans)
    return within / sum(end - start for start, end in spans)


def overlap(step: Callable[[], None]) -> float:
    """The part of the messages' time that lies within the backward pass."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    ranges: dict[str, list[tuple[float, float]]] = {"gloo:all_reduce": [], "autograd::engine::evaluate_function": []}
    for event in profile.events() or ():
        for name, spans in ranges.items():
            if event.name.startswith(name):
                spans.append((event.time_range.start, event.time_range.end))
    return share_within(*ranges.values())


def process(network: str, objective: str, place: Place, folder: str, pipe: Connection) -> None:
    """Waits for a number of steps, takes them, and answers; 0 steps ask for bytes and overlap, None ends it."""
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {place.core})
    if place.world > 1:
        group = f"file://{folder}/group"
        dist.init_process_group("gloo", init_method=group, rank=place.rank, world_size=place.world)
    step = trainer(network, objective, place, Path(folder) / f"work{place.core}")._step  # pyright: ignore[reportPrivateUsage]
    step()
    pipe.send(None)
    while (steps := pipe.recv()) is not None:
        if steps == 0:
            with messages() as sizes:
                step()
            pipe.send((2 * (place.world - 1) * sum(sizes) // place.world, overlap(step)))
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            step()
        pipe.send(Turn(time.perf_counter() - wall, time.process_time() - cpu))
    if place.world > 1:
        dist.destroy_process_group()


class Group:
    """Processes that take steps at the same time, when they are told to."""

    def __init__(self, network: str, objective: str, places: Sequence[Place]) -> None:
        context, self._folder = multiprocessing.get_context("spawn"), tempfile.TemporaryDirectory()
        self._pipes: list[Connection] = []
        self._processes = []
        for place in places:
            ours, theirs = context.Pipe()
            self._pipes.append(ours)
            arguments = (network, objective, place, self._folder.name, theirs)
            self._processes.append(context.Process(target=process, args=arguments, daemon=True))
            self._processes[-1].start()
            theirs.close()  # a process that dies is then an EOFError here
        for pipe in self._pipes:
            pipe.recv()

    def ask(self, steps: int | None) -> list[Any]:
        for pipe in self._pipes:
            pipe.send(steps)
        return [] if steps is None else [pipe.recv() for pipe in self._pipes]

    def turn(self, steps: int) -> Turn:
        """The slowest process's clock, and the sum of the CPU seconds."""
        turns = self.ask(steps)
        return Turn(max(turn.wall for turn in turns), sum(turn.cpu for turn in turns))

    def end(self) -> None:
        self.ask(None)
        for started in self._processes:
            started.join()
        self._folder.cleanup()


def measure(network: str, objective: str, steps: int, rounds: int, cores: Sequence[int]) -> list[str]:
    """A row of the table."""
    batch, (first, second) = NETWORKS[network][1], cores[:WORLD]
    half = batch // WORLD
    places = {
        "small": [Place(first, 0, 1, half)],
        "large": [Place(first, 0, 1, batch)],
        "apart": [Place(first, 0, 1, half), Place(second, 0, 1, half)],
        "two": [Place(first, 0, WORLD, batch), Place(second, 1, WORLD, batch)],
    }
    groups = {name: Group(network, objective, each) for name, each in places.items()}
    found = [Round(**{name: group.turn(steps) for name, group in groups.items()}) for _ in range(rounds)]
    sent, within = groups["two"].ask(0)[0]
    for group in groups.values():
        group.end()
    ms = [statistics.median(turn.wall for turn in turns) / steps * 1e3 for turns in zip(*found, strict=True)]
    efficiencies = []
    for name in found[0].efficiencies():
        values = [each.efficiencies()[name] for each in found]
        efficiencies.append(f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})")
    return [
        network,
        objective,
        str(batch),
        *(f"{each:.0f}" for each in ms),
        *efficiencies,
        f"{sent:,}",
        f"{within:.0%}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="of one turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="(default: %(default)s)")
    parser.add_argument("--networks", nargs="*", choices=[*NETWORKS], default=[*NETWORKS], metavar="NAME")
    parser.add_argument("--objectives", nargs="*", choices=[*OBJECTIVES], default=[*OBJECTIVES], metavar="NAME")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < WORLD:
        raise UserError(f"this process may use {len(cores)} core; scaling needs {WORLD}: run it on another machine")
    print(f"{machine_name()}; torch {torch.__version__}; load {os.getloadavg()[0]:.1f} before the start\n")
    head = ["network", "objective", "batch", *(f"ms, {name}" for name in Round._fields)]
    head += [*Round(*[Turn(1, 1)] * 4).efficiencies(), "bytes sent", "overlap"]
    print(f"| {' | '.join(head)} |\n|---|---|{'---:|' * (len(head) - 2)}", flush=True)
    for network, objective in itertools.product(options.networks, options.objectives):
        print(f"| {' | '.join(measure(network, objective, options.steps, options.rounds, cores))} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
