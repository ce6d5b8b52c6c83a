"""The file of an SQLite store: made complete or not at all, looked at before MLflow opens it, and followed in a move.

MLflow stores the absolute place of each run's files. A project that was moved or copied would therefore read and write
in the folder that it came from. So the places in a project's own store are rewritten when they lie in another project.
"""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from scm.params.addresses import sqlite_address
from scm.params.project import TrackingSettings

WAIT = 15.0
"""Seconds that another process may hold the file."""
BRIEFLY = 0.5
"""Seconds of patience where a person waits for an answer that need not be complete."""
PLACES = (
    ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
    ("model_versions", "source"), ("model_versions", "storage_location"),
)  # fmt: skip
"""Tables and columns of MLflow that hold the places of files."""


def prepare(settings: TrackingSettings, file: Path) -> None:
    """Makes the file if it is missing, else looks if it can be used. The caller holds the lock beside it.

    Raises:
        sqlite3.Error: another process holds the file, or it is damaged. OSError: its folder cannot be written.
    """
    if not file.exists() or file.stat().st_size == 0:
        _make(file)
        return
    _look(file)
    for old in _follow(settings, file):
        left = "" if settings.artifacts and settings.artifacts.is_dir() else f"; copy {old} there, or run `scm sync`"
        print(
            f"mlflow: {file} came from {old.parent}: its files are in {settings.artifacts} now{left}", file=sys.stderr
        )


def tags_of_holder(file: Path, name: str, alias: str) -> tuple[str, dict[str, str]] | None:
    """Number and tags of the version of a registered model that has an alias, read without MLflow.

    Raises:
        sqlite3.Error: another process holds the file, or it is damaged.
    """
    with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=BRIEFLY)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'registered_model_aliases'").fetchone():
            return None
        chosen = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?"
        found = database.execute(chosen, (name, alias)).fetchone()
        if found is None:
            return None
        tags = "SELECT key, value FROM model_version_tags WHERE name = ? AND version = ?"
        return str(found[0]), dict(database.execute(tags, (name, found[0])))


def _make(file: Path) -> None:
    """Lets MLflow make its tables, which takes seconds, in a file of another name: half of them would be of no use."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    new = file.with_name(f"{file.name}.new")
    file.parent.mkdir(parents=True, exist_ok=True)
    for rest in (new, new.with_name(f"{new.name}-journal")):
        rest.unlink(missing_ok=True)
    new.touch()  # MLflow would try for minutes where it cannot write
    # MLflow writes the folder of its own first experiment into a statement as it is: no quotes and colons may be in it.
    folder = file.absolute().with_name("mlruns")
    made = not folder.exists()
    SqlAlchemyStore(sqlite_address(new), folder.as_uri())._dispose_engine()  # pyright: ignore[reportPrivateUsage]
    if made and folder.is_dir():
        folder.rmdir()
    new.replace(file)


def _look(file: Path) -> None:
    """Raises sqlite3's error if the file is no database, or if another process holds it for longer than WAIT."""
    with closing(sqlite3.connect(file, timeout=WAIT, isolation_level=None)) as database:
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        try:
            database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if "readonly" not in str(error):  # it can still be read
                raise


def _follow(settings: TrackingSettings, file: Path) -> list[Path]:
    """Rewrites the places that lie in another project; returns the folders of files that they named."""
    own = settings.artifact_location
    with closing(sqlite3.connect(file, timeout=WAIT)) as database, database:  # one transaction
        known = {
            (table, column)
            for table, column in PLACES
            if database.execute("SELECT 1 FROM pragma_table_info(?) WHERE name = ?", (table, column)).fetchone()
        }
        if PLACES[0] not in known:
            return []
        chosen = (
            "SELECT DISTINCT artifact_location FROM experiments WHERE artifact_location LIKE 'file:///%/mlartifacts'"
        )
        found = [place for (place,) in database.execute(chosen) if place != own and _is_foreign(settings, file, place)]
        for place in found:
            for table, column in sorted(known):
                change = (
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column} || '/', 1, ?) = ?"
                )
                database.execute(change, (own, len(place) + 1, len(place) + 1, f"{place}/"))
    return [_path(place) for place in found]


def _is_foreign(settings: TrackingSettings, file: Path, place: str) -> bool:
    """True for another project's folder, if the store is this one's, and for one that has gone while ours is there."""
    folder, own = _path(place), settings.artifacts
    elsewhere = file.is_relative_to(settings.home) and not folder.is_relative_to(settings.home)
    if elsewhere and folder.is_dir():  # somebody may have chosen it for an experiment, unless it is a project's
        elsewhere = any((folder.parent / name).exists() for name in ("dvc.yaml", file.relative_to(settings.home)))
    return elsewhere or (own is not None and own.is_dir() and not folder.is_dir())


def _path(place: str) -> Path:
    return Path(unquote(urlsplit(place).path))
