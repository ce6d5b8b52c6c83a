"""Shows a training in MLflow while it runs."""

import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from scm.errors import Interrupted
from scm.params.project import TrackingSettings
from scm.tracking import silence, store
from scm.tracking.records import RunRecord
from scm.tracking.sending import bury, find_or_create, points, process_mark, send_metrics, send_texts, undisturbed

if TYPE_CHECKING:
    from mlflow import MlflowClient

CLOSING = 5.0
"""Seconds that a training waits for the last figures to be sent."""
LONGEST_BACK_OFF = 300.0
"""Seconds between two attempts to reach a server that keeps failing, at most."""


class Live:
    """A background thread that sends the new lines of metrics.jsonl every few seconds.

    The training never waits for the thread, except for a few seconds at the end; `publish` sends what the thread could
    not. Leaving the block by `Interrupted` or Ctrl-C marks the run KILLED, and by another exception FAILED. Without an
    exception the run stays RUNNING until `publish` ends it.

        with Live(record, settings, folder / "metrics.jsonl"):
            train(...)
    """

    def __init__(self, record: RunRecord, settings: TrackingSettings, metrics: Path, interval: float = 10.0) -> None:
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

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
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
            why = silence.recent(self._settings)
            if why is not None:  # another stage has waited in vain
                store.warn(why, self._settings)
                pause = self._interval
                if stopping:
                    return
                continue
            try:
                self._ship()
                pause, faults = self._interval, 0
            except Exception as error:  # see publish
                self._client = None  # the run may be gone: see find_or_create
                faults += 1
                pause = min(self._interval * 2**faults, LONGEST_BACK_OFF)
                store.warn(store.reason(error), self._settings)
            if stopping:
                return

    def _ship(self) -> None:
        if self._client is None:
            client = store.connect(self._settings)
            bury(client)
            self._record.tags["scm.process"] = process_mark(os.getpid())
            run_id = undisturbed(lambda: self._begin(client))
            if run_id != self._run_id:
                self._run_id, self._offset = run_id, 0
            self._client = client
        rows, end = _new_rows(self._metrics, self._offset)
        send_metrics(self._client, self._run_id, points(rows))
        self._offset = end
        if self._stop.is_set() and self._status is not None:
            self._client.set_terminated(self._run_id, self._status)

    def _begin(self, client: "MlflowClient") -> str:
        run, _ = find_or_create(client, self._record, self._settings)
        send_texts(client, run, self._record)
        if run.info.status != "RUNNING":
            client.update_run(run.info.run_id, status="RUNNING")
        return run.info.run_id


def _new_rows(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """The complete lines of a JSONL file after `offset` bytes, and the offset behind them."""
    if not path.exists():
        return [], offset
    with path.open("rb") as handle:
        handle.seek(max(0, offset - 1))
        if offset and handle.read(1) != b"\n":  # a resumed training has cut the file back: all is sent again
            handle.seek(offset := 0)
        text = handle.read()
    complete = text[: text.rfind(b"\n") + 1]
    return [json.loads(line) for line in complete.splitlines() if line.strip()], offset + len(complete)
