"""`scm ui`: the project's own store, the address of the list, no job workers, and no password among the arguments."""

import os
from pathlib import Path
from typing import Any

import pytest

from scm import cli
from scm.tracking import store, view
from tests.support.projects import make_project


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A project; what takes the place of the process (program, arguments, environment), and the stores opened."""
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *process: found.append(process))
    monkeypatch.setattr(store, "connect", lambda settings: found.append(settings.store))
    monkeypatch.setattr(view, "address", lambda client, server, experiment: f"{server}/#/{experiment}")
    return found


def test_the_projects_store_is_opened_first_and_then_shown(
    started: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["ui", "--port", "5002"])
    opened, (program, arguments, environment) = started
    assert opened == environment["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path}/mlflow.db"
    shown = ["server", "--host", "127.0.0.1", "--port", "5002", "--workers", "1"]
    assert Path(program).name == "mlflow" and arguments[1:] == shown
    line = "MLflow's pages will soon be at http://127.0.0.1:5002/#/digits"
    assert capsys.readouterr().out.splitlines()[0] == line


def test_no_job_workers_are_started_unless_the_user_wants_them(
    started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"
    monkeypatch.delenv(name, raising=False)
    cli.main(["ui"])
    monkeypatch.setenv(name, "true")
    cli.main(["ui"])
    assert [process[2][name] for process in started[1::2]] == ["false", "true"]


def test_a_password_is_in_no_argument(started: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg2://me:secret@localhost/mlflow")
    cli.main(["ui"])
    _, (_, arguments, environment) = started
    assert "secret" not in " ".join(arguments) and "secret" in environment["MLFLOW_BACKEND_STORE_URI"]


def test_a_servers_pages_are_at_its_address(
    started: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example.com")
    assert cli.main(["ui"]) == 0 and started == ["https://me:secret@mlflow.example.com"]
    assert capsys.readouterr().out == "MLflow's pages are at https://mlflow.example.com/#/digits\n"
