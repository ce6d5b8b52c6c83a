"""What is shown in MLflow, and where: plain values, so that stages can fill them without importing mlflow."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    """Where figures are shown.

    Attributes:
        enabled: False turns everything here into nothing.
        uri: tracking server or store; None = $MLFLOW_TRACKING_URI, else the file mlflow.db in `root`.
        experiment: None = $MLFLOW_EXPERIMENT_NAME, else the record's preset.
        root: the project's folder.
    """

    enabled: bool
    uri: str | None
    experiment: str | None
    root: Path

    @classmethod
    def of(cls, params: Any, root: Path) -> "Settings":
        """The block `mlflow` of params.yaml."""
        return cls(params.mlflow.enabled, params.mlflow.uri, params.mlflow.experiment, root)

    @property
    def home(self) -> Path:
        """Where the own store lies: the project, not a temporary copy of it in which `dvc exp run --temp` works."""
        return Path(os.environ.get("DVC_ROOT") or self.root).resolve()

    @property
    def store(self) -> str:
        """Address of the store, the same from every current folder."""
        own = f"sqlite:///{self.home / 'mlflow.db'}"
        return self.uri or os.environ.get("MLFLOW_TRACKING_URI") or own

    @property
    def artifact_location(self) -> str | None:
        """Where a new experiment keeps its files; None = where the server says."""
        return (self.home / "mlartifacts").as_uri() if self.store.startswith("sqlite:") else None

    def experiment_of(self, record: "RunRecord") -> str:
        return self.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or record.tags.get("scm.preset") or "scm"


@dataclass
class RunRecord:
    """What one run of a stage is shown with.

    Attributes:
        key: fingerprint of the stage; the same key is the same run.
        name: run name, e.g. "train_student@scd · digits · seed 0".
        stage: e.g. "train_student".
        item: matrix item, e.g. "scd".
        params: flat parameters.
        tags: searchable text.
        metrics: final figures.
        series: rows over the training, each with "images" (the step), "time" (unix s) and figures.
        images: grids, by key: file and step.
        artifacts: files that are kept whole.
        status: RUNNING, FINISHED, FAILED or KILLED.
        started: unix s.
        ended: unix s; time of the final figures.
    """

    key: str
    name: str
    stage: str
    item: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    series: list[dict[str, float]] = field(default_factory=list)
    images: dict[str, tuple[Path, int]] = field(default_factory=dict)
    artifacts: list[Path] = field(default_factory=list)
    status: str = "RUNNING"
    started: float | None = None
    ended: float | None = None


def metric_name(name: str) -> str:
    """The name under which MLflow keeps a figure: it refuses "@" and all but letters, digits and "_-./: ".

    >>> metric_name("fd@2")
    'fd_at_2'
    """
    return re.sub(r"[^A-Za-z0-9_\-./: ]", "_", name.replace("@", "_at_"))
