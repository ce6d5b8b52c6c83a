"""Turns run files into what MLflow shows.

The courier of `scm run`, or without one each stage at its end, publishes the record of a stage's run file. `scm sync`
publishes the records of all run files, so it sends what a dead server missed.
"""

import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from scm.base.count import Count
from scm.base.documents import is_there
from scm.errors import Interrupted, UserError, printable
from scm.params.project import Project
from scm.results import reading
from scm.tracking import sending, store
from scm.tracking.records import ImageSet, RunRecord, figure_name, safe_key

TEXT_FIELDS = {field: f"scm.{field}" for field in ("preset", "commit", "params_hash", "machine", "device")}
TEXT_FIELDS["protocol"] = "eval.protocol"
"""The tag that shows a field of a run file."""


def record_of(root: Path, run_file: Path) -> RunRecord:
    """The record of a finished stage, from its run file and the other files that it left under results/."""
    run = reading.read_run(run_file)
    stage, item = run["stage"], run.get("item")
    params = {**run["params"], "stage": stage} | ({} if item is None else {"model": item})
    started, ended = (datetime.fromisoformat(run[moment]).timestamp() for moment in ("started", "ended"))
    record = RunRecord(
        run["key"], run["name"], stage, item, params, _tags(run), artifacts=[run_file], status="FINISHED",
        started=started, ended=max(started, ended),  # the clock may have been set back
    )  # fmt: skip
    if stage in reading.METRICS:
        record.metrics = reading.read_figures(root, stage, item)
    if stage in reading.CURVES:
        curve_file = reading.curve_path(root, stage, item)
        rows = reading.read_curve(curve_file, *(("images", "time") if stage.startswith("train") else ()))
        record.series = rows if stage.startswith("train") else []
        record.artifacts.append(curve_file)
    if stage == "select_ema" and is_there(by_time := reading.by_time_path(root, item or "")):  # earlier ones had none
        record.artifacts.append(by_time)
    if stage == "evaluate":
        record.artifacts.append(reading.metrics_path(root, stage, item))
        record.params = {**run["chain"], **record.params}
        _add_grids(record, root)
        record.metrics = {figure_name(name): value for name, value in record.metrics.items()}
        record.metrics |= _budgets(run["chain"])
    record.images_of = _images_of(root, run)
    return record


def sync(project: Project) -> list[str]:
    """Publishes every run file; doing it again changes nothing. Returns lines that count the runs for the user.

    Raises:
        UserError: nothing can be sent, or some runs were not: a line on stderr has named each of them.
    """
    settings = project.tracking
    if not settings.enabled:
        raise UserError("mlflow.enabled is false in params.yaml: nothing was sent")
    folder = project.root / "results" / "runs"
    run_files = sorted(folder.glob("*.json"))
    if not run_files:
        raise UserError(f"{folder} holds no runs: run `scm run` first")
    client = store.answered(settings, "scm sync", lambda: store.connect(settings))
    outcomes = [_sent(client, project, run_file) for run_file in run_files]
    new, known, failed = (outcomes.count(kind) for kind in (True, False, None))
    killed = store.answered(settings, "scm sync", lambda: sending.bury(client))
    dead = f"; {killed} dead ones marked KILLED" if killed else ""
    counted = f"{len(run_files)} runs in {settings.shown}: {new} new, {known} known"
    if failed:
        raise UserError(
            f"{counted}, {failed} not sent, for the reasons above{dead}: run `scm sync` again after mending"
        )
    return [f"{counted}{dead}"]


def _sent(client: Any, project: Project, run_file: Path) -> bool | None:
    """Sends one run; returns True if it is new, False if it was known, and None, after a line, if it cannot be sent.

    Raises:
        UserError: the store no longer answers.
    """
    settings = project.tracking
    try:
        record = record_of(project.root, run_file)
    except UserError as error:
        why = str(error)
    else:
        try:
            return sending.send(client, record, settings)
        except Interrupted:
            raise
        except Exception as error:  # MLflow, its database driver and the network each raise their own
            why = store.reason(error)
    print(printable(f"{run_file.name} was not sent: {why}"), file=sys.stderr, flush=True)
    store.answered(settings, "scm sync", lambda: client.search_experiments(max_results=1))
    return None


def _tags(run: reading.Run) -> dict[str, str]:
    tags = {tag: str(run[name]) for name, tag in TEXT_FIELDS.items() if run.get(name) not in (None, "")}
    tags["scm.dirty"] = "true" if run["dirty"] else "false"
    for kind in ("deps", "outs"):
        for path, md5 in (run.get(kind) or {}).items():
            tag = f"scm.{kind}.{path}"
            key = safe_key(tag)
            tags[key] = str(md5) if key == tag else f"{md5} {path}"
    source = {"mlflow.source.name": f"stages.{run['stage']}", "mlflow.source.type": "LOCAL"}
    return {**tags, **source, "mlflow.source.git.commit": str(run["commit"])}


def _budgets(chain: Mapping[str, reading.Parameter]) -> dict[str, float]:
    """Images that the trainings saw, as figures: MLflow sorts parameters as text."""
    values = {f"{training}_images": chain.get(f"{training}.images") for training in ("teacher", "student")}
    return {name: float(Count(value)) for name, value in values.items() if isinstance(value, int | str)}


def _images_of(root: Path, run: reading.Run) -> ImageSet | None:
    """The images that a run follows from, whose hash the run file of `encode` has; None before that stage."""
    path, chain = reading.run_path(root, "encode"), run["chain"]
    if run["stage"] == "prepare" or not is_there(path) or not {"data.source", "data.path"} <= chain.keys():
        return None
    digest = (reading.read_run(path).get("deps") or {}).get("data/shards")
    use = "evaluation" if run["stage"] in ("select_ema", "evaluate") else "training"
    return None if digest is None else ImageSet(str(chain["data.source"]), digest, str(chain["data.path"]), use)


def _add_grids(record: RunRecord, root: Path) -> None:
    """Adds the sample grids. A grid's step is its number of network evaluations, so that models line up in the UI."""
    for evaluations in reading.measured_evaluations(record.metrics):
        path = reading.sample_path(root, record.item or "", evaluations)
        if not path.exists():
            raise UserError(f"{path} is missing: run `dvc checkout` or `scm run`")
        record.images[f"samples-nfe-{evaluations}"] = (path, evaluations)
