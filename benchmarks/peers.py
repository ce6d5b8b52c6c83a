"""Other projects' losses beside ours, in one run: `python -m benchmarks.peers --code DIR ...`.

A DIR is your own checkout of FastGen (NVlabs/FastGen), sCM-mnist (xandergos), edm2_sCM (EpiGenomicsCode) or rcm
(NVlabs/rcm). Its loss of sCD trains our network (see peers_losses.py), beside ours and beside the two usual ways to
compute a tangent with our loss (`split` and `jvp`, see step_cost.py). Each is a process with one thread, and all take
turns in each round. A step is the forward passes, the teacher's included, and the backward pass. The table has

- CPU time of a step, its ratio to ours (median of the rounds' ratios), and the range of that ratio;
- operations (convolutions and matrix products), and peak memory of the step's tensors;
- the difference of the tangent: how far the unit vector along which the loss pulls a sample's output is from ours at
  the same weights, x_t, t and direction, at most, relative to the vector's largest element; and the same from ours in
  float64, computed by torch.func.jvp. Lengths are left out, as projects limit the tangent differently.

A project that cannot run here has one line with the reason. `--to-fd` measures the time to a Frechet distance instead:
see peers_fd.py.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from benchmarks.peers_losses import recognised
from benchmarks.peers_worker import Worker
from benchmarks.step_cost import WAYS, small_networks
from scm.base import weights
from scm.base.tables import markdown_table
from scm.errors import UserError
from scm.results.provenance import machine_name

OURS = "scm"
HEAD = ("loss of sCD", "CPU ms a step", "beside ours", "range", "GFLOP", "MiB", "tangent from ours", "from float64")


class Side(NamedTuple):
    """A loss that takes part: its process, and the way of the tangent for one of ours."""

    worker: Worker
    way: str = "ours"

    def ask(self, kind: str, **further: Any) -> dict[str, Any]:
        return self.worker.ask({"ask": kind, "way": self.way, **further})


def labels_of(code: Sequence[Path]) -> list[str]:
    """The project of each checkout; with the folder's name where several are of one project."""
    names = [recognised(folder).name for folder in code]
    return [
        name if names.count(name) == 1 else f"{name} ({folder.name})" for name, folder in zip(names, code, strict=True)
    ]


def sides(code: Sequence[Path], task: dict[str, Any], stack: ExitStack) -> tuple[dict[str, Side], list[str]]:
    """Ours in each way, then each checkout's, by name; and a line for each checkout with what is to be known of it."""
    names = labels_of(code)  # all are checked before anything runs

    def started(further: dict[str, Any]) -> Worker:
        worker = Worker({**task, **further})
        stack.callback(worker.close)
        return worker

    own = started({})
    found = {OURS: Side(own), **{f"{OURS}, {way}": Side(own, way) for way in WAYS if way != "ours"}}
    notes = list[str]()
    for name, folder in zip(names, code, strict=True):
        try:
            side = Side(started({"code": str(folder)}))
            side.ask("seconds", steps=1)
        except UserError as error:
            notes.append(f"{name} was not measured: {error}.")
            continue
        found[name] = side
        if stand_ins := side.worker.start["stand_ins"]:
            notes.append(f"{name}: stood in for {', '.join(stand_ins)}, which its loss does not need.")
    return found, notes


def timed(found: Mapping[str, Side], rounds: int, steps: int) -> list[dict[str, float]]:
    """CPU seconds of a step, by side, of each round; the order turns round each time."""
    for side in found.values():
        side.ask("seconds", steps=1)  # the first is slow
    result = list[dict[str, float]]()
    for number in range(rounds):
        names = list(found) if number % 2 == 0 else [*found][::-1]
        result.append({name: found[name].ask("seconds", steps=steps)["seconds"] for name in names})
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return result


def difference(one: Tensor, other: Tensor) -> float:
    """The largest difference between unit vectors [B, ...], relative to the largest element of `other`'s sample."""
    apart = (one.double() - other.double()).flatten(1).abs().amax(1)
    return float((apart / other.double().flatten(1).abs().amax(1)).max())


def tangents(found: Mapping[str, Side], folder: Path) -> dict[str, tuple[float, float]]:
    """The difference of each side's tangent from ours and from the exact one, at the places that the side has drawn."""
    result = dict[str, tuple[float, float]]()
    for number, (name, side) in enumerate(found.items()):
        files = {role: folder / f"{number}-{role}.safetensors" for role in ("own", "ours", "exact")}
        side.ask("pull", file=str(files["own"]))
        there = {"places": str(files["own"])}
        found[OURS].ask("pull", file=str(files["ours"]), **there)
        found[f"{OURS}, jvp"].ask("pull", file=str(files["exact"]), double=True, **there)
        own, ours, true = (weights.load(file)[0]["pull"] for file in files.values())
        result[name] = difference(own, ours), difference(own, true)
    return result


def rows(
    taken: Sequence[Mapping[str, float]], counts: Mapping[str, Mapping[str, float]],
    apart: Mapping[str, tuple[float, float]],
) -> list[list[str]]:  # fmt: skip
    """Cells of the table, by side."""
    result = list[list[str]]()
    for name in counts:
        ratios = sorted(each[name] / each[OURS] for each in taken)
        ms = statistics.median(each[name] for each in taken) * 1e3
        cells = [name, f"{ms:.0f}", f"{statistics.median(ratios):.2f}", f"{ratios[0]:.2f}–{ratios[-1]:.2f}"]
        cells += [f"{counts[name]['operations'] / 1e9:.2f}", f"{counts[name]['bytes'] / 2**20:.0f}"]
        result.append([*cells, *(f"{value:.1e}" for value in apart[name])])
    return result


def compare(options: argparse.Namespace) -> None:
    """Measures steps and prints the table."""
    task = {"network": options.network, "batch": options.batch}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found, notes = sides(options.code, task, stack)
        apart = tangents(found, folder)
        counts = {name: side.ask("count") for name, side in found.items()}
        taken = timed(found, options.rounds, options.steps)
        parameters = found[OURS].worker.start["parameters"]
    print(f"{machine_name()}, one thread; {options.network}, {parameters:,} parameters, batch {options.batch};")
    print(f"float32, {options.rounds} rounds of {options.steps} steps\n")
    print(markdown_table(HEAD, rows(taken, counts, apart), "lrrrrrrr"))
    print("".join(f"\n{note}" for note in notes))


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", nargs="+", type=Path, default=[], metavar="DIR", help="checkouts of other projects")
    steps = parser.add_argument_group("steps")
    steps.add_argument("--network", choices=list(small_networks()), default="edm2, width 16")
    steps.add_argument("--batch", type=int, default=32)
    steps.add_argument("--rounds", type=int, default=7)
    steps.add_argument("--steps", type=int, default=2, help="steps of each loss in a round")
    fd = parser.add_argument_group("time to a Frechet distance")
    fd.add_argument("--to-fd", action="store_true", help="measure it, in place of steps")
    fd.add_argument("--images", type=Path, default=Path("digits"), help="digits, a folder or an archive")
    fd.add_argument("--minutes", type=float, default=15, help="of CPU, for which `scm init` would size a whole run")
    fd.add_argument("--resolution", type=int, help="pixels on a side; default: what `scm init` chooses")
    fd.add_argument("--project", type=Path, help="a finished project, or a new folder that keeps what is made")
    fd.add_argument("--budget", type=int, help="images of the students' trainings; default: the project's")
    fd.add_argument("--method", choices=["scd", "sct"], default="scd")
    fd.add_argument("--sampled", type=int, choices=[1, 2], default=2, help="steps of a sample")
    fd.add_argument("--t-mid", type=float, default=0.8, help="time of the second step, radians")
    fd.add_argument("--average", type=float, default=0.1, help="sigma_rel of the average")
    fd.add_argument("--samples", type=int, default=1000)
    fd.add_argument("--points", type=int, default=16, help="measured places of a training")
    fd.add_argument("--fd", type=float, nargs="+", help="values to reach; default: multiples of the teacher's")
    fd.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the trainings")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    if options.to_fd:
        from benchmarks.peers_fd import measure

        measure(options)
    else:
        compare(options)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
