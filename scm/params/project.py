"""The project that a command or a stage works on: its folder, its parameters, and its tracking store."""

import os
from dataclasses import dataclass
from pathlib import Path

from scm.base.project import find_root
from scm.params import Params, load


@dataclass(frozen=True)
class TrackingSettings:
    """Where runs are tracked: the section `mlflow` of params.yaml.

    Attributes:
        enabled: False turns tracking off.
        uri: tracking server or store; None = $MLFLOW_TRACKING_URI, else the file mlflow.db in `root`.
        experiment: None = $MLFLOW_EXPERIMENT_NAME, else the run's preset.
        root: the project's folder.
    """

    enabled: bool
    uri: str | None
    experiment: str | None
    root: Path

    @property
    def home(self) -> Path:
        """The folder with the project's own store, which a copy made by `dvc exp run --temp` shares."""
        return Path(os.environ.get("DVC_ROOT") or self.root).resolve()

    @property
    def store(self) -> str:
        """The store's address, which does not depend on the current folder."""
        return self.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def store_file(self) -> Path | None:
        """The file of an SQLite store; None for a server."""
        if not self.store.startswith("sqlite:///"):
            return None
        return Path(self.store.removeprefix("sqlite:///").partition("?")[0])

    @property
    def artifact_location(self) -> str | None:
        """Where a new experiment stores its files; None = the server decides."""
        return (self.home / "mlartifacts").as_uri() if self.store.startswith("sqlite:") else None


@dataclass(frozen=True)
class Project:
    """A project. A command or a stage opens it once and passes it on.

    Attributes:
        root: the folder that holds dvc.yaml.
        params: the checked values of its params.yaml.
        original: the project of which this one is a temporary copy, and whose store tracks its runs; None = no copy.
    """

    root: Path
    params: Params
    original: Path | None = None

    @classmethod
    def open(cls, start: Path | None = None) -> "Project":
        """Opens the project at or above `start` (default: the current folder).

        Raises:
            UserError: no project found, or a fault in params.yaml.
        """
        root = find_root(start)
        return cls(root, load(root / "params.yaml"))

    @property
    def tracking(self) -> TrackingSettings:
        mlflow = self.params.mlflow
        return TrackingSettings(mlflow.enabled, mlflow.uri, mlflow.experiment, self.original or self.root)
