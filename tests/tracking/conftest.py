"""A store of MLflow's that is made once, and no settings of the user's."""

import shutil
from pathlib import Path

import pytest

from scm.params.project import TrackingSettings
from scm.tracking import store


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No MLFLOW_* variables of the user, none left behind, and no warning given yet."""
    for name in [*store.DEFAULTS, "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"]:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    store.warned.clear()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with all its tables, since making them takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    store.connect(TrackingSettings(True, None, None, folder))
    return folder / "mlflow.db"


@pytest.fixture
def settings(tmp_path: Path, empty_store: Path) -> TrackingSettings:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    return TrackingSettings(True, None, None, tmp_path)
