"""Figures in MLflow: a copy, for the eye, of what the files under results/ hold. Nothing else imports mlflow.

Design, from what was found by trying (mlflow 3.17):

- Files first. A fault of MLflow costs one warning line, never the work: `publish` and `Live` do not raise, and
  `scm sync` sends what is missing later, on the same path.
- A run is found by its tag `scm.key` (the stage's fingerprint), so sending twice changes nothing: the store drops rows
  with the same key, step, time and value, and everything else is looked up before it is sent.
- mlflow costs 2 s to import and, left alone, four minutes to give up on a dead server: it is imported inside functions,
  and told to retry twice with 10 s each, unless the user's own MLFLOW_* variables say otherwise.
- The first opening of an SQLite store is a race that ruins the file for good, so every opening holds a file lock.
"""

import fcntl
import json
import math
import os
import re
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from scm.attachments import send_files, send_pictures
from scm.errors import Interrupted, UserError
from scm.records import RunRecord, Settings, metric_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

PATIENCE = 30.0
"""Seconds that a stage waits for MLflow at its end."""
CLOSING = 5.0
"""Seconds that a training waits for the last figures to be sent."""
LONGEST_BACK_OFF = 300.0
METRICS_A_BATCH = 1000
PARAMS_A_BATCH = 100
ATTEMPTS = 5
"""At sending a run that another process sends at the same moment."""
OVERTAKEN = ("BAD_REQUEST", "INVALID_PARAMETER_VALUE")
"""What MLflow says of a parameter or a run that another process has written or deleted meanwhile."""

BROKEN_OFF = ("too many 500 error responses", "Connection aborted", "Connection reset", "Broken pipe")
"""Of a server that refuses a file, which it may do before it has read it."""
Result = TypeVar("Result")

_defaults = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_finding = threading.Lock()
_warned = threading.Event()


def publish(record: RunRecord, settings: Settings, patience: float = PATIENCE) -> bool:
    """Sends a record; sending it again changes nothing. Returns False, after one warning line, if that failed.

    Args:
        record: what to send.
        settings: where to.
        patience: seconds after which the caller goes on, whatever the server does.
    """
    if not settings.enabled:
        return True
    fault = fault_of(lambda: send(connect(settings), record, settings), patience)
    if fault is not None:
        _warn(fault, settings)
    return fault is None


def fault_of(work: Callable[[], object], patience: float) -> str | None:
    """Does something with MLflow in a thread of its own; what went wrong, None if nothing did.

    Args:
        patience: seconds after which the caller goes on, whatever the server does.
    """
    faults: list[str] = []

    def guarded() -> None:
        try:
            work()
        except Exception as error:  # whatever MLflow, its database driver or the network raise must not end the caller
            faults.append(reason(error))

    thread = threading.Thread(target=guarded, name="mlflow", daemon=True)
    thread.start()
    thread.join(patience)
    if thread.is_alive():
        faults.append(f"no answer within {patience:.0f} s")
    return faults[-1] if faults else None


def run_of(client: "MlflowClient", key: str) -> Any:
    """The run with this tag scm.key, which `send` has found or made."""
    return _runs_of(client, [experiment.experiment_id for experiment in client.search_experiments()], key)[0]


def quieten() -> None:
    """For before mlflow is imported: short waits, no chatter, unless the user's own variables say otherwise."""
    for name, value in _defaults.items():
        os.environ.setdefault(name, value)
    # MLflow 3.17 maps its tables with a loader that SQLAlchemy 2.1 deprecates; nothing that we could do differently.
    warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated")
    warnings.filterwarnings("ignore", message=".*type hint .*is inferred as AnyType")  # about hints of MLflow's own


def connect(settings: Settings) -> "MlflowClient":
    """Opens the store and makes one request, so that a dead server shows at once. Raises what mlflow raises."""
    quieten()
    from mlflow import MlflowClient

    with _sole_opener(settings.store):
        client = MlflowClient(tracking_uri=settings.store)
        client.search_experiments(max_results=1)
    return client


def send(client: "MlflowClient", record: RunRecord, settings: Settings) -> bool:
    """Sends what the store does not have yet. Returns True if the run is new. Raises what mlflow raises."""
    return _undisturbed(lambda: _send(client, record, settings))


def _send(client: "MlflowClient", record: RunRecord, settings: Settings) -> bool:
    """Figures and status first: they arrive where the store of artifacts is full, and files can be sent later."""
    run, created = _find_or_create(client, record, settings)
    run_id, ended = run.info.run_id, _milliseconds(record.ended or time.time())
    _send_texts(client, run, record)
    _send_metrics(client, run_id, _figures(record.metrics, ended, step=0))
    _send_metrics(client, run_id, _points(record.series))
    if record.status == "RUNNING":
        if run.info.status != "RUNNING":
            client.update_run(run_id, status="RUNNING")
    elif (run.info.status, run.info.end_time) != (record.status, ended):
        client.set_terminated(run_id, record.status, ended)
    send_pictures(client, run, record, ended)
    send_files(client, run_id, record, settings.root / "results")
    return created


def _undisturbed(work: Callable[[], Result]) -> Result:
    """Does something again that another process which sends the same run came between: it sees what is there now."""
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
        if host == here and number.isdecimal() and _process_mark(int(number)) != process:
            client.set_terminated(run.info.run_id, "KILLED")
            count += 1
    return count


class Live:
    """Shows a training while it runs: a background thread sends the new lines of metrics.jsonl every few seconds.

    The training never waits for it, except for a few seconds at the end; what could not be sent goes with `publish`.
    Leaving the block with `Interrupted` or Ctrl-C marks the run KILLED, with another exception FAILED; without one it
    stays RUNNING, since `publish` ends it.

        with Live(record, settings, folder / "metrics.jsonl"):
            train(...)
    """

    def __init__(self, record: RunRecord, settings: Settings, metrics: Path, interval: float = 10.0) -> None:
        self._record, self._settings, self._metrics, self._interval = record, settings, metrics, interval
        self._stop = threading.Event()
        self._status: str | None = None
        self._client: MlflowClient | None = None
        self._run_id = ""
        self._offset = 0
        self._thread = threading.Thread(target=self._work, name="mlflow-live", daemon=True)

    def __enter__(self) -> Self:
        if self._settings.enabled:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        killed = isinstance(error, Interrupted | KeyboardInterrupt | SystemExit)
        self.close(None if error is None else "KILLED" if killed else "FAILED")

    def close(self, status: str | None = None) -> None:
        """Sends the last lines and, if given, the final status; waits a few seconds at most."""
        self._status = status
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(CLOSING)

    def _work(self) -> None:
        pause, faults = 0.0, 0
        while True:
            stopping = self._stop.wait(pause)
            try:
                self._ship()
                pause, faults = self._interval, 0
            except Exception as error:  # see publish
                self._client = None  # the run may be gone: see _find_or_create
                faults += 1
                pause = min(self._interval * 2**faults, LONGEST_BACK_OFF)
                _warn(reason(error), self._settings)
            if stopping:
                return

    def _ship(self) -> None:
        if self._client is None:
            client = connect(self._settings)
            bury(client)
            self._record.tags["scm.process"] = _process_mark(os.getpid())
            run_id = _undisturbed(lambda: self._begin(client))
            if run_id != self._run_id:
                self._run_id, self._offset = run_id, 0
            self._client = client
        rows, end = _new_rows(self._metrics, self._offset)
        _send_metrics(self._client, self._run_id, _points(rows))
        self._offset = end
        if self._stop.is_set() and self._status is not None:
            self._client.set_terminated(self._run_id, self._status)

    def _begin(self, client: "MlflowClient") -> str:
        run, _ = _find_or_create(client, self._record, self._settings)
        _send_texts(client, run, self._record)
        if run.info.status != "RUNNING":
            client.update_run(run.info.run_id, status="RUNNING")
        return run.info.run_id


def reason(error: Exception) -> str:
    """One line for the user, without the passwords that a server's address may hold."""
    text = str(error) or type(error).__name__
    if "Failed to establish a new connection" in text or "NameResolutionError" in text:
        text = "the tracking server does not answer"
    elif any(fault in text for fault in BROKEN_OFF):
        text = "the tracking server fails or breaks off, its log says why: is its disk full or read-only?"
    first = without_password(text.strip().splitlines()[0])
    return first if len(first) <= 200 else first[:200] + "…"


def without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]+@", "//", text)


def _warn(why: str, settings: Settings) -> None:
    """One line in a process's life: later faults have the same cause and the same remedy."""
    if not _warned.is_set():
        _warned.set()
        where = without_password(settings.store)
        message = f"mlflow: {why} ({where}); figures are kept in files, `scm sync` sends them later"
        print(message, file=sys.stderr, flush=True)


@contextmanager
def _sole_opener(store: str) -> Iterator[None]:
    """Holds the lock beside an SQLite file; a server needs none."""
    if not store.startswith("sqlite:///"):
        yield
        return
    database = Path(store.removeprefix("sqlite:///").partition("?")[0])
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(database.name + ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _find_or_create(client: "MlflowClient", record: RunRecord, settings: Settings) -> tuple["Run", bool]:
    """The run with the record's key, and whether it is new. One thread and, in SQLite, one process at a time.

    A server makes two runs of a key where two processes ask at once, or where it is killed before it answers. Of these
    everybody goes on with the same one, and whoever sees the others deletes them.
    """
    with _finding, _sole_opener(settings.store):
        experiment = _experiment(client, settings.experiment_of(record), settings)
        found, created = _runs_of(client, [experiment], record.key), False
        if not found:
            started = None if record.started is None else _milliseconds(record.started)
            client.create_run(experiment, started, {"scm.key": record.key}, record.name)
            found, created = _runs_of(client, [experiment], record.key), True
        for surplus in found[1:]:
            client.delete_run(surplus.info.run_id)
        return found[0], created


def _runs_of(client: "MlflowClient", experiments: list[str], key: str) -> "list[Run]":
    """All runs of a key in an order that is the same for everybody."""
    found = client.search_runs(experiments, f"tags.`scm.key` = '{key}'")
    return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))


def _experiment(client: "MlflowClient", name: str, settings: Settings) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            kind = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens on "Model training"
            return client.create_experiment(name, settings.artifact_location, kind)
        except MlflowException:  # another machine was quicker
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        raise UserError(f"experiment {name!r} was deleted in MLflow: restore it there or set mlflow.experiment")
    return experiment.experiment_id


def _send_texts(client: "MlflowClient", run: "Run", record: RunRecord) -> None:
    """Sends parameters, which MLflow never changes afterwards, and tags."""
    from mlflow.entities import Param, RunTag

    shown = {metric_name(key): _yaml(value) for key, value in record.params.items()}
    params = [Param(key, value) for key, value in shown.items() if key not in run.data.params]
    for start in range(0, len(params), PARAMS_A_BATCH):
        client.log_batch(run.info.run_id, params=params[start : start + PARAMS_A_BATCH])
    tags = {**record.tags, "scm.key": record.key, "scm.stage": record.stage, "mlflow.runName": record.name}
    tags |= {} if record.item is None else {"scm.item": record.item}
    changed = [RunTag(key, text) for key, text in tags.items() if run.data.tags.get(key) != text]
    for start in range(0, len(changed), PARAMS_A_BATCH):
        client.log_batch(run.info.run_id, tags=changed[start : start + PARAMS_A_BATCH])


def _yaml(value: Any) -> str:
    """A parameter as params.yaml writes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _points(rows: Iterable[Mapping[str, Any]]) -> "list[Metric]":
    """Figures of rows with the rows' own steps and times."""
    points = []
    for row in rows:
        figures = {key: value for key, value in row.items() if key not in ("images", "time")}
        points += _figures(figures, _milliseconds(row["time"]), int(row["images"]))
    return points


def _figures(figures: Mapping[str, Any], moment: int, step: int) -> "list[Metric]":
    """What is a finite number; the rest is left out."""
    from mlflow.entities import Metric

    return [
        Metric(metric_name(key), float(value), moment, step)
        for key, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    ]


def _send_metrics(client: "MlflowClient", run_id: str, points: "list[Metric]") -> None:
    for start in range(0, len(points), METRICS_A_BATCH):
        client.log_batch(run_id, metrics=points[start : start + METRICS_A_BATCH])


def _new_rows(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """Complete lines of a JSONL file from `offset` bytes on, and the offset behind them."""
    if not path.exists():
        return [], offset
    with path.open("rb") as handle:
        handle.seek(offset)
        text = handle.read()
    complete = text[: text.rfind(b"\n") + 1]
    return [json.loads(line) for line in complete.splitlines() if line.strip()], offset + len(complete)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _process_mark(process: int) -> str:
    """Host, number and start of a process, so that a later process with the same number is another one."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        start = fields[19]
    except OSError:
        start = "none"
    return f"{socket.gethostname()}:{process}:{start}"
