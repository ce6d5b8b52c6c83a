"""scm.tracking.store against servers that answer wrongly, and scm.tracking.silence for those that do not answer."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scm.params.project import TrackingSettings
from scm.tracking import live, sending, silence, store
from scm.tracking.records import RunRecord

RECORD = RunRecord("k", "name", "prepare", status="FINISHED")
HTML = b"<!DOCTYPE html>\n<html>Please log in</html>"
FAILS = "the tracking server fails or breaks off"
NOT_MLFLOW = "the address answers, but not as MLflow's server does"
ANSWERS = {
    "a page": ((200, {}, HTML), NOT_MLFLOW),
    "an empty page": ((200, {}, b""), "MLflow failed (IndexError"),
    "another JSON": ((200, {}, b'{"experiments": 3}'), NOT_MLFLOW),
    "a list": ((200, {}, b"[]"), NOT_MLFLOW),
    "half an answer": ((200, {"Content-Length": "999"}, b'{"experiments": ['), FAILS),
    "a redirect to itself": ((302, {"Location": "/api/2.0/mlflow/experiments/search"}, b""), NOT_MLFLOW),
    "no such page": ((404, {}, HTML), NOT_MLFLOW),
    "no access": ((401, {}, HTML), "the tracking server refuses access"),
    "an error": ((500, {}, HTML), FAILS),
    "too much to do": ((503, {}, HTML), FAILS),
    "other bytes": ((0, {}, b"\x15\x03\x01\x00\x02\x02\x46"), FAILS),
}
"""What a server answers to each request (status, headers, body), and how we call that."""


@contextmanager
def answering(status: int, headers: dict[str, str], body: bytes) -> Iterator[int]:
    """A server that gives each request the same answer; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if status:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server.server_port
        server.shutdown()


@contextmanager
def silent() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_broken_server_costs_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    given, said = ANSWERS[answer]
    with answering(*given) as port:
        settings = TrackingSettings(True, f"http://me:secret@127.0.0.1:{port}", None, tmp_path)
        assert not sending.publish(RECORD, settings)
    error = capsys.readouterr().err
    assert error.startswith(f"mlflow: {said}") and error.count("\n") == 1 and "secret" not in error
    assert f"(http://127.0.0.1:{port}); figures are kept in files, `scm sync` sends them later" in error


def test_https_to_a_server_of_http_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with answering(200, {}, HTML) as port:
        assert not sending.publish(RECORD, TrackingSettings(True, f"https://127.0.0.1:{port}", None, tmp_path))
    assert capsys.readouterr().err.startswith("mlflow: no secure connection: does the server speak http://")


def timed(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def test_many_stages_wait_once_for_a_silent_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with silent() as port:
        settings = TrackingSettings(True, f"http://me:secret@127.0.0.1:{port}", None, tmp_path)
        assert timed(lambda: sending.publish(RECORD, settings, patience=1.0)) >= 1
        store.warned.clear()
        assert timed(lambda: [sending.publish(RECORD, settings) for _ in range(11)]) < 0.5
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith(f"mlflow: no answer within 1 s, 0 s ago (http://127.0.0.1:{port}); figures are kept")
        assert "secret" not in (tmp_path / ".work/mlflow-silent").read_text()
        other = replace(settings, uri=f"http://127.0.0.1:{port}")
        assert timed(lambda: sending.publish(RECORD, other, patience=0.5)) >= 0.5, "another address is asked"


def test_a_silence_is_forgotten_in_time_and_by_an_answer(settings: TrackingSettings) -> None:
    silence.note(settings, "no answer")
    assert silence.recent(settings) == "no answer, 0 s ago"
    file = settings.root / ".work/mlflow-silent"
    for age, known in ((silence.MEMORY - 5, True), (silence.MEMORY + 1, False), (-60, False)):
        os.utime(file, (0, time.time() - age))
        assert (silence.recent(settings) is not None) == known, "a clock that was set back counts as no note"
    silence.note(settings, "no answer")
    store.connect(settings)  # as `scm sync` does
    assert silence.recent(settings) is None and not file.exists()
    file.mkdir()
    assert silence.recent(settings) is None
    silence.note(settings, "a folder is in the way, which is no fault of the stage")


def test_a_training_does_not_ask_a_silent_server(
    settings: TrackingSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []
    monkeypatch.setattr(store, "connect", lambda settings: asked.append(settings))
    silence.note(settings, "no answer")
    with live.Live(replace(RECORD, status="RUNNING"), settings, settings.root / "none", interval=0.01):
        time.sleep(0.1)
    assert asked == [] and capsys.readouterr().err.count("\n") == 1


def test_a_fault_of_one_record_is_no_silence(settings: TrackingSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("of this record alone")

    with monkeypatch.context() as patched:
        patched.setattr(sending, "send", refuse)
        assert not sending.publish(RECORD, settings)
    assert sending.publish(RECORD, settings)
