"""Run files -> MLflow: the one way from the durable files of a stage to what the UI shows.

Each stage publishes `record_of` its own run file at its end. `scm sync` does the same for all, and so sends what
a dead server missed and shows runs that DVC restored from its cache instead of computing them.
"""

import argparse
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from scm.base.project import find_root
from scm.errors import UserError
from scm.params import load
from scm.results.reading import (
    curve_path,
    evaluations_of,
    metrics_path,
    read_curve,
    read_numbers,
    read_run,
    sample_path,
)
from scm.tracking import sending, store
from scm.tracking.records import RunRecord, Settings

TEXT_FIELDS = {
    "preset": "scm.preset",
    "commit": "scm.commit",
    "params_hash": "scm.params_hash",
    "machine": "scm.machine",
    "device": "scm.device",
    "protocol": "eval.protocol",
}


def record_of(root: Path, run_file: Path) -> RunRecord:
    """Collects what a finished stage left under results/.

    Args:
        root: the project's folder.
        run_file: results/runs/<stage>.json or <stage>@<item>.json.

    Raises:
        UserError: if a file of the run is missing or unreadable.
    """
    run = read_run(run_file)
    stage, item = run["stage"], run.get("item")
    record = RunRecord(
        run["key"],
        run["name"],
        stage,
        item,
        params={**run["params"], "stage": stage},
        tags=_tags(run),
        artifacts=[run_file],
        status="FINISHED",
        started=_seconds(run_file, run["started"]),
        ended=_seconds(run_file, run["ended"]),
    )
    if item is not None:
        record.params["model"] = item
    metrics_file, curve_file = metrics_path(root, stage, item), curve_path(root, stage, item)
    if metrics_file is not None:
        record.metrics = read_numbers(metrics_file)
        record.artifacts.append(metrics_file)
    if curve_file is not None:
        rows = read_curve(curve_file)
        record.series = rows if stage.startswith("train") else []
        record.artifacts.append(curve_file)
    if stage == "evaluate":
        record.params = {**run["chain"], **record.params}
        _add_grids(record, root)
    return record


def sync(root: Path, settings: Settings) -> dict[str, int]:
    """Publishes every run file. Doing it again changes nothing.

    Returns:
        Numbers of runs: "new", "known" (sent again, for what was missing) and "killed" (ended without a word).

    Raises:
        UserError: if there is nothing to send, the server is not reachable, or a run's files are damaged.
    """
    run_files = sorted((root / "results" / "runs").glob("*.json"))
    if not run_files:
        raise UserError(f"{root / 'results' / 'runs'} holds no runs: run `dvc repro` first")
    counts = {"new": 0, "known": 0, "killed": 0}
    records = [record_of(root, run_file) for run_file in run_files]
    try:
        client = store.connect(settings)
        for record in records:
            counts["new" if sending.send(client, record, settings) else "known"] += 1
        counts["killed"] = sending.bury(client)
    except UserError:
        raise
    except Exception as error:  # mlflow, its database driver and the network each raise their own
        address = store.without_password(settings.store)
        raise UserError(f"mlflow: {store.reason(error)} ({address}): run `scm sync` again later") from None
    return counts


def sync_command(args: argparse.Namespace) -> int:
    """`scm sync`, for the project that the current folder is in. Takes no options. Returns the exit code."""
    del args
    try:
        root = find_root()
        settings = Settings.of(load(root / "params.yaml"), root)
        if not settings.enabled:
            raise UserError("mlflow.enabled is false in params.yaml: nothing was sent")
        counts = sync(root, settings)
    except UserError as error:
        print(f"scm sync: {error}", file=sys.stderr)
        return 1
    total = counts["new"] + counts["known"]
    text = f"{total} runs in {store.without_password(settings.store)}: {counts['new']} new, {counts['known']} known"
    print(text + (f"; {counts['killed']} dead ones marked KILLED" if counts["killed"] else ""))
    return 0


def _tags(run: dict[str, Any]) -> dict[str, str]:
    tags = {tag: str(run[name]) for name, tag in TEXT_FIELDS.items() if run.get(name) not in (None, "")}
    tags["scm.dirty"] = "true" if run["dirty"] else "false"
    for kind in ("deps", "outs"):
        tags |= {f"scm.{kind}.{path}": str(md5) for path, md5 in (run.get(kind) or {}).items()}
    source = {"mlflow.source.name": f"stages.{run['stage']}", "mlflow.source.type": "LOCAL"}
    return {**tags, **source, "mlflow.source.git.commit": str(run["commit"])}


def _add_grids(record: RunRecord, root: Path) -> None:
    """Adds the sample grids; the step is the number of network evaluations, so that models line up in the UI."""
    for evaluations in evaluations_of(record.metrics):
        path = sample_path(root, record.item or "", evaluations)
        if not path.exists():
            raise UserError(f"{path} is missing: run `dvc checkout` or `dvc repro`")
        record.images[f"samples-nfe-{evaluations}"] = (path, evaluations)


def _seconds(run_file: Path, moment: str) -> float:
    try:
        return datetime.fromisoformat(moment).timestamp()
    except (TypeError, ValueError):
        raise UserError(f"{run_file}: {moment!r} is not a time (ISO 8601): delete it and run `dvc repro`") from None
