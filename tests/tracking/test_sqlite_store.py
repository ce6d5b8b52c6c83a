"""scm.tracking.sqlite_store: projects with odd names, moved and copied ones, and files that cannot be used."""

import hashlib
import shutil
import sqlite3
import time
from collections import OrderedDict
from contextlib import closing
from pathlib import Path

import pytest

from scm.params.project import TrackingSettings
from scm.tracking import sending, sqlite_store, store
from scm.tracking.records import RunRecord


class NeverKept(OrderedDict):
    """A cache that keeps nothing."""

    def __setitem__(self, key: object, value: object) -> None:
        pass


@pytest.fixture(autouse=True)
def each_call_is_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow keeps a run's place for the life of a process, in which a project does not move."""
    from mlflow.tracking._tracking_service import utils

    monkeypatch.setattr(utils, "_artifact_repos_cache", NeverKept())


def project(folder: Path, empty_store: Path, uri: str | None = None) -> TrackingSettings:
    """A project with a small result and an empty store."""
    (folder / "results/metrics").mkdir(parents=True)
    (folder / "results/metrics/a.json").write_text("{}")
    settings = TrackingSettings(True, uri, None, folder)
    assert settings.store_file is not None
    settings.store_file.parent.mkdir(exist_ok=True)
    shutil.copyfile(empty_store, settings.store_file)
    return settings


def record(settings: TrackingSettings, key: str = "k") -> RunRecord:
    files = [settings.root / "results/metrics/a.json"]
    return RunRecord(key, "name", "prepare", artifacts=files, status="FINISHED", started=1.0, ended=2.0)


def files_of(settings: TrackingSettings, key: str = "k") -> list[str]:
    client = store.connect(settings)
    run = sending.run_of(client, key)
    return [entry.path for entry in client.list_artifacts(run.info.run_id, "metrics")]


def places(settings: TrackingSettings) -> list[str]:
    assert settings.store_file is not None
    with closing(sqlite3.connect(settings.store_file)) as database:
        queries = [f"SELECT {column} FROM {table}" for table, column in sqlite_store.PLACES]
        found = [row[0] for query in queries for row in database.execute(query)]
    return [place for place in found if place and "mlartifacts" in place]


def content(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(
    "name", ["my project", "what?", "my%20project", "50%", "a#b", "é;x=1&y", "what?a=b#c%3F", 'it\'s "a:b"', "{x}\\$y"]
)
def test_a_projects_folder_may_have_any_name(tmp_path: Path, empty_store: Path, name: str) -> None:
    settings = project(tmp_path / "in" / name, empty_store)
    assert sending.publish(record(settings), settings)
    assert files_of(settings) == ["metrics/a.json"]
    assert [path.name for path in (tmp_path / "in").iterdir()] == [name], "nothing beside the project"
    assert {"mlflow.db", "mlartifacts"} <= {path.name for path in settings.root.iterdir()}
    assert len(list(settings.root.glob("mlartifacts/*/artifacts/metrics/a.json"))) == 1


@pytest.mark.parametrize("name", ["50%", "my%20venv", "a%%b", "a%(x)s"])
def test_mlflow_in_a_folder_with_percent_is_a_line(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Alembic puts values of its own in the place of what follows the sign."""
    from mlflow.store.db import utils

    settings = project(tmp_path / "project", empty_store)
    (tmp_path / name).mkdir()
    (tmp_path / name / "mlflow").symlink_to(utils._get_package_dir())
    monkeypatch.setattr(utils, "_get_package_dir", lambda: str(tmp_path / name / "mlflow"))
    assert not sending.publish(record(settings), settings)
    said = "mlflow: MLflow cannot open a store if the folder in which it is installed has % in its path: make .venv"
    line = capsys.readouterr().err
    assert line.startswith(f"{said} elsewhere (") and "; figures are kept in files, " in line and line.count("\n") == 1


def test_a_relative_store_lies_in_the_project_and_another_one_keeps_its_files_beside_it(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    own = project(tmp_path / "own", empty_store, "sqlite:///runs.db")
    assert own.store == f"sqlite:///{tmp_path}/own/runs.db"
    other = project(tmp_path / "other", empty_store, f"sqlite:///{tmp_path}/srv/runs.db?timeout=9")
    assert other.store == f"sqlite:///{tmp_path}/srv/runs.db?timeout=9"
    assert sending.publish(record(own), own) and sending.publish(record(other), other)
    assert len(list(tmp_path.glob("own/mlartifacts/*/artifacts/metrics/a.json"))) == 1
    assert len(list(tmp_path.glob("srv/mlartifacts/*/artifacts/metrics/a.json"))) == 1
    (tmp_path / "other").rename(tmp_path / "moved")
    moved = TrackingSettings(True, other.uri, None, tmp_path / "moved")
    before = places(moved)
    assert files_of(moved) == ["metrics/a.json"] and places(moved) == before


def registered(settings: TrackingSettings) -> None:
    """Registers the run's folder as a model's version."""
    client = store.connect(settings)
    run = sending.run_of(client, "k")
    client.create_registered_model("model")
    client.create_model_version("model", f"{run.info.artifact_uri}/metrics", run.info.run_id)


def model_files(settings: TrackingSettings) -> list[str]:
    from mlflow.artifacts import list_artifacts

    client = store.connect(settings)
    uri = client.get_model_version_download_uri("model", "1")
    return [Path(entry.path).name for entry in list_artifacts(uri, tracking_uri=settings.store)]


def test_a_moved_project_keeps_its_files_and_models(
    tmp_path: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = project(tmp_path / "old 1%", empty_store)
    sending.publish(record(settings), settings)
    registered(settings)
    settings.root.rename(tmp_path / "new")
    moved = TrackingSettings(True, None, None, tmp_path / "new")
    assert files_of(moved) == ["metrics/a.json"] and model_files(moved) == ["a.json"]
    assert len(places(moved)) >= 3 and all(place.startswith(f"file://{tmp_path}/new/") for place in places(moved))
    said = f"mlflow: {tmp_path}/new/mlflow.db came from {tmp_path}/old 1%: its files are in {tmp_path}/new/mlartifacts"
    assert capsys.readouterr().err == f"{said} now\n", "said once"
    assert not (tmp_path / "old 1%").exists()


def test_a_copied_project_leaves_the_original_alone(
    tmp_path: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = project(tmp_path / "old", empty_store)
    sending.publish(record(settings), settings)
    registered(settings)
    shutil.copytree(settings.root, tmp_path / "copy")
    before = content(settings.root)
    copy = TrackingSettings(True, None, None, tmp_path / "copy")
    assert sending.publish(record(copy, "new"), copy)
    assert files_of(copy, "new") == ["metrics/a.json"] and model_files(copy) == ["a.json"]
    assert content(settings.root) == before
    assert files_of(settings) == ["metrics/a.json"]
    without = project(tmp_path / "without", settings.root / "mlflow.db")
    capsys.readouterr()
    assert sending.publish(record(without), without) and files_of(without) == ["metrics/a.json"], "sent again"
    assert f"; copy {tmp_path}/old/mlartifacts there, or run `scm sync`\n" in capsys.readouterr().err


def fault(settings: TrackingSettings, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a stage prints, within seconds."""
    start = time.monotonic()
    assert not sending.publish(record(settings), settings)
    assert time.monotonic() - start < 5
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("kind", ["EXCLUSIVE", "IMMEDIATE"])
def test_a_store_that_another_process_holds_is_named(
    settings: TrackingSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    monkeypatch.setattr(sqlite_store, "WAIT", 0.1)
    (settings.root / "results/metrics").mkdir(parents=True)
    (settings.root / "results/metrics/a.json").write_text("{}")
    with closing(sqlite3.connect(settings.root / "mlflow.db", isolation_level=None)) as holder:
        holder.execute(f"BEGIN {kind}")
        assert "mlflow: the store is locked or busy: another process holds it (sqlite:///" in fault(settings, capsys)


@pytest.mark.parametrize("damage", ["text", "cut", "middle"])
def test_a_damaged_store_is_named_with_the_remedy(
    settings: TrackingSettings, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    file = settings.root / "mlflow.db"
    data = file.read_bytes()
    damaged = {"text": b"not a database " * 300, "cut": data[:5000], "middle": data[:100] + bytes(8000) + data[8100:]}
    file.write_bytes(damaged[damage])
    remedy = "mlflow: the store is damaged: move its file away, and `scm sync` makes it anew (sqlite:///"
    assert remedy in fault(settings, capsys)
    assert file.read_bytes() == damaged[damage]


def test_a_store_is_made_complete_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store.quieten()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    settings = TrackingSettings(True, None, None, tmp_path)
    (tmp_path / "mlflow.db.new").write_text("what a killed process left")
    (tmp_path / "mlflow.db.new-journal").write_text("its journal")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(SqlAlchemyStore, "_dispose_engine", killed)
        store.connect(settings)
    assert not (tmp_path / "mlflow.db").exists()
    store.connect(settings)
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}


def test_a_store_that_is_taken_while_a_run_is_sent_costs_one_line(
    settings: TrackingSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sqlalchemy

    (settings.root / "results/metrics").mkdir(parents=True)
    (settings.root / "results/metrics/a.json").write_text("{}")
    client = store.connect(settings)
    monkeypatch.setattr(store, "connect", lambda settings: client)
    text = sqlalchemy.text  # MLflow asks SQLite to wait for 20 s
    monkeypatch.setattr(sqlalchemy.sql, "text", lambda words: text(words.replace("20000", "100")))
    with closing(sqlite3.connect(settings.root / "mlflow.db", isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        assert "mlflow: the store is locked or busy: another process holds it (sqlite:///" in fault(settings, capsys)


def test_a_store_that_cannot_be_written_is_named() -> None:
    for text in ("attempt to write a readonly database", "unable to open database file"):
        assert store.reason(sqlite3.OperationalError(text)).startswith("the store cannot be written")


def test_a_folder_of_files_that_cannot_be_written_costs_one_line_and_no_figures(
    settings: TrackingSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    (settings.root / "results/metrics").mkdir(parents=True)
    (settings.root / "results/metrics/a.json").write_text("{}")
    (settings.root / "mlartifacts").write_text("no folder")
    assert "mlartifacts" in fault(settings, capsys)
    assert sending.run_of(store.connect(settings), "k").info.status == "FINISHED"


def test_a_folder_that_somebody_has_chosen_for_an_experiment_is_kept(tmp_path):
    settings, chosen = TrackingSettings(True, None, None, tmp_path / "project"), tmp_path / "shared/mlartifacts"
    for folder in (settings.root, chosen):
        folder.mkdir(parents=True)
    assert settings.store_file is not None
    with closing(sqlite3.connect(settings.store_file)) as database, database:
        database.execute("CREATE TABLE experiments (artifact_location TEXT)")
        database.execute("INSERT INTO experiments VALUES (?)", (chosen.as_uri(),))
    sqlite_store.prepare(settings, settings.store_file)
    with closing(sqlite3.connect(settings.store_file)) as database:
        assert database.execute("SELECT * FROM experiments").fetchall() == [(chosen.as_uri(),)]
    (chosen.parent / "dvc.yaml").touch()  # now it is another project's
    sqlite_store.prepare(settings, settings.store_file)
    with closing(sqlite3.connect(settings.store_file)) as database:
        assert database.execute("SELECT * FROM experiments").fetchall() == [(settings.artifact_location,)]
