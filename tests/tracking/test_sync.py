"""scm.tracking.sync: what a finished pipeline left in files becomes runs, once."""

import json
import socket
import sqlite3
from pathlib import Path

import pytest

from scm.errors import UserError
from scm.params.project import Project, TrackingSettings
from scm.tracking import sending, store, sync
from scm.tracking.records import ImageSet, RunRecord, metric_name
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
    assert record.metrics["t_mid@2"] == 0.8 and {"fd@1", "fd@2"} <= record.metrics.keys()
    assert record.images["samples-nfe-2"] == (root / "results/samples/scd/nfe-2.png", 2)
    assert record.tags["scm.dirty"] == "true" and record.tags["eval.protocol"] == "p1"
    assert record.tags["scm.params_hash"] == "9b1c44d2e0f7" and record.tags["scm.deps.models/scd"] == "md5"
    assert (record.status, record.started, record.ended) == ("FINISHED", 1795515000.0, 1795515006.2)


def rewrite(path: Path, **changes: object) -> Path:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def test_an_evaluations_distances_come_first_by_name(root: Path) -> None:
    """The page of compared runs sorts by name and draws the first figure."""
    metrics = root / "results/metrics/evaluate-scd.json"
    ranges = {"fd_0@1": 7.5, "fd_1@1": 7.7, "fd_mean@1": 7.6, "copies@1": 0.01, "copies_expected": 0.05}
    rewrite(metrics, **ranges)
    record = sync.record_of(root, root / "results/runs/evaluate@scd.json")
    names = sorted(map(metric_name, record.metrics))
    assert names[:2] == ["fd_at_1", "fd_at_2"]
    assert {"more/accuracy_at_2", "more/copies_at_1", "more/fd_0_at_1"} < {*names}
    assert len(names) == len(json.loads(metrics.read_text())), "none is lost"


def test_budgets_are_numbers(root: Path) -> None:
    """MLflow sorts parameters as text, so that 8Ki came after 192Ki."""
    chain = {"teacher.images": "192Ki", "student.images": "8Ki", "data.source": "digits"}
    record = sync.record_of(root, rewrite(root / "results/runs/evaluate@scd.json", chain=chain))
    assert (record.metrics["teacher_images"], record.metrics["student_images"]) == (196608.0, 8192.0)
    imported = sync.record_of(root, rewrite(root / "results/runs/evaluate@scd.json", chain={"imported.file": "a.pkl"}))
    assert not {"teacher_images", "student_images"} & imported.metrics.keys()


def test_each_run_but_prepare_names_its_images(root: Path) -> None:
    rewrite(root / "results/runs/encode.json", deps={"data/shards": "1424ad43e67b20c10be33ef18dff5fa3.dir"})
    chain = {"data.source": "folder", "data.path": "data/raw/cats"}
    for name, use in (("train_teacher", "training"), ("evaluate@scd", "evaluation"), ("prepare", None)):
        found = sync.record_of(root, rewrite(root / f"results/runs/{name}.json", chain=chain)).images_of
        digest = "1424ad43e67b20c10be33ef18dff5fa3.dir"
        assert found == (None if use is None else ImageSet("folder", digest, "data/raw/cats", use))


def test_a_training_record_carries_its_curve(root: Path) -> None:
    record = sync.record_of(root, root / "results/runs/train_student@sct.json")
    assert len(record.series) == 5 and record.series[-1]["images"] == 5 * 4096 and "loss/7" in record.series[0]
    assert [path.name for path in record.artifacts] == ["train_student@sct.json", "train-sct.csv"]


def test_a_selection_carries_its_curves_and_an_earlier_one_those_that_it_has(root: Path) -> None:
    run_file = root / "results/runs/select_ema@sct.json"
    kept = [path.name for path in sync.record_of(root, run_file).artifacts]
    assert kept == ["select_ema@sct.json", "select-sct.csv", "by-time-sct.csv"]
    (root / "results/curves/by-time-sct.csv").unlink()
    assert [path.name for path in sync.record_of(root, run_file).artifacts] == kept[:2]


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


def test_sync_goes_on_past_runs_that_cannot_be_sent(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project, send = opened(root), sending.send
    store.connect(project.tracking)
    (root / "results/samples/scd/nfe-1.png").unlink()

    def refusing(client: object, record: RunRecord, settings: TrackingSettings) -> bool:
        if record.stage == "encode":
            raise ValueError("Invalid value\nfor this record")
        return send(client, record, settings)  # type: ignore[arg-type]

    monkeypatch.setattr(sending, "send", refusing)
    where = f"12 runs in sqlite:///{root}/mlflow.db"
    remedy = "not sent, for the reasons above: run `scm sync` again after mending"
    with pytest.raises(UserError, match=f"^{where}: 10 new, 0 known, 2 {remedy}$"):
        sync.sync(project)
    encode, evaluate = capsys.readouterr().err.splitlines()
    assert encode == "encode.json was not sent: Invalid value"
    assert evaluate.startswith("evaluate@scd.json was not sent: ") and "nfe-1.png is missing: run" in evaluate
    monkeypatch.setattr(sending, "send", send)
    with pytest.raises(UserError, match=f"^{where}: 1 new, 10 known, 1 {remedy}$"):
        sync.sync(project)


def test_sync_ends_when_the_store_no_longer_answers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Gone:
        def __getattr__(self, name: str) -> object:
            asked.append(name)
            raise ConnectionError("Connection reset by peer")

    monkeypatch.setattr(store, "connect", lambda settings: Gone())
    with pytest.raises(UserError, match=r"^mlflow: the tracking server fails or breaks off.*again later$"):
        sync.sync(opened(root))
    assert len(asked) <= 2, "the other runs are not tried"


@pytest.mark.parametrize(
    "path",
    ["in/Fotos (2024)", "in/cats+dogs", "a,b", "team@home", "R&D", "фото", "50%", "~/x", "a//b/../c/", "e\u0301",
     "x" * 240, "/".join(["long"] * 100)],
)  # fmt: skip
def test_any_path_of_a_dependency_is_a_tag(root: Path, path: str) -> None:
    from mlflow.utils.validation import _validate_tag

    run_file = root / "results/runs/prepare.json"
    deps = {path: "md5 1", f"{path} ": "md5 2", "models/scd": "md5 3"}
    run_file.write_text(json.dumps({**json.loads(run_file.read_text()), "deps": deps, "outs": {path: "md5 4"}}))
    tags = sync.record_of(root, run_file).tags
    shown = {tag: value for tag, value in tags.items() if tag.startswith(("scm.deps.", "scm.outs."))}
    assert len(shown) == 4, "each has its own tag"
    for tag, value in shown.items():
        assert _validate_tag(tag, value).key == tag
    whole = [tag[9:] if value.count(" ") == 1 else value.split(" ", 2)[2] for tag, value in shown.items()]
    assert sorted(whole) == sorted([*deps, path]), "the tag or its value has the whole path"


def test_a_clock_that_was_set_back_makes_no_negative_duration(root: Path) -> None:
    run_file = root / "results/runs/prepare.json"
    run_file.write_text(json.dumps({**json.loads(run_file.read_text()), "ended": "2026-11-24T09:00:00+00:00"}))
    record = sync.record_of(root, run_file)
    assert record.started == record.ended


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
    with pytest.raises(UserError, match=r'evaluate@scd\.json: ended = "noon": is not a time \(ISO 8601\): delete it'):
        sync.record_of(root, run_file)
    with pytest.raises(UserError, match="holds no runs: run `scm run` first"):
        sync.sync(opened(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"^mlflow.enabled is false in params.yaml: nothing was sent$"):
        sync.sync(opened(root, enabled=False))
