"""Turns run files into what MLflow shows.

Each stage publishes the record of its own run file when it ends. `scm sync` publishes the records of all run files, so
it sends what a dead server missed and shows runs that DVC restored from its cache instead of computing them.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

from scm.errors import UserError
from scm.params.project import Project
from scm.results.reading import (
    curve_path,
    measured_evaluations,
    metrics_path,
    read_curve,
    read_numbers,
    read_run,
    sample_path,
)
from scm.tracking import sending, store
from scm.tracking.records import RunRecord

TEXT_FIELDS = {
    "preset": "scm.preset",
    "commit": "scm.commit",
    "params_hash": "scm.params_hash",
    "machine": "scm.machine",
    "device": "scm.device",
    "protocol": "eval.protocol",
}


def record_of(root: Path, run_file: Path) -> RunRecord:
    """The record of a finished stage, from the files that it left under results/.

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


def sync(project: Project) -> list[str]:
    """Publishes every run file; doing it again changes nothing.

    Returns:
        lines to print: numbers of new and of known runs, and of runs whose process has died.

    Raises:
        UserError: mlflow is off, no stage has run, the server is not reachable, or a run's files are damaged.
    """
    settings = project.tracking
    if not settings.enabled:
        raise UserError("mlflow.enabled is false in params.yaml: nothing was sent")
    folder = project.root / "results" / "runs"
    run_files = sorted(folder.glob("*.json"))
    if not run_files:
        raise UserError(f"{folder} holds no runs: run `dvc repro` first")
    records = [record_of(project.root, run_file) for run_file in run_files]

    def send_all() -> tuple[int, int]:
        client = store.connect(settings)
        new = sum(sending.send(client, record, settings) for record in records)
        return new, sending.bury(client)

    new, killed = store.answered(settings, "scm sync", send_all)
    dead = f"; {killed} dead ones marked KILLED" if killed else ""
    where = store.without_password(settings.store)
    return [f"{len(records)} runs in {where}: {new} new, {len(records) - new} known{dead}"]


def _tags(run: dict[str, Any]) -> dict[str, str]:
    tags = {tag: str(run[name]) for name, tag in TEXT_FIELDS.items() if run.get(name) not in (None, "")}
    tags["scm.dirty"] = "true" if run["dirty"] else "false"
    for kind in ("deps", "outs"):
        tags |= {f"scm.{kind}.{path}": str(md5) for path, md5 in (run.get(kind) or {}).items()}
    source = {"mlflow.source.name": f"stages.{run['stage']}", "mlflow.source.type": "LOCAL"}
    return {**tags, **source, "mlflow.source.git.commit": str(run["commit"])}


def _add_grids(record: RunRecord, root: Path) -> None:
    """Adds the sample grids. A grid's step is its number of network evaluations, so that models line up in the UI."""
    for evaluations in measured_evaluations(record.metrics):
        path = sample_path(root, record.item or "", evaluations)
        if not path.exists():
            raise UserError(f"{path} is missing: run `dvc checkout` or `dvc repro`")
        record.images[f"samples-nfe-{evaluations}"] = (path, evaluations)


def _seconds(run_file: Path, moment: str) -> float:
    try:
        return datetime.fromisoformat(moment).timestamp()
    except (TypeError, ValueError):
        raise UserError(f"{run_file}: {moment!r} is not a time (ISO 8601): delete it and run `dvc repro`") from None
