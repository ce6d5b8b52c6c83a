"""`scm plan`: says what `scm run` would do."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from scm.commands.arguments import command

if TYPE_CHECKING:
    from scm.params.project import Project

EXIT_RUNS = 10
"""Exit code of `--check` if a stage would run; 1 (bad input) and 75 (interrupted) have other meanings."""


def add(commands: argparse._SubParsersAction) -> None:
    summary = "say what `scm run` would do, why, and how long it would take; works without data and outputs"
    examples = ("scm plan", "scm plan --measure", "scm plan --memory", "scm plan --check --assume-data")
    plan = command(commands, "plan", _plan, summary, *examples)
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")
    plan.add_argument("--check", action="store_true", help=f"exit with code {EXIT_RUNS} if a stage would run")
    plan.add_argument(
        "--assume-data", action="store_true", help="treat missing images as unchanged since dvc.lock was written"
    )
    told = "also measure this machine, for a minute or two, where the time of a stage is unknown or a guess"
    plan.add_argument("--measure", action="store_true", help=told)
    plan.add_argument("--memory", action="store_true", help="also say what each training needs of a GPU's memory")


def _plan(options: argparse.Namespace) -> int:
    from scm.params.notes import notes
    from scm.params.project import Project
    from scm.pipeline.plan import RUNS, plan
    from scm.pipeline.plan_cost import estimates
    from scm.pipeline.plan_table import as_json, table
    from scm.report.data import classes_of

    project = Project.open()
    steps = plan(project, options.assume_data)
    costs = estimates(project, steps)
    if options.measure:
        from scm.timebox.present import measured

        costs = measured(project, steps, costs, lambda text: print(f"scm plan: {text}", file=sys.stderr, flush=True))
    memory = _memory(project, options.json) if options.memory else None
    if options.json:
        print(json.dumps(as_json(steps, costs) | ({} if memory is None else {"memory": memory}), indent=2))
    else:
        print("\n".join([*table(steps, costs), *([] if memory is None else ["", *memory])]))
    for note in notes(project.params, classes_of(project.root)):
        print(f"scm plan: {note}", file=sys.stderr)
    running = [step.name for step in steps if step.status == RUNS]
    if any(name.startswith("train_") for name in running):
        from scm.build.room import shortage_of

        if warning := shortage_of(project.params, project.root, running):
            print(f"scm plan: {warning}", file=sys.stderr)
    return EXIT_RUNS if options.check and any(step.status == RUNS for step in steps) else 0


def _memory(project: "Project", plain: bool) -> list[Any]:
    """What the trainings need of a GPU's memory: lines for people, or values for programs."""
    from scm.base.tables import columns
    from scm.build import memory_table as table

    say = (lambda training: print(f"counting {training}", file=sys.stderr, flush=True)) if sys.stderr.isatty() else None
    params = project.params
    found = table.fits(params, table.classes_of(project.root), *([say] if say else []))
    if plain:
        return table.as_json(found)
    head, rows = table.rows(found)
    return [
        *columns(rows, head, "lr" + "r" * len(table.GPUS)),
        "",
        *table.LEGEND,
        *table.remarks(params, found),
    ]
