"""`scm ui`: the project's own store, a server's address, and no password among the arguments."""

import os
from pathlib import Path
from typing import Any

import pytest

from scm import cli
from scm.tracking import store
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
    return found


def test_the_projects_store_is_opened_first_and_then_shown(started: list[Any], tmp_path: Path) -> None:
    cli.main(["ui", "--port", "5002"])
    opened, (program, arguments, environment) = started
    assert opened == environment["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert Path(program).name == "mlflow" and arguments[1:] == ["server", "--host", "127.0.0.1", "--port", "5002"]


def test_a_password_is_in_no_argument(started: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg2://me:secret@localhost/mlflow")
    cli.main(["ui"])
    _, (_, arguments, environment) = started
    assert "secret" not in " ".join(arguments) and "secret" in environment["MLFLOW_BACKEND_STORE_URI"]


def test_a_servers_pages_are_at_its_address(
    started: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example.com")
    assert cli.main(["ui"]) == 0 and started == []
    assert capsys.readouterr().out == "MLflow's pages are at https://mlflow.example.com\n"
