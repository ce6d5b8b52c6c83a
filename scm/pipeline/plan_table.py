"""A plan as a table for people, or as values for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from scm.base.tables import columns
from scm.errors import printable
from scm.pipeline.plan import RESTORED, RUNS, UPSTREAM, Step
from scm.pipeline.plan_cost import Estimate

SHOWN = 5
"""Most reasons of one stage, and most stages upstream, that the table shows."""


def as_json(steps: Sequence[Step], costs: Mapping[str, Estimate]) -> dict[str, Any]:
    """The plan for programs.

    Returns:
        "stages": each stage's "name", "status", "reasons", "seconds" (null = unknown), "about" (true = a rough guess)
        and "missing" (the command that brings its outputs, or null);
        "runs": number of stages that run; "seconds": sum of their known times (null = all unknown);
        "unknown": number of stages that run for an unknown time.
    """
    stages = [
        {"name": step.name, "status": step.status, "reasons": step.reasons, "missing": step.missing}
        | asdict(costs[step.name])
        for step in steps
    ]
    running = [costs[step.name].seconds for step in steps if step.status == RUNS]
    known = [seconds for seconds in running if seconds is not None]
    total = None if running and not known else round(sum(known), 1)
    return {"stages": stages, "runs": len(running), "seconds": total, "unknown": len(running) - len(known)}


def table(steps: Sequence[Step], costs: Mapping[str, Estimate]) -> list[str]:
    """Lines for people: one for each stage, further reasons below it, the sum at the end."""
    rows = []
    for step in steps:
        reasons = _short(step.reasons) if step.missing is None else [f"outputs missing: {step.missing}"]
        expected = _expected(costs[step.name]) if step.status == RUNS else ""
        rows.append((step.name, step.status, expected, reasons[0] if reasons else ""))
        rows += [("", "", "", reason) for reason in reasons[1:]]
    rows = [(name, status, expected, printable(reason)) for name, status, expected, reason in rows]
    return [*columns(rows), "", _sum(steps, costs)]


def _short(reasons: Sequence[str]) -> list[str]:
    """The first reasons; stages upstream share the last line."""
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
        cost = "time unknown"
    else:
        about = any(costs[step.name].about for step in steps if step.status == RUNS)
        cost = _expected(Estimate(plain["seconds"], about))
        if plain["unknown"]:
            cost = f"at least {cost.removeprefix('about ')} ({plain['unknown']} of unknown time)"
    return f"{plain['runs']} of {len(steps)} stages run: {cost}{given}"


def _expected(estimate: Estimate) -> str:
    if estimate.seconds is None:
        return "unknown"
    seconds = estimate.seconds
    longer = f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
    text = f"{seconds:.0f} s" if seconds < 90 else longer
    return f"about {text}" if estimate.about else text
