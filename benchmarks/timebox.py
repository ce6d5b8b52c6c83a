"""How well `scm init` predicts: `python -m benchmarks.timebox [--minutes 15 30 60] [--images digits FOLDER ...]`.

Each set of images is given each number of minutes in a scratch copy of this checkout: `scm init`, then `scm run`. The
table compares the predicted with the real minutes. `--cpu` compares minutes of CPU over all threads instead of time, on
a machine that has other work; set OMP_NUM_THREADS=1 with it, or waiting threads count as well. `--stages` adds a line
for each stage; a stage's real time leaves out its start, of which the whole has all.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from scm.base.processes import own_environment
from scm.errors import UserError
from scm.presets.apply import apply
from scm.timebox.box import boxed
from scm.timebox.choose import Plan

ROOT = Path(__file__).parents[1]


class Ran(NamedTuple):
    """A run beside its prediction, all in seconds.

    Attributes:
        plan: what was chosen.
        choosing: seconds that `scm init` took.
        real: what `scm run` took.
        stages: what the run files say, by stage.
    """

    plan: Plan
    choosing: float
    real: float
    stages: dict[str, float]


def copied(folder: Path) -> Path:
    """A project of its own in `folder`: the tracked files as they are now, in a new git repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return into_git(folder)


def into_git(folder: Path) -> Path:
    """Makes a folder a git repository with one commit."""
    identity = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@example.invalid"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "start"]):
        subprocess.run(["git", *command], cwd=folder, check=True, env=own_environment())
    return folder


def measured(images: Path, minutes: float, resolution: int | None, cpu: bool) -> Ran:
    """Chooses and runs in a scratch copy."""
    with tempfile.TemporaryDirectory() as name:
        root, started = copied(Path(name)), time.monotonic()
        place = images.absolute() if images.exists() else images
        plan = boxed(root, place, minutes, resolution, True, _say, cpu).plan
        choosing = time.monotonic() - started
        tracked = {"mlflow": {"enabled": True, "uri": None}}
        apply(root / "params.yaml", root, plan.preset, further={**plan.values, **tracked})
        environment = {**own_environment(), "PYTHONPATH": str(root)}
        before, started = cpu_of_children(), time.monotonic()
        run = [sys.executable, "-m", "scm.cli", "run"]
        done = subprocess.run(run, cwd=root, env=environment, stdout=sys.stderr, check=False)
        real = cpu_of_children() - before if cpu else time.monotonic() - started
        if done.returncode:
            raise UserError(f"scm run ended with {done.returncode} on {images}: see its lines above")
        files = sorted((root / "results/runs").glob("*.json"))
        return Ran(plan, choosing, real, {file.stem: json.loads(file.read_text())["seconds"] for file in files})


def cpu_of_children() -> float:
    """Seconds of CPU of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", nargs="+", type=float, default=[15, 30, 60])
    parser.add_argument("--images", nargs="+", type=Path, default=[Path("digits")], help="digits, folders or archives")
    parser.add_argument("--resolution", type=int, help="pixels on a side; default: what `scm init` chooses")
    parser.add_argument("--cpu", action="store_true", help="compare minutes of CPU")
    parser.add_argument("--stages", action="store_true", help="a line for each stage as well")
    options = parser.parse_args()
    busy, cores = os.getloadavg()[0], os.cpu_count()
    print(f"load {busy:.1f} on {cores} cores; minutes of {'CPU' if options.cpu else 'time'}\n")
    print("| images | given | resolution | width | teacher's images | init | predicted | real | real / predicted |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for images in options.images:
        for minutes in options.minutes:
            try:
                ran = measured(images, minutes, options.resolution, options.cpu)
            except UserError as error:
                print(f"| {images.name} | {minutes:g} | {error} |", flush=True)
                continue
            rung, teacher, predicted = ran.plan.rung, ran.plan.params.teacher.images.written, ran.plan.total
            cells = [images.name, f"{minutes:g}", rung.resolution, rung.width, teacher, f"{ran.choosing / 60:.1f}"]
            cells += [f"{predicted / 60:.1f}", f"{ran.real / 60:.1f}", f"{ran.real / predicted:.2f}"]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
            for stage, seconds in ran.plan.seconds.items() if options.stages else ():
                real = f"{ran.stages[stage]:.0f} s" if stage in ran.stages else "–"
                print(f"|   {stage} | | | | | | {seconds or 0:.0f} s | {real} | |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
