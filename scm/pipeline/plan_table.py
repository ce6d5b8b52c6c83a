"""`scm plan`: the plan as a table, or as JSON for programs."""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from scm.base.project import find_root
from scm.params import load
from scm.pipeline.plan import RESTORED, RUNS, UPSTREAM, Step, plan
from scm.pipeline.plan_cost import Estimate, estimates
from scm.tracking.records import Settings

EXIT_RUNS = 10
"""Of `--check`, if a stage would run; other than 1 (bad input) and 75 (interrupted)."""
SHOWN = 5
"""Reasons of one stage, and stages upstream, that the table shows."""


def plan_command(options: argparse.Namespace) -> int:
    """`scm plan [--json] [--check] [--assume-data]`. Returns the exit code."""
    root = find_root()
    params = load(root / "params.yaml")
    steps = plan(root, params, options.assume_data)
    costs = estimates(root, steps, Settings.of(params, root), params.preset)
    print(json.dumps(as_json(steps, costs), indent=2) if options.json else "\n".join(table(steps, costs)))
    return EXIT_RUNS if options.check and any(step.status == RUNS for step in steps) else 0


def as_json(steps: Sequence[Step], costs: Mapping[str, Estimate]) -> dict[str, Any]:
    """The plan for programs.

    Returns:
        "stages": of each stage "name", "status", "reasons", "seconds" (null = unknown), "about" (a rough guess) and
        "missing" (the command that brings its outputs, or null); "runs": how many run; "seconds": what is known of
        these, null where nothing is; "unknown": how many of them nothing is known of.
    """
    stages = [
        {
            "name": step.name,
            "status": step.status,
            "reasons": step.reasons,
            "seconds": costs[step.name].seconds,
            "about": costs[step.name].about,
            "missing": step.missing,
        }
        for step in steps
    ]
    running = [costs[step.name].seconds for step in steps if step.status == RUNS]
    known = [seconds for seconds in running if seconds is not None]
    total = None if running and not known else round(sum(known), 1)
    return {"stages": stages, "runs": len(running), "seconds": total, "unknown": len(running) - len(known)}


def table(steps: Sequence[Step], costs: Mapping[str, Estimate]) -> list[str]:
    """Lines for people: a stage each, further reasons below it, the sum at the end."""
    width = max(len(step.name) for step in steps) if steps else 0
    lines = []
    for step in steps:
        if step.missing is not None:
            lines.append(f"{step.name:{width}}  {step.status}, outputs not here: {step.missing}")
            continue
        expected = _expected(costs[step.name]) if step.status == RUNS else ""
        reasons = _short(step.reasons)
        head = f"{step.name:{width}}  {step.status:10}  {expected:11}"
        lines.append(f"{head}  {reasons[0] if reasons else ''}".rstrip())
        lines += [f"{'':{len(head)}}  {reason}" for reason in reasons[1:]]
    return [*lines, "", _sum(steps, costs)]


def _short(reasons: Sequence[str]) -> list[str]:
    """The first of them; stages upstream share the last line."""
    upstream = [reason.removeprefix(UPSTREAM) for reason in reasons if reason.startswith(UPSTREAM)]
    others = [reason for reason in reasons if not reason.startswith(UPSTREAM)]
    lines = others if len(others) <= SHOWN else [*others[:SHOWN], f"and {len(others) - SHOWN} more: scm plan --json"]
    if len(upstream) > SHOWN:
        upstream = [*upstream[:SHOWN], f"and {len(upstream) - SHOWN} more"]
    return lines + ([UPSTREAM + ", ".join(upstream)] if upstream else [])


def _sum(steps: Sequence[Step], costs: Mapping[str, Estimate]) -> str:
    plain = as_json(steps, costs)
    restored = sum(step.status == RESTORED for step in steps)
    given = f"; {restored} restored from the run cache" if restored else ""
    if not plain["runs"]:
        return f"no stage of {len(steps)} runs{given}"
    if plain["seconds"] is None:
        cost = "for how long is unknown"
    else:
        about = any(costs[step.name].about for step in steps if step.status == RUNS)
        cost = _expected(Estimate(plain["seconds"], about))
        cost += f" and {plain['unknown']} unknown" if plain["unknown"] else ""
    return f"{plain['runs']} of {len(steps)} stages run: {cost}{given}"


def _expected(estimate: Estimate) -> str:
    if estimate.seconds is None:
        return "unknown"
    seconds = estimate.seconds
    longer = f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
    text = f"{seconds:.0f} s" if seconds < 90 else longer
    return f"about {text}" if estimate.about else text
