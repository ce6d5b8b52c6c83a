"""What a run costs beside its training steps: `python -m benchmarks.pipeline [--preset digits] [--scale 0.1]`.

`scm run` runs once, from nothing, in a scratch copy of this checkout, on one thread. The table has the seconds of CPU
of each stage (import of torch included) and of the bare training steps in it, and those of what starts the stages:
`scm run`, and DVC with its hashes. The last row's ratio is that of everything to the bare steps.

A bare step is that of the real trainer on random numbers, without figures, pages, snapshots or checkpoints; it is
measured before and after the run, and the mean counts.
"""

import argparse
import json
import os
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from benchmarks.guard import CLASSES, Tree
from benchmarks.timebox import copied
from scm.base.project import TEACHER
from scm.errors import UserError
from scm.params import load
from scm.results.provenance import machine_name


def steps(tree: Tree) -> dict[str, float]:
    """Seconds of CPU of a training step for one image, by training."""
    with closing(Tree(tree.folder)) as measured:
        return measured.speeds()["step"]


def rows(tree: Tree, total: float, step: dict[str, float]) -> list[tuple[str, float, float]]:
    """Name, seconds and seconds of bare steps of each stage, of the rest and of everything."""
    params, found = load(tree.folder / "params.yaml"), list[tuple[str, float, float]]()
    for file in sorted((tree.folder / "results" / "runs").glob("*.json")):
        run = json.loads(file.read_text())
        bare = 0.0
        if run["stage"].startswith("train_"):
            model = run["item"] or TEACHER
            settings = params.teacher if model == TEACHER else params.student.method(model)
            bare = int(settings.images) * step[model]
        found.append((file.stem, run["cpu_seconds"], bare))
    found.sort(key=lambda row: -row[1])
    rest = total - sum(seconds for _, seconds, _ in found)
    return [*found, ("scm run, DVC, report", rest, 0.0), ("together", total, sum(bare for _, _, bare in found))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="digits", help="default: digits")
    parser.add_argument("--scale", type=float, default=1.0, help="of all budgets, as in `scm preset apply`")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(copied(Path(folder) / "project"))
        scaled = [] if options.scale == 1 else ["--scale", str(options.scale)]
        tree.command("preset", "apply", options.preset, *scaled)
        before = steps(tree)
        total = tree.command("run")
        after = steps(tree)
        found = rows(tree, total, {name: (before[name] + after[name]) / 2 for name in before})
    print(f"{machine_name()}: seconds of CPU, one thread, {options.preset} x {options.scale:g}, {CLASSES} classes\n")
    print("| stage | seconds | bare steps | seconds / bare steps |\n|---|---:|---:|---:|")
    for name, seconds, bare in found:
        cells = (f"{bare:,.0f}", f"{seconds / bare:.2f}") if bare else ("", "")
        print(f"| {name} | {seconds:,.0f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
