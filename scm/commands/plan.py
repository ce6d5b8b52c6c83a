"""`scm plan`: says what `scm run` would do."""

import argparse
import json
import sys

from scm.commands.arguments import command

EXIT_RUNS = 10
"""Exit code of `--check` if a stage would run; 1 (bad input) and 75 (interrupted) have other meanings."""


def add(commands: argparse._SubParsersAction) -> None:
    summary = "say what `scm run` would do, why, and how long it would take; works without data and outputs"
    plan = command(commands, "plan", _plan, summary, "scm plan", "scm plan --json", "scm plan --check --assume-data")
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")
    plan.add_argument("--check", action="store_true", help=f"exit with code {EXIT_RUNS} if a stage would run")
    plan.add_argument(
        "--assume-data", action="store_true", help="treat missing images as unchanged since dvc.lock was written"
    )


def _plan(options: argparse.Namespace) -> int:
    from scm.params.project import Project
    from scm.pipeline.plan import RUNS, plan
    from scm.pipeline.plan_cost import estimates
    from scm.pipeline.plan_table import as_json, table

    project = Project.open()
    steps = plan(project, options.assume_data)
    costs = estimates(project, steps)
    print(json.dumps(as_json(steps, costs), indent=2) if options.json else "\n".join(table(steps, costs)))
    running = [step.name for step in steps if step.status == RUNS]
    if any(name.startswith("train_") for name in running):
        from scm.build.room import shortage_of

        if warning := shortage_of(project.params, project.root, running):
            print(f"scm plan: {warning}", file=sys.stderr)
    return EXIT_RUNS if options.check and any(step.status == RUNS for step in steps) else 0
