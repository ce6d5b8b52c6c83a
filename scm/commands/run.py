"""`scm run`: a supervised `dvc repro`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from scm.base.project import find_root
from scm.commands.arguments import command, factor
from scm.errors import printable

REPORT = "results/report.html"
OWN_OPTIONS = ("--parallel", "--quick", "-h", "--help")
"""Options that this command reads itself; `scm.cli` passes all other arguments on to `dvc repro`."""


def add(commands: argparse._SubParsersAction) -> None:
    examples = ("scm run", "scm run --quick 0.05", "scm run train_student@scd", "scm run --dry --force evaluate")
    summary = "run the stages that are out of date, as `dvc repro` does, and stop cleanly on Ctrl-C"
    run = command(commands, "run", _run, summary, *examples)
    run.usage = "scm run [-h] [--parallel] [--quick FACTOR] [dvc repro's options and targets ...]"
    run.add_argument("--parallel", action="store_true", help="train the students side by side if there are enough GPUs")
    about = "scale all budgets by this, in a copy of the project: a first look whose results stay apart"
    run.add_argument("--quick", type=factor, metavar="FACTOR", help=about)


def _run(options: argparse.Namespace) -> int:
    from scm.pipeline.unchanged import unchanged_stages

    if options.quick is not None:
        return _run_quick(options)
    root = find_root()
    if not options.passed_on and unchanged_stages(root) is not None:
        print("scm run: nothing has changed since the last run", flush=True)
        return _told(root, options, 0)
    from scm.pipeline.supervisor import run

    return _told(root, options, run(options.passed_on, root=root, parallel=options.parallel))


def _run_quick(options: argparse.Namespace) -> int:
    from scm.params.project import Project
    from scm.pipeline import quick

    project = Project.open()
    code = quick.run(project, options.quick, options.passed_on, options.parallel)
    return _told(quick.place(project.root, options.quick), options, code)


def _told(root: Path, options: argparse.Namespace, code: int) -> int:
    """Says where the report is if the run has brought it up to date; returns the exit code."""
    if code == 0 and makes_report(options.passed_on) and (root / REPORT).is_file():
        print(f"scm run: the report is {printable(str(root / REPORT))}", flush=True)
    return code


def divided(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments that this command reads itself, and those of `dvc repro`, each in their order.

    >>> divided(["-s", "--quick", "0.1", "evaluate"])
    (['--quick', '0.1'], ['-s', 'evaluate'])
    """
    own: list[str] = []
    passed_on: list[str] = []
    for argument in arguments:
        is_own = argument.partition("=")[0] in OWN_OPTIONS or own[-1:] == ["--quick"]
        (own if is_own else passed_on).append(argument)
    return own, passed_on


def makes_report(arguments: Sequence[str]) -> bool:
    """True if `dvc repro` brings the report up to date: with its name or with no name among the targets."""
    targets = [argument for argument in arguments if not argument.startswith("-")]
    return not {"-n", "--dry"} & set(arguments) and (not targets or "report" in targets)
