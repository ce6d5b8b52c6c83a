"""scm.tracking.sync: what a finished pipeline left in files becomes runs, once."""

import json
import socket
import sqlite3
from pathlib import Path

import pytest

from scm.errors import UserError
from scm.params.project import Project
from scm.tracking import sending, store, sync
from tests.support.fake_results import MODELS, write_fake_results
from tests.support.projects import params_with

TABLES = ("experiments", "runs", "metrics", "latest_metrics", "params", "tags")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_fake_results(tmp_path, rows=5)


def opened(root: Path, **mlflow: object) -> Project:
    return Project(root, params_with({f"mlflow.{key}": value for key, value in mlflow.items()}))


def counts(root: Path) -> dict[str, int]:
    database = sqlite3.connect(root / "mlflow.db")
    rows = {table: database.execute(f"select count(*) from {table}").fetchone()[0] for table in TABLES}
    database.close()
    return {**rows, "files": sum(path.is_file() for path in (root / "mlartifacts").rglob("*"))}


def test_the_evaluate_record_carries_the_chain_the_figures_and_the_grids(root: Path) -> None:
    run_file = root / "results/runs/evaluate@scd.json"
    run_file.write_text(
        json.dumps({**json.loads(run_file.read_text()), "protocol": "p1", "deps": {"models/scd": "md5"}})
    )
    record = sync.record_of(root, run_file)
    assert record.params["teacher.lr.max"] == 0.01 and record.params["model"] == "scd"
    assert record.metrics["t_mid"] == 0.8 and {"fd@1", "fd@2"} <= record.metrics.keys()
    assert record.images["samples-nfe-2"] == (root / "results/samples/scd/nfe-2.png", 2)
    assert record.tags["scm.dirty"] == "true" and record.tags["eval.protocol"] == "p1"
    assert record.tags["scm.params_hash"] == "9b1c44d2e0f7" and record.tags["scm.deps.models/scd"] == "md5"
    assert (record.status, record.started, record.ended) == ("FINISHED", 1795515000.0, 1795515006.2)


def test_a_training_record_carries_its_curve(root: Path) -> None:
    record = sync.record_of(root, root / "results/runs/train_student@sct.json")
    assert len(record.series) == 5 and record.series[-1]["images"] == 5 * 4096 and "loss/7" in record.series[0]
    assert [path.name for path in record.artifacts] == ["train_student@sct.json", "train-sct.csv"]


def test_sync_twice_changes_nothing_and_sends_what_is_missing(root: Path) -> None:
    project = opened(root)
    run_file = root / "results/runs/evaluate@scd.json"
    sending.publish(sync.record_of(root, run_file), project.tracking)
    where = f"12 runs in sqlite:///{root}/mlflow.db"
    assert sync.sync(project) == [f"{where}: 11 new, 1 known"]
    before = counts(root)
    assert before["runs"] == 12 and before["experiments"] == 2
    assert sync.sync(project) == [f"{where}: 0 new, 12 known"]
    assert counts(root) == before
    client = store.connect(project.tracking)
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`scm.stage` = 'evaluate'")
    assert {run.data.params["model"] for run in runs} == set(MODELS)
    client.delete_run(runs[0].info.run_id)
    assert sync.sync(project) == [f"{where}: 1 new, 11 known"], "a run that is gone is made again"
    mark = f"{socket.gethostname()}:{2**22 + 1}:0"  # more than the largest process id
    client.create_run(experiment.experiment_id, tags={"scm.process": mark})
    assert sync.sync(project) == [f"{where}: 0 new, 12 known; 1 dead ones marked KILLED"]


def test_faults_are_one_line_each(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    dead = opened(root, uri="http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"^mlflow: the tracking server does not answer \(http://127.0.0.1:9\)"):
        sync.sync(dead)
    run_file = root / "results/runs/evaluate@scd.json"
    (root / "results/samples/scd/nfe-1.png").unlink()
    with pytest.raises(UserError, match=r"samples/scd/nfe-1.png is missing: run `dvc checkout`"):
        sync.record_of(root, run_file)
    run_file.write_text(json.dumps({**json.loads(run_file.read_text()), "ended": "noon"}))
    with pytest.raises(UserError, match="'noon' is not a time"):
        sync.record_of(root, run_file)
    with pytest.raises(UserError, match="holds no runs: run `dvc repro` first"):
        sync.sync(opened(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"^mlflow.enabled is false in params.yaml: nothing was sent$"):
        sync.sync(opened(root, enabled=False))
