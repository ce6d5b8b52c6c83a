"""The project that a command or a stage works on: its folder, its parameters, and its tracking store."""

import os
from dataclasses import dataclass
from pathlib import Path

from scm.base.project import find_root
from scm.errors import UserError
from scm.params import Params, load
from scm.params.addresses import refusal, sqlite_address, sqlite_file, without_secrets
from scm.params.rules import misplaced


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
    def address(self) -> str | None:
        """The address that the user gave; None = the file mlflow.db in `home`."""
        return self.uri or os.environ.get("MLFLOW_TRACKING_URI") or None

    @property
    def store(self) -> str:
        """The store's address, which does not depend on the current folder."""
        file = self.store_file
        return self.address or "" if file is None else sqlite_address(file, (self.address or "").partition("?")[2])

    @property
    def shown(self) -> str:
        """The store's address without passwords, for messages."""
        return without_secrets(self.store)

    @property
    def store_file(self) -> Path | None:
        """The file of an SQLite store; None for a server."""
        return self.home / "mlflow.db" if self.address is None else sqlite_file(self.address, self.home)

    @property
    def artifacts(self) -> Path | None:
        """The folder of an SQLite store's files: the project's own, or beside a store that lies elsewhere."""
        file = self.store_file
        if file is None:
            return None
        return (self.home if file.is_relative_to(self.home) else file.parent) / "mlartifacts"

    @property
    def artifact_location(self) -> str | None:
        """Where a new experiment stores its files; None = the server decides."""
        return None if self.artifacts is None else self.artifacts.as_uri()

    def check_environment(self) -> None:
        """Raises UserError if MLFLOW_TRACKING_URI counts and cannot be used; params.yaml has been checked."""
        problem = refusal(self.address) if self.enabled and not self.uri and self.address else None
        if problem is not None:
            raise UserError(f"MLFLOW_TRACKING_URI = {self.shown}: {problem}")


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
            UserError: no project found, or a fault in params.yaml or in MLFLOW_TRACKING_URI.
        """
        root = find_root(start)
        project = cls(root, load(root / "params.yaml"))
        project.check()
        return project

    def check(self) -> None:
        """Raises UserError if data.path leads into the project by a detour, or MLFLOW_TRACKING_URI cannot be used."""
        path = self.params.data.path
        place = os.path.relpath(self.root.absolute() / path, self.root.absolute())
        if (self.root / "dvc.yaml").is_file() and (fault := misplaced(path, place)):
            raise UserError(f"{self.root / 'params.yaml'}: {fault}")
        self.tracking.check_environment()

    @property
    def tracking(self) -> TrackingSettings:
        mlflow = self.params.mlflow
        return TrackingSettings(mlflow.enabled, mlflow.uri, mlflow.experiment, self.original or self.root)
