"""What MLflow shows of a run: plain values, which a stage fills in without importing mlflow."""

import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scm.base.count import Count
from scm.params.project import TrackingSettings

LONGEST_KEY = 250
"""Characters that MLflow accepts in the key of a tag, parameter or metric."""
DISTANCE = "fd_at_"
"""Beginning of the names under which MLflow keeps the Frechet distances."""


@dataclass(frozen=True)
class ImageSet:
    """The prepared images that a run follows from."""

    name: str  # e.g. "digits"
    digest: str  # of the shards
    place: str  # where the images came from, e.g. "data/raw"
    use: str  # "training" or "evaluation"


@dataclass
class RunRecord:
    """All that MLflow shows of one run. Each row of `series` has "images" (the step), "time" and figures."""

    key: str  # fingerprint of the stage; two records with the same key describe the same run
    name: str  # e.g. "train_student@scd · digits · 29212f2"
    stage: str  # e.g. "train_student"
    item: str | None = None  # matrix item, e.g. "scd"
    params: dict[str, Any] = field(default_factory=dict)  # flat
    tags: dict[str, str] = field(default_factory=dict)  # searchable text
    metrics: dict[str, float] = field(default_factory=dict)  # final figures
    series: list[dict[str, float]] = field(default_factory=list)  # rows over the training
    images: dict[str, tuple[Path, int]] = field(default_factory=dict)  # file and step of each grid, by key
    artifacts: list[Path] = field(default_factory=list)  # files that MLflow keeps unchanged
    images_of: ImageSet | None = None  # what the Dataset column shows
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


def figure_name(name: str) -> str:
    """The name of an evaluation's figure: what would stand before the distances goes into the group "more".

    MLflow's page of compared runs sorts figures by name, and draws the first one.

    >>> figure_name("fd@2"), figure_name("kid@2"), figure_name("accuracy@2"), figure_name("fd_0@2")
    ('fd@2', 'kid@2', 'more/accuracy@2', 'more/fd_0@2')
    """
    return name if metric_name(name) >= DISTANCE else f"more/{name}"


def plain_count(value: Any) -> Any:
    """A count with a binary suffix as a number, and any other value itself.

    >>> plain_count("8Ki"), plain_count("cosine"), plain_count(0.5)
    (8192, 'cosine', 0.5)
    """
    try:
        return int(Count(value)) if isinstance(value, str) else value
    except ValueError:
        return value


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
