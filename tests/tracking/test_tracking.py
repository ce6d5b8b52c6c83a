"""scm.tracking.sending against a real SQLite store, a dead server and a server that never answers."""

import itertools
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from scm.errors import Interrupted
from scm.params.project import TrackingSettings
from scm.tracking import live as live_module
from scm.tracking import sending, store
from scm.tracking.records import ImageSet, RunRecord, metric_name

ROOT = Path(__file__).parents[2]
TABLES = ("experiments", "runs", "metrics", "latest_metrics", "params", "tags")


def record(folder: Path, **changes: object) -> RunRecord:
    grid, note = folder / "grid.png", folder / "results" / "metrics" / "note.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text("{}")
    Image.new("L", (80, 32), 90).save(grid)
    values = {
        "params": {"lr.max": 0.01, "data.labels": True, "mlflow.uri": None},
        "tags": {"scm.preset": "digits"},
        "metrics": {"fd@2": 5.25, "t_mid": 0.8},
        "series": [{"images": 64 * step, "time": 1.79e9 + step, "loss": 1 / step, "loss/3": 0.5} for step in (1, 2)],
        "images": {"samples-nfe-2": (grid, 2)},
        "artifacts": [note],
        "status": "FINISHED",
        "started": 1.79e9,
        "ended": 1.79e9 + 9.5,
        **changes,
    }
    return RunRecord("abc123", "evaluate@scd · digits · 29212f2", "evaluate", "scd", **values)  # type: ignore[arg-type]


def counts(root: Path) -> dict[str, int]:
    with sqlite3.connect(root / "mlflow.db") as database:
        rows = {table: database.execute(f"select count(*) from {table}").fetchone()[0] for table in TABLES}
    database.close()
    return {**rows, "files": sum(path.is_file() for path in (root / "mlartifacts").rglob("*"))}


def only_run(settings: TrackingSettings):
    client = store.connect(settings)
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1
    return client, runs[0]


def test_publish_shows_everything_and_twice_changes_nothing(settings: TrackingSettings, tmp_path: Path) -> None:
    assert sending.publish(record(tmp_path), settings)
    before = counts(tmp_path)
    client, run = only_run(settings)
    assert run.data.params == {"lr.max": "0.01", "data.labels": "true", "mlflow.uri": "null"}
    assert run.data.metrics == {"fd_at_2": 5.25, "t_mid": 0.8, "loss": 0.5, "loss/3": 0.5}
    assert (run.info.status, run.info.start_time, run.info.end_time) == ("FINISHED", 1790000000000, 1790000009500)
    assert run.data.tags["scm.key"] == "abc123" and run.data.tags["scm.item"] == "scd"
    assert run.info.run_name == "evaluate@scd · digits · 29212f2"
    history = [
        (point.step, point.timestamp, point.value) for point in client.get_metric_history(run.info.run_id, "loss")
    ]
    assert history == [(64, 1790000001000, 1.0), (128, 1790000002000, 0.5)]
    assert [file.path for file in client.list_artifacts(run.info.run_id, "metrics")] == ["metrics/note.json"]
    pictures = [tmp_path / "mlartifacts" / run.info.run_id / "artifacts" / file.path
                for file in client.list_artifacts(run.info.run_id, "images") if file.path.endswith(".png")]  # fmt: skip
    assert len(pictures) == 1
    with Image.open(pictures[0]) as picture:
        assert picture.size == (640, 640), "enlarged and square, since the UI shows squares and does not enlarge"
        assert picture.getpixel((0, 255)) == (90, 90, 90, 255) and picture.getpixel((0, 256)) == (0, 0, 0, 0)
    table = json.loads((tmp_path / "mlartifacts" / run.info.run_id / "artifacts" / "samples.json").read_text())
    assert table["data"] == [["2", {"type": "image", "filepath": f"images/{pictures[0].name}",
                                    "compressed_filepath": f"images/{pictures[0].stem}+compressed.webp"}]]  # fmt: skip
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "samples.json", "type": "table"}]
    assert sending.publish(record(tmp_path), settings)
    assert counts(tmp_path) == before


def test_the_dataset_column_is_filled_once_and_counts_are_numbers(settings: TrackingSettings, tmp_path: Path) -> None:
    images = ImageSet("digits", "1424ad43e67b20c10be33ef18dff5fa3.dir", "data/raw", "evaluation")
    changes = {"images": {}, "artifacts": [], "params": {"teacher.images": "8Ki", "data.path": "8Ki x"}}
    sending.publish(record(tmp_path, images_of=images, **changes), settings)
    sending.publish(record(tmp_path, images_of=images, **changes), settings)
    run = only_run(settings)[1]
    (found,) = run.inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("digits", "1424ad43e67b")
    assert json.loads(found.dataset.source) == {"uri": "data/raw"}
    assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "evaluation")]
    assert run.data.params == {"teacher.images": "8192", "data.path": "8Ki x"}


def test_figures_that_are_not_finite_are_left_out(settings: TrackingSettings, tmp_path: Path) -> None:
    series = [{"images": 1, "time": 1.0, "loss": float("nan"), "lr": 0.5, "note": "text", "flag": True}]
    sending.publish(record(tmp_path, series=series), settings)
    assert "loss" not in only_run(settings)[1].data.metrics and "flag" not in only_run(settings)[1].data.metrics
    assert only_run(settings)[1].data.metrics["lr"] == 0.5


def test_long_series_and_many_params_go_in_batches(settings: TrackingSettings, tmp_path: Path) -> None:
    series = [{"images": step, "time": 1.79e9 + step, "loss": float(step), "lr": 0.5} for step in range(700)]
    sending.publish(record(tmp_path, series=series, params={f"key.{n}": n for n in range(230)}), settings)
    assert counts(tmp_path)["metrics"] == 1400 + 2 and counts(tmp_path)["params"] == 230


@pytest.mark.parametrize(
    ("name", "shown"),
    [("fd@2", "fd_at_2"), ("images_per_second@35", "images_per_second_at_35"), ("loss/7", "loss/7"), ("a,b", "a_b")],
)
def test_metric_names_are_such_as_mlflow_accepts(name: str, shown: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    assert metric_name(name) == shown
    _validate_metric_name(shown)
    if name != shown:
        with pytest.raises(Exception, match="Invalid value"):
            _validate_metric_name(name)


def test_a_dead_server_costs_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = TrackingSettings(True, f"http://me:secret@127.0.0.1:{port}", None, tmp_path)
    start = time.monotonic()
    assert not sending.publish(record(tmp_path), settings)
    assert time.monotonic() - start < 20
    assert not sending.publish(record(tmp_path), settings, patience=0.2)
    error = capsys.readouterr().err
    assert error == (
        f"mlflow: the tracking server does not answer (http://127.0.0.1:{port}); figures are kept in files, "
        "`scm sync` sends them later\n"
    )


def test_a_server_that_never_answers_does_not_hold_the_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        settings = TrackingSettings(True, f"http://127.0.0.1:{silent.getsockname()[1]}", None, tmp_path)
        start = time.monotonic()
        assert not sending.publish(record(tmp_path), settings, patience=1.0)
        assert time.monotonic() - start < 3
        assert "mlflow: no answer within 1 s (" in capsys.readouterr().err


def test_the_users_own_variables_win(
    settings: TrackingSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mine.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    client = store.connect(settings)
    sending.send(client, record(tmp_path, images={}), settings)
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "5" and os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "10"
    assert (tmp_path / "mine.db").exists() and counts(tmp_path)["runs"] == 0
    assert client.get_experiment_by_name("mine") is not None
    assert TrackingSettings(True, "http://params", "from-params", tmp_path).store == "http://params"


def test_disabled_does_nothing_and_does_not_import_mlflow(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from scm.params.project import TrackingSettings\n"
        "from scm.tracking.live import Live; from scm.tracking.records import RunRecord\n"
        "from scm.tracking.sending import publish\n"
        f"settings = TrackingSettings(False, 'http://127.0.0.1:9', None, Path({str(tmp_path)!r}))\n"
        "record = RunRecord('k', 'n', 'prepare')\n"
        "with Live(record, settings, Path('none')): pass\n"
        "assert publish(record, settings)\n"
        "assert 'mlflow' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_four_processes_may_open_a_new_store_at_once(tmp_path: Path, empty_store: Path) -> None:
    """They are forked when everything is imported, so that they begin at the same moment."""
    code = (
        "import os, sys; from pathlib import Path; from scm.params.project import TrackingSettings\n"
        "from scm.tracking import store; from scm.tracking.records import RunRecord\n"
        "from scm.tracking.sending import publish\n"
        f"root = Path({str(tmp_path)!r})\n"
        "store.connect(TrackingSettings(True, None, None, root / 'another'))\n"
        "def send(key):\n"
        "    record = RunRecord(key, key, 'prepare', status='FINISHED')\n"
        "    if os.fork() == 0:\n"
        "        os._exit(not publish(record, TrackingSettings(True, None, 'shared', root), 120))\n"
        "for key in sys.argv[1:]:\n"
        "    send(key)\n"
        "print([os.waitstatus_to_exitcode(os.wait()[1]) for _ in sys.argv[1:]])\n"
    )
    (tmp_path / "another").mkdir()
    shutil.copyfile(empty_store, tmp_path / "another/mlflow.db")
    command = [sys.executable, "-c", code, "same", "same", "b", "c"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[0, 0, 0, 0]\n", "")
    assert counts(tmp_path)["runs"] == 3 and counts(tmp_path)["experiments"] == 2


def write_line(path: Path, images: int, end: str = "\n") -> None:
    with path.open("a") as handle:
        handle.write(json.dumps({"images": images, "time": 1.79e9 + images, "loss": 1 / images}) + end)


def until(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def points(root: Path) -> int:
    return counts(root)["metrics"]


def test_live_sends_complete_lines_is_killed_and_goes_on(settings: TrackingSettings, tmp_path: Path) -> None:
    path, live_record = tmp_path / "metrics.jsonl", record(tmp_path, status="RUNNING", metrics={}, series=[])
    with pytest.raises(Interrupted), live_module.Live(live_record, settings, path, interval=0.2):
        write_line(path, 1)
        until(lambda: points(tmp_path) == 1)
        assert only_run(settings)[1].info.status == "RUNNING"
        write_line(path, 2)
        write_line(path, 3, end="")
        raise Interrupted("stop")
    assert points(tmp_path) == 2, "the last complete line went with the closing, the cut one did not"
    assert only_run(settings)[1].info.status == "KILLED"
    with live_module.Live(live_record, settings, path, interval=0.2):
        with path.open("a") as handle:
            handle.write("\n")
        until(lambda: points(tmp_path) == 3)
        assert only_run(settings)[1].info.status == "RUNNING", "the same run goes on"
    assert only_run(settings)[1].info.status == "RUNNING", "publish ends it"
    sending.publish(record(tmp_path, series=[]), settings)
    assert only_run(settings)[1].info.status == "FINISHED"


def test_live_marks_an_error_failed(settings: TrackingSettings, tmp_path: Path) -> None:
    live = live_module.Live(record(tmp_path, status="RUNNING"), settings, tmp_path / "none", interval=0.2)
    with pytest.raises(ZeroDivisionError), live:
        until(lambda: counts(tmp_path)["tags"] > 0)
        raise ZeroDivisionError
    assert only_run(settings)[1].info.status == "FAILED"


def test_live_with_a_dead_server_warns_once_and_never_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    attempts = []
    connect = store.connect
    monkeypatch.setattr(store, "connect", lambda settings: (attempts.append(time.monotonic()), connect(settings))[1])
    start = time.monotonic()
    dead = TrackingSettings(True, "http://127.0.0.1:9", None, tmp_path)
    with live_module.Live(record(tmp_path), dead, tmp_path / "x", 0.1):
        until(lambda: len(attempts) >= 4)
    assert time.monotonic() - start < 15
    assert capsys.readouterr().err.count("\n") == 1
    pauses = [after - before for before, after in itertools.pairwise(attempts)]
    assert pauses[2] > pauses[0], "each failure waits longer"


def test_runs_of_dead_processes_are_buried_and_living_ones_are_not(settings: TrackingSettings, tmp_path: Path) -> None:
    client = store.connect(settings)
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        mark = sending.process_mark(sleeper.pid)
        tags = {"scm.preset": "digits", "scm.process": mark}
        sending.send(client, record(tmp_path, status="RUNNING", tags=tags), settings)
        assert sending.bury(client) == 0
        sleeper.kill()
    assert sending.bury(client) == 1
    assert only_run(settings)[1].info.status == "KILLED"


def test_a_deleted_experiment_is_named(
    settings: TrackingSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = store.connect(settings)
    client.delete_experiment(client.create_experiment("digits"))
    assert not sending.publish(record(tmp_path), settings)
    assert (
        "experiment 'digits' was deleted in MLflow: restore it there or set mlflow.experiment"
        in capsys.readouterr().err
    )


def test_lines_that_a_resumed_training_writes_anew_are_sent(tmp_path):
    path, line = tmp_path / "metrics.jsonl", '{{"images": {}, "time": {}}}\n'.format
    path.write_text(line(64, 1.5) + line(128, 2.5))
    _, end = live_module._new_rows(path, 0)
    path.write_text(line(64, 1.5))
    assert live_module._new_rows(path, end)[0] == [{"images": 64, "time": 1.5}]
    path.write_text(line(64, 1.5) + line(128, 33.25) + line(192, 4.5))
    assert [row["images"] for row in live_module._new_rows(path, end)[0]] == [64, 128, 192]
