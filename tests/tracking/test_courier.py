"""scm.tracking.courier: the runs of a `scm run` reach MLflow from one process."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scm.tracking.courier import Courier, Round, stamps_of
from tests.support.fake_results import write_fake_results
from tests.support.projects import make_project

NAME = "evaluate@scd.json"


def run_file(folder: Path, name: str = NAME, ended: float = 60.0) -> Path:
    """Writes a run file that ends some seconds from now."""
    path = folder / name
    path.write_text(json.dumps({"ended": (datetime.now(UTC) + timedelta(seconds=ended)).isoformat()}))
    return path


def looked(folder: Path, fault: str | None = None) -> tuple[Round, list[str]]:
    sent: list[str] = []

    def send(path: Path) -> str | None:
        sent.append(path.name)
        return fault

    return Round(folder, send, datetime.now(UTC), stamps_of(folder)), sent


def test_what_was_there_before_is_not_sent(tmp_path: Path) -> None:
    run_file(tmp_path)
    work, sent = looked(tmp_path)
    assert work.look() == work.look(last=True) == {} and sent == []


def test_a_finished_stage_is_sent_once_also_if_dvc_puts_its_file_in_place_again(tmp_path: Path) -> None:
    work, sent = looked(tmp_path)
    content = run_file(tmp_path).read_bytes()
    work.look()
    (tmp_path / NAME).unlink()
    work.look()
    (tmp_path / NAME).write_bytes(content)
    work.look()
    assert sent == [NAME]
    run_file(tmp_path, ended=61)
    work.look(last=True)
    assert sent == [NAME, NAME], "another run of the stage"


def test_a_run_that_dvc_restores_waits_for_the_last_look(tmp_path: Path) -> None:
    work, sent = looked(tmp_path)
    run_file(tmp_path, ended=-3600)
    (tmp_path / "damaged.json").write_text("{")
    assert work.look() == {} and sent == []
    assert work.look(last=True) == {} and sent == ["damaged.json", NAME]


def test_what_cannot_be_sent_is_tried_again_and_told(tmp_path: Path) -> None:
    work, sent = looked(tmp_path, fault="its grid is missing")
    run_file(tmp_path)
    work.look()
    assert work.look(last=True) == {NAME: "its grid is missing"} and sent == [NAME, NAME]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    make_project(tmp_path)
    return write_fake_results(tmp_path, rows=5)


def rewritten(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "ended": "2026-11-27T07:00:00+00:00"}))


def test_the_process_sends_what_has_changed_and_ends_when_its_parent_does(project: Path, empty_store: Path) -> None:
    (project / "mlflow.db").write_bytes(empty_store.read_bytes())
    code = (
        "import sys, os, time; from pathlib import Path; from scm.tracking.courier import Courier\n"
        "courier = Courier(Path(sys.argv[1]), os.environ)\n"
        "print(courier._process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(project)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    courier = int(parent.stdout.readline())
    rewritten(project / "results/runs/evaluate@scd.json")
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{courier}").exists():
        assert time.monotonic() < deadline, "it outlives its parent"
        time.sleep(0.1)
    with sqlite3.connect(project / "mlflow.db") as store:
        assert store.execute("select name from runs").fetchall() == [("evaluate@scd · digits · seed 0",)]


def test_a_run_that_cannot_be_sent_costs_a_line_and_not_the_work(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    courier = Courier(project, {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    (project / "results/samples/scd/nfe-2.png").unlink()
    rewritten(project / "results/runs/evaluate@scd.json")
    courier.end()
    told = capfd.readouterr().err
    assert "evaluate@scd.json was not sent: " in told and "nfe-2.png is missing" in told
    assert "`scm sync` sends them" in told and "Traceback" not in told


def test_nothing_of_mlflow_is_imported_until_a_run_has_changed(project: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from scm.tracking.courier import main\n"
        "code = main(Path(sys.argv[1])); heavy = {'mlflow', 'pydantic', 'torch'} & sys.modules.keys()\n"
        "sys.exit(f'{code} {heavy}' if code or heavy else 0)"
    )
    before = json.dumps({"started": datetime.now(UTC).isoformat(), "seen": stamps_of(project / "results/runs")})
    subprocess.run([sys.executable, "-c", code, str(project)], input=f"{before}\n", text=True, check=True)


def test_a_courier_that_is_killed_says_how_to_send_the_rest(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    courier = Courier(project, {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    courier.kill()
    courier.end()
    assert capfd.readouterr().err == "mlflow: not all runs were sent: `scm sync` sends them\n"
