"""Several processes log to one server with PostgreSQL behind it, from the first use of its database on."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from scm.tracking import live, sending, store
from scm.tracking.records import RunRecord
from tests.services.conftest import Server, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.long]
ROOT = Path(__file__).parents[2]
ROWS = 120
KEYS = ("same", "same", "same", "b", "c", "d")
PROCESS = """
import json, sys
from pathlib import Path
from scm.params.project import TrackingSettings
from scm.tracking.live import Live
from scm.tracking.records import RunRecord
from scm.tracking.sending import publish
from scm.tracking.store import quieten
key, folder, address, rows = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
settings = TrackingSettings(True, address, "at once", folder)
series = [{"images": 64 * n, "time": 1.79e9 + n, "loss": 1 / n, "lr/3": 0.1 * n} for n in range(1, rows + 1)]
def record(status):
    params, tags = {f"key.{n}": n for n in range(150)}, {"scm.preset": "digits"}
    return RunRecord(key, key, "train_teacher", params=params, tags=tags, status=status, ended=1.8e9)
quieten()
import mlflow
path = folder / "metrics.jsonl"
print("ready", flush=True)
sys.stdin.readline()
with Live(record("RUNNING"), settings, path, 0.1), path.open("w") as file:
    for row in series:
        file.write(json.dumps(row) + "\\n")
        file.flush()
last = record("FINISHED")
last.series, last.metrics, last.artifacts = series, {"fd@2": 5.25}, [path]
sys.exit(not publish(last, settings, 120))
"""


def histories(client: MlflowClient, run_id: str) -> dict[str, set[tuple[int, int, float]]]:
    """All that the store has of a run's figures; a point that is there twice is an error."""
    found = {}
    for key in client.get_run(run_id).data.metrics:
        points = [(point.step, point.timestamp, point.value) for point in client.get_metric_history(run_id, key)]
        assert len(points) == len(set(points))
        found[key] = set(points)
    return found


def test_six_processes_on_an_empty_database_make_one_experiment_and_one_run_of_each_key(
    server: Server, tmp_path: Path
) -> None:
    processes = []
    for number, key in enumerate(KEYS):
        folder = tmp_path / str(number)
        folder.mkdir()
        command = [sys.executable, "-c", PROCESS, key, str(folder), server.address, str(ROWS)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, cwd=ROOT, **pipes))
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    outcomes = [(process.communicate()[1], process.returncode) for process in processes]
    assert outcomes == [("", 0)] * len(KEYS)
    client = store.connect(server.settings(tmp_path))
    experiments = client.search_experiments(view_type=ViewType.ALL)
    assert sorted(experiment.name for experiment in experiments) == ["Default", "at once"]
    (experiment,) = (each for each in experiments if each.name == "at once")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags["scm.key"] for run in runs) == sorted(set(KEYS))
    rows = [json.loads(line) for line in (tmp_path / "0/metrics.jsonl").read_text().splitlines()]
    expected = {
        key: {(row["images"], round(row["time"] * 1000), row[key]) for row in rows} for key in ("loss", "lr/3")
    } | {"fd_at_2": {(0, 1_800_000_000_000, 5.25)}}
    for run in runs:
        assert run.info.status == "FINISHED" and len(run.data.params) == 150
        assert histories(client, run.info.run_id) == expected
        assert [file.path for file in client.list_artifacts(run.info.run_id, "files")] == ["files/metrics.jsonl"]


def test_a_training_whose_run_was_the_surplus_one_goes_on_in_the_other_with_all_its_figures(
    server: Server, tmp_path: Path
) -> None:
    """As where a server was killed after it had made a run and before it could say so."""
    settings, path = replace(server.settings(tmp_path), experiment="twice"), tmp_path / "metrics.jsonl"
    rows = [{"images": step, "time": 1.79e9 + step, "loss": 1 / step} for step in range(1, 21)]
    client = store.connect(settings)

    def runs() -> list[Any]:
        experiment = client.get_experiment_by_name("twice")
        return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))

    def sent(number: int) -> bool:
        found = runs()
        return len(found) == 1 and len(client.get_metric_history(found[0].info.run_id, "loss")) == number

    def write(part: list[dict[str, float]]) -> None:
        with path.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in part)

    with live.Live(RunRecord("key", "name", "train_teacher"), settings, path, 0.2):
        write(rows[:10])
        wait_for("ten rows", lambda: sent(10))
        (surplus,) = runs()
        first = client.create_run(surplus.info.experiment_id, start_time=1, tags={"scm.key": "key"})
        assert not sending.send(client, RunRecord("key", "name", "train_teacher"), settings)
        assert [run.info.run_id for run in runs()] == [first.info.run_id]
        write(rows[10:])
        wait_for("all rows in the other run", lambda: sent(20))
    assert client.get_run(surplus.info.run_id).info.lifecycle_stage == "deleted"
