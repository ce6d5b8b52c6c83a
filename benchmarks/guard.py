"""Is this tree slower than a commit? `python -m benchmarks.guard [--base HEAD~1] [--rounds 5]`.

Both trees are measured in one run, in turns, in seconds of CPU of one thread, so that other work on the machine and its
mood reach both. Each row is the median over the rounds, and the median and range of this tree's ratio to the base:

- the training steps of the digits (teacher, sCD, sCT), one evaluation of the network while sampling, the classifier's
  step and its features;
- reading the training images;
- commands that start and end: `scm params check`, and `scm plan` of a project that has never run;
- `scm run` of a project in which everything is up to date (with --no-op, which trains for some minutes first).

What the base cannot do is said in its row. `--limit 1.2` ends with code 1 if the median ratio of a row exceeds it. The
base is a commit of this repository; this tree is its tracked files as they are, committed or not.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.timebox import copied, cpu_of_children, into_git
from scm.base.processes import own_environment
from scm.errors import UserError
from scm.results.provenance import machine_name

ROOT = Path(__file__).parents[1]
CLASSES = 10
PARAMS = """
import json
from pathlib import Path
from scm.params import dump, load
print(json.dumps(dump(load(Path("params.yaml")))))
"""
LOADER = """
import tempfile, time
from pathlib import Path
import numpy as np
from scm.data.shards.loader import LatentLoader
from scm.data.shards.shards import write_latents
with tempfile.TemporaryDirectory() as folder:
    samples = ((f"{number:08d}", np.full((3, 32, 32), number % 100, np.uint8), 0) for number in range(8192))
    write_latents(samples, Path(folder) / "latents", 2048, {"classes": ["all"], "codec": {}})
    loader = LatentLoader(Path(folder) / "latents", seed=0, batch=256)
    loader.batch_at(0)
    started = time.process_time()
    for seen in range(0, 10 * 8192, 256):
        loader.batch_at(seen)
    print((time.process_time() - started) / (10 * 8192))
"""
COMMANDS = {"scm params check": ("params", "check"), "scm plan": ("plan",)}
SMOKE = ("preset", "apply", "digits-smoke")

Figures = dict[str, float]
"""Seconds of CPU, by row."""


class Tree:
    """A copy of the project, and what is measured in it.

    Attributes:
        failed: what a probe said that could not run, by its name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.failed = folder, dict[str, str]()
        self._environment = {**own_environment(), "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        self._worker: subprocess.Popen[str] | None = None

    def python(self, *arguments: str) -> str:
        """What a Python program prints.

        Raises:
            UserError: it ended with another code than 0.
        """
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
            raise UserError(f"{' '.join(arguments[:4])}: {lines[-1]}")
        return done.stdout

    def command(self, *arguments: str) -> float:
        """Seconds of CPU of a command of scm and of all processes that it starts and waits for."""
        before = cpu_of_children()
        self.python("-m", "scm.cli", *arguments)
        return cpu_of_children() - before

    def steps(self) -> Figures:
        """One image's part of what is measured by the worker of `scm init`."""
        speeds, machine = self.speeds(), self._ask({"params": self._params, "classes": CLASSES})
        found = {f"step of {item}": seconds for item, seconds in speeds["step"].items()}
        found |= {"evaluation in sampling": speeds["evaluation"], "step of the classifier": machine["learn"]}
        return found | {"features of the classifier": machine["features"]}

    def speeds(self) -> dict[str, Any]:
        """What that worker measures of the trainings and of sampling; it stays for the next time."""
        if self._worker is None:
            self._params = json.loads(self.python("-c", PARAMS))
            program = [sys.executable, "-m", "scm.timebox.worker", "--cpu-clock"]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._worker = subprocess.Popen(program, cwd=self.folder, env=self._environment, text=True, **pipes)
            self._answer()
        return self._ask({"params": self._params, "classes": CLASSES, "seconds": 1.0})

    def loader(self) -> Figures:
        return {"reading an image": float(self.python("-c", LOADER))}

    def starts(self) -> Figures:
        return {name: self.command(*arguments) for name, arguments in COMMANDS.items()}

    def no_op(self) -> Figures:
        return {"scm run, up to date": self.command("run")}

    def close(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker.communicate()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._worker is not None and self._worker.stdin is not None
        self._worker.stdin.write(f"{json.dumps(question)}\n")
        self._worker.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._worker is not None and self._worker.stdout is not None
        line = self._worker.stdout.readline()
        found = json.loads(line) if line else {"error": "the worker that measures has ended"}
        if "error" in found:
            raise UserError(found["error"])
        return found


PROBES: dict[str, Callable[[Tree], Figures]] = {"steps": Tree.steps, "loader": Tree.loader, "starts": Tree.starts}


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"git {' '.join(arguments)}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def project(folder: Path, commit: str | None) -> Tree:
    """A project of its own with the files of a commit, or with this tree's tracked files as they are (None)."""
    folder.mkdir()
    if commit is None:
        copied(folder)
    else:
        archive = folder.with_suffix(".tar")
        git("archive", "--output", str(archive), commit)
        with tarfile.open(archive) as files:
            files.extractall(folder, filter="tar")
        into_git(folder)
    tree = Tree(folder)
    tree.command(*SMOKE)
    return tree


def finish(base: Tree, ours: Tree) -> None:
    """Runs the pipeline in the base with a tiny budget, and has DVC take the results for this tree's as well."""
    base.command("run")
    for name in ("data", "models", "results", "dvc.lock", ".dvc/cache", ".work"):
        there, here = base.folder / name, ours.folder / name
        if there.is_dir():
            shutil.copytree(there, here, symlinks=True, dirs_exist_ok=True)
        elif there.exists():
            shutil.copy(there, here)
    ours.python("-m", "dvc", "commit", "--force", "--quiet")


def rounds(base: Tree, ours: Tree, probes: dict[str, Callable[[Tree], Figures]], count: int) -> dict[str, list[Any]]:
    """Pairs of seconds (base, this tree) by row; the tree that begins alternates."""
    found: dict[str, list[Any]] = {}
    for number in range(count):
        for name, probe in probes.items():
            both: dict[Tree, Figures] = {}
            for tree in (base, ours) if number % 2 == 0 else (ours, base):
                try:
                    both[tree] = {} if name in tree.failed else probe(tree)
                except UserError as error:
                    if tree is ours:
                        raise
                    tree.failed[name], both[tree] = str(error), {}
            for row, seconds in both[ours].items():
                found.setdefault(row, []).append((both[base].get(row), seconds))
        print(f"round {number + 1} of {count}", file=sys.stderr, flush=True)
    return found


def table(found: dict[str, list[Any]]) -> tuple[list[str], float]:
    """Lines of the table, and the largest median ratio."""
    lines, largest = ["| | base | this tree | ratio | range |", "|---|---:|---:|---:|---:|"], 0.0
    for row, pairs in found.items():
        after = statistics.median(seconds for _, seconds in pairs)
        known = [(base, seconds) for base, seconds in pairs if base is not None]
        if not known:
            lines.append(f"| {row} | – | {_told(after)} | – | |")
            continue
        ratios = sorted(seconds / base for base, seconds in known)
        ratio = statistics.median(ratios)
        largest = max(largest, ratio)
        before = _told(statistics.median(base for base, _ in known))
        lines.append(f"| {row} | {before} | {_told(after)} | {ratio:.2f} | {ratios[0]:.2f}–{ratios[-1]:.2f} |")
    return lines, largest


def _told(seconds: float) -> str:
    if seconds >= 0.1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="HEAD~1", help="a commit; default: the one before the last")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--probes", nargs="+", choices=list(PROBES), default=list(PROBES))
    parser.add_argument("--no-op", action="store_true", help="also a run in which everything is up to date")
    parser.add_argument("--limit", type=float, help="end with code 1 if a row's median ratio is above this")
    options = parser.parse_args()
    commit = git("rev-parse", "--verify", f"{options.base}^{{commit}}").strip()
    probes = {name: PROBES[name] for name in options.probes} | ({"no-op": Tree.no_op} if options.no_op else {})
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        base, ours = project(Path(folder) / "base", commit), project(Path(folder) / "ours", None)
        stack.callback(base.close)
        stack.callback(ours.close)
        plain = {name: probe for name, probe in probes.items() if name != "no-op"}
        found = rounds(base, ours, plain, options.rounds)
        if options.no_op:
            finish(base, ours)
            found |= rounds(base, ours, {"no-op": Tree.no_op}, options.rounds)
    lines, largest = table(found)
    print(f"{machine_name()}: seconds of CPU, one thread, of {commit[:10]} and of this tree; {options.rounds} rounds\n")
    print("\n".join([*lines, *(f"\nThe base: {problem}" for problem in base.failed.values())]))
    print(f"\nIn {(time.monotonic() - started) / 60:.1f} minutes.", file=sys.stderr)
    return int(options.limit is not None and largest > options.limit)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
