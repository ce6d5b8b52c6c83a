"""`scm run`: a supervised `dvc repro`."""

import argparse

from scm.base.project import find_root
from scm.commands.arguments import command

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

    return run(options.passed_on, root=find_root(), parallel=options.parallel)
