"""`scm run`: a supervised `dvc repro`."""

import argparse
from collections.abc import Sequence

from scm.base.project import find_root
from scm.commands.arguments import command
from scm.errors import printable

REPORT = "results/report.html"
OWN_OPTIONS = ("--parallel", "-h", "--help")
"""Options that this command reads itself; `scm.cli` passes all other arguments on to `dvc repro`."""


def add(commands: argparse._SubParsersAction) -> None:
    examples = ("scm run", "scm run --parallel", "scm run train_student@scd", "scm run --dry --force evaluate")
    summary = "run the stages that are out of date, as `dvc repro` does, and stop cleanly on Ctrl-C"
    run = command(commands, "run", _run, summary, *examples)
    run.usage = "scm run [-h] [--parallel] [dvc repro's options and targets ...]"
    run.add_argument("--parallel", action="store_true", help="train the students side by side if there are enough GPUs")


def _run(options: argparse.Namespace) -> int:
    from scm.pipeline.supervisor import run

    root = find_root()
    code = run(options.passed_on, root=root, parallel=options.parallel)
    if code == 0 and makes_report(options.passed_on) and (root / REPORT).is_file():
        print(f"scm run: the report is {printable(str(root / REPORT))}", flush=True)
    return code


def makes_report(arguments: Sequence[str]) -> bool:
    """True if `dvc repro` brings the report up to date: with its name or with no name among the targets."""
    targets = [argument for argument in arguments if not argument.startswith("-")]
    return not {"-n", "--dry"} & set(arguments) and (not targets or "report" in targets)
