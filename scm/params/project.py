"""The project that a command or a stage works on: its folder, its parameters, and where its figures are shown."""

import os
from dataclasses import dataclass
from pathlib import Path

from scm.base.project import find_root
from scm.params import Params, load


@dataclass(frozen=True)
class TrackingSettings:
    """The section `mlflow` of params.yaml: where figures are shown.

    Attributes:
        enabled: False turns all tracking off.
        uri: tracking server or store; None = $MLFLOW_TRACKING_URI, else the file mlflow.db in `root`.
        experiment: None = $MLFLOW_EXPERIMENT_NAME, else the preset of the run.
        root: the project's folder.
    """

    enabled: bool
    uri: str | None
    experiment: str | None
    root: Path

    @property
    def home(self) -> Path:
        """Folder of the project's own store: the project itself, even inside a copy made by `dvc exp run --temp`."""
        return Path(os.environ.get("DVC_ROOT") or self.root).resolve()

    @property
    def store(self) -> str:
        """Address of the store, the same from every current folder."""
        own = f"sqlite:///{self.home / 'mlflow.db'}"
        return self.uri or os.environ.get("MLFLOW_TRACKING_URI") or own

    @property
    def store_file(self) -> Path | None:
        """File of an SQLite store; None for a server."""
        if not self.store.startswith("sqlite:///"):
            return None
        return Path(self.store.removeprefix("sqlite:///").partition("?")[0])

    @property
    def artifact_location(self) -> str | None:
        """Where a new experiment keeps its files; None = the server decides."""
        return (self.home / "mlartifacts").as_uri() if self.store.startswith("sqlite:") else None


@dataclass(frozen=True)
class Project:
    """One project, opened once by a command or a stage and handed on.

        project = Project.open()
        project.params.teacher.images

    Attributes:
        root: the folder that holds dvc.yaml.
        params: its params.yaml, checked.
        original: the project that this one is a temporary copy of; its store keeps the figures. None = no copy.
    """

    root: Path
    params: Params
    original: Path | None = None

    @classmethod
    def open(cls, start: Path | None = None) -> "Project":
        """Finds the project at or above `start` (default: the current folder) and reads its params.yaml.

        Raises:
            UserError: no project here, or a fault in params.yaml.
        """
        root = find_root(start)
        return cls(root, load(root / "params.yaml"))

    @property
    def tracking(self) -> TrackingSettings:
        mlflow = self.params.mlflow
        return TrackingSettings(mlflow.enabled, mlflow.uri, mlflow.experiment, self.original or self.root)
