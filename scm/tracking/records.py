"""What MLflow shows of a run: plain values, which a stage fills in without importing mlflow."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scm.params.project import TrackingSettings


@dataclass
class RunRecord:
    """All that MLflow shows of one run.

    Attributes:
        key: fingerprint of the stage; two records with the same key describe the same run.
        name: run name, e.g. "train_student@scd · digits · seed 0".
        stage: e.g. "train_student".
        item: matrix item, e.g. "scd".
        params: flat parameters.
        tags: searchable text.
        metrics: final figures.
        series: rows over the training, each with "images" (the step), "time" (unix seconds) and figures.
        images: file and step of each grid, by key.
        artifacts: files that MLflow keeps unchanged.
        status: RUNNING, FINISHED, FAILED or KILLED.
        started: unix seconds.
        ended: unix seconds, also the time of the final figures.
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


def experiment_name(settings: TrackingSettings, preset: str) -> str:
    """The experiment that holds the runs of a preset."""
    return settings.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or preset


def metric_name(name: str) -> str:
    """The name under which MLflow keeps a figure: MLflow accepts letters, digits and "_-./: " only, so no "@".

    >>> metric_name("fd@2")
    'fd_at_2'
    """
    return re.sub(r"[^A-Za-z0-9_\-./: ]", "_", name.replace("@", "_at_"))
