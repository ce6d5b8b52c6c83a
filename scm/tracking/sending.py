"""Sends runs to MLflow, which shows a copy of what the files under results/ hold.

The design follows from measurements with mlflow 3.17:

- Files come first. A fault of MLflow costs one warning line, never the work: `publish` and `Live` do not raise, and
  `scm sync` later sends what is missing by the same functions.
- A run is found by its tag `scm.key` (the stage's fingerprint), so sending a record twice changes nothing: the store
  drops rows with the same key, step, time and value, and everything else is looked up before it is sent.
- mlflow takes 2 s to import and, by default, four minutes to give up on a dead server. It is therefore imported inside
  functions and told to retry twice for 10 s each, unless the user's own MLFLOW_* variables say otherwise.
- Two processes that create an SQLite store at once ruin its file for good, so every opening holds a file lock.
"""

import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from scm.errors import UserError
from scm.params.project import TrackingSettings
from scm.tracking.attachments import send_files, send_pictures
from scm.tracking.records import LONGEST_KEY, RunRecord, experiment_name, metric_name, plain_count, safe_key
from scm.tracking.store import PATIENCE, asked, sole_opener, warn
from scm.tracking.view import KIND

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

DIGEST = 12
"""Digits of the hash of images that MLflow shows; it takes 36 at most."""
METRICS_A_BATCH = 1000
PARAMS_A_BATCH = 100
ATTEMPTS = 5
"""Attempts to send a run that another process sends at the same moment."""
OVERTAKEN = ("BAD_REQUEST", "INVALID_PARAMETER_VALUE")
"""Error codes of MLflow if another process has meanwhile written a parameter or deleted a run."""

Result = TypeVar("Result")

_finding = threading.Lock()


def publish(record: RunRecord, settings: TrackingSettings, patience: float = PATIENCE) -> bool:
    """Sends a record, if possible within `patience` seconds; sending it again changes nothing.

    Returns False, after one warning line, if that failed.
    """
    if not settings.enabled:
        return True
    fault = asked(settings, lambda client: send(client, record, settings), patience)
    if fault is not None:
        warn(fault, settings)
    return fault is None


def run_of(client: "MlflowClient", key: str) -> Any:
    """The run with this key, which `send` has found or created."""
    return _runs_of(client, [experiment.experiment_id for experiment in client.search_experiments()], key)[0]


def send(client: "MlflowClient", record: RunRecord, settings: TrackingSettings) -> bool:
    """Sends what the store does not have yet. Returns True if the run is new. Raises what mlflow raises."""
    return undisturbed(lambda: _send(client, record, settings))


def _send(client: "MlflowClient", record: RunRecord, settings: TrackingSettings) -> bool:
    """Sends figures and status before files: a full store of artifacts still takes figures, and files can follow."""
    run, created = find_or_create(client, record, settings)
    run_id, ended = run.info.run_id, _milliseconds(record.ended or time.time())
    send_texts(client, run, record)
    send_metrics(client, run_id, _figures(record.metrics, ended, step=0))
    send_metrics(client, run_id, points(record.series))
    if record.status == "RUNNING":
        if run.info.status != "RUNNING":
            client.update_run(run_id, status="RUNNING")
    elif (run.info.status, run.info.end_time) != (record.status, ended):
        client.set_terminated(run_id, record.status, ended)
    _send_images_of(client, run, record)
    send_pictures(client, run, record, ended)
    send_files(client, run_id, record, settings.root / "results")
    return created


def undisturbed(work: Callable[[], Result]) -> Result:
    """Runs `work`, and runs it again if another process that sends the same run came in between."""
    from mlflow.exceptions import MlflowException

    for _ in range(ATTEMPTS - 1):
        try:
            return work()
        except MlflowException as error:
            if error.error_code not in OVERTAKEN:
                raise
    return work()


def bury(client: "MlflowClient") -> int:
    """Marks runs KILLED that are still RUNNING although their process on this machine is gone. Returns how many."""
    here = socket.gethostname()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    count = 0
    for run in client.search_runs(experiments, "attributes.status = 'RUNNING'"):
        process = run.data.tags.get("scm.process", "")
        host, _, rest = process.partition(":")
        number = rest.partition(":")[0]
        if host == here and number.isdecimal() and process_mark(int(number)) != process:
            client.set_terminated(run.info.run_id, "KILLED")
            count += 1
    return count


def find_or_create(client: "MlflowClient", record: RunRecord, settings: TrackingSettings) -> tuple["Run", bool]:
    """The run with the record's key, and True if it is new. One thread and, in SQLite, one process works at a time.

    A server creates two runs with one key if two processes ask at once, or if it is killed before it answers. All
    processes then go on with the same one of them, and whoever sees the surplus runs deletes them.
    """
    with _finding, sole_opener(settings):
        experiment = _experiment(client, experiment_name(settings, record.tags.get("scm.preset") or "scm"), settings)
        found, created = _runs_of(client, [experiment], record.key), False
        if not found:
            started = None if record.started is None else _milliseconds(record.started)
            client.create_run(experiment, started, {"scm.key": record.key}, _run_name(record))
            found, created = _runs_of(client, [experiment], record.key), True
        for surplus in found[1:]:
            client.delete_run(surplus.info.run_id)
        return found[0], created


def _runs_of(client: "MlflowClient", experiments: list[str], key: str) -> "list[Run]":
    """All runs with this key, in the same order for every process."""
    found = client.search_runs(experiments, f"tags.`scm.key` = '{key}'")
    return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))


def _experiment(client: "MlflowClient", name: str, settings: TrackingSettings) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, settings.artifact_location, KIND)
        except MlflowException:  # another machine was quicker
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        raise UserError(f"experiment {name!r} was deleted in MLflow: restore it there or set mlflow.experiment")
    return experiment.experiment_id


def send_texts(client: "MlflowClient", run: "Run", record: RunRecord) -> None:
    """Sends parameters, which MLflow never changes afterwards, and tags."""
    from mlflow.entities import Param, RunTag

    shown = {safe_key(key): _text(plain_count(value)) for key, value in record.params.items()}
    params = [Param(key, value) for key, value in shown.items() if key not in run.data.params]
    for start in range(0, len(params), PARAMS_A_BATCH):
        client.log_batch(run.info.run_id, params=params[start : start + PARAMS_A_BATCH])
    tags = {safe_key(key): _text(value) for key, value in record.tags.items()}
    tags |= {"scm.key": record.key, "scm.stage": record.stage, "mlflow.runName": _run_name(record)}
    tags |= {} if record.item is None else {"scm.item": record.item}
    changed = [RunTag(key, text) for key, text in tags.items() if run.data.tags.get(key) != text]
    for start in range(0, len(changed), PARAMS_A_BATCH):
        client.log_batch(run.info.run_id, tags=changed[start : start + PARAMS_A_BATCH])


def _text(value: Any) -> str:
    """A value as params.yaml writes it; what no encoding can write, as part of a path that is no UTF-8, is escaped."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _send_images_of(client: "MlflowClient", run: "Run", record: RunRecord) -> None:
    """Fills the Dataset column, unless it is filled."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    found = record.images_of
    if found is None or (run.inputs is not None and run.inputs.dataset_inputs):
        return
    source = json.dumps({"uri": _text(found.place)})
    shown = Dataset(_text(found.name), found.digest[:DIGEST], "local", source)
    client.log_inputs(run.info.run_id, [DatasetInput(shown, [InputTag("mlflow.data.context", found.use)])])


def _run_name(record: RunRecord) -> str:
    return _text(record.name)[:LONGEST_KEY]


def points(rows: Iterable[Mapping[str, Any]]) -> "list[Metric]":
    """The figures of all rows, each with its row's step and time."""
    found: list[Metric] = []
    for row in rows:
        figures = {key: value for key, value in row.items() if key not in ("images", "time")}
        found += _figures(figures, _milliseconds(row["time"]), int(row["images"]))
    return found


def _figures(figures: Mapping[str, Any], moment: int, step: int) -> "list[Metric]":
    """The finite numbers among `figures` as points at one moment and step; other values are left out."""
    from mlflow.entities import Metric

    return [
        Metric(metric_name(key), float(value), moment, step)
        for key, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    ]


def send_metrics(client: "MlflowClient", run_id: str, points: "list[Metric]") -> None:
    for start in range(0, len(points), METRICS_A_BATCH):
        client.log_batch(run_id, metrics=points[start : start + METRICS_A_BATCH])


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def process_mark(process: int) -> str:
    """Host, id and start time of a process; a later process with the same id gets another mark."""
    try:
        start = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        start = "none"
    return f"{socket.gethostname()}:{process}:{start}"
