"""What MLflow shows of a run: plain values, which a stage fills in without importing mlflow."""

import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scm.params.project import TrackingSettings

LONGEST_KEY = 250
"""Characters that MLflow accepts in the key of a tag, parameter or metric."""


@dataclass
class RunRecord:
    """All that MLflow shows of one run. Each row of `series` has "images" (the step), "time" and figures."""

    key: str  # fingerprint of the stage; two records with the same key describe the same run
    name: str  # e.g. "train_student@scd · digits · seed 0"
    stage: str  # e.g. "train_student"
    item: str | None = None  # matrix item, e.g. "scd"
    params: dict[str, Any] = field(default_factory=dict)  # flat
    tags: dict[str, str] = field(default_factory=dict)  # searchable text
    metrics: dict[str, float] = field(default_factory=dict)  # final figures
    series: list[dict[str, float]] = field(default_factory=list)  # rows over the training
    images: dict[str, tuple[Path, int]] = field(default_factory=dict)  # file and step of each grid, by key
    artifacts: list[Path] = field(default_factory=list)  # files that MLflow keeps unchanged
    status: str = "RUNNING"  # or FINISHED, FAILED, KILLED
    started: float | None = None  # unix seconds, as all times here
    ended: float | None = None  # also the time of the final figures


def experiment_name(settings: TrackingSettings, preset: str) -> str:
    """The experiment that holds the runs of a preset."""
    return settings.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or preset


def metric_name(name: str) -> str:
    """The name under which MLflow keeps a figure: MLflow accepts letters, digits and "_-./: " only, so no "@".

    >>> metric_name("fd@2")
    'fd_at_2'
    """
    return safe_key(re.sub(r"[^A-Za-z0-9_\-./: ]", "_", name.replace("@", "_at_")))


def safe_key(key: str) -> str:
    """The key itself or, where MLflow refuses it, a legible one that no other key has.

    MLflow accepts letters, digits and "_-./: ", at most 250 of them, that are no path to be simplified.

    >>> safe_key("scm.deps.in/Fotos (2024)")
    'scm.deps.in/Fotos _2024_-f07be1e5'
    """
    parts = re.sub(r"[^\w\-./: ]", "_", key).split("/")
    safe = "/".join(part for part in parts if part not in ("", ".", ".."))
    if safe == key and len(key) <= LONGEST_KEY:
        return key
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{safe[: LONGEST_KEY - 9]}-{digest}"
