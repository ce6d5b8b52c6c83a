"""Paths and readers of the figures that stages leave under results/.

The report and MLflow show the same files, so both read them here.
"""

import csv
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scm.base.files import read_json
from scm.base.project import TEACHER
from scm.errors import UserError

SINGLE_STAGES = ("prepare", "encode", "reference", "train_teacher")
"""Stages that run once. `train_student`, `select_ema` and `evaluate` run once for each model."""
METRICS = {
    **{stage: stage for stage in ("prepare", "encode", "reference")},
    **{"select_ema": "select-{}", "evaluate": "evaluate-{}"},
}
CURVES = {"train_teacher": "train-teacher", "train_student": "train-{}", "select_ema": "select-{}"}
"""Names of the stages' metrics and curves; {} stands for the model. Other stages leave none."""
RUN_FIELDS = (
    *("key", "stage", "name", "preset", "seed", "started", "ended", "seconds", "machine"),
    *("commit", "dirty", "params_hash", "params", "chain"),
)


def run_names(models: list[str]) -> list[str]:
    """Names of all run files of a pipeline with these models, in the order of its stages."""
    trained = [f"train_student@{model}" for model in models if model != TEACHER]
    evaluated = [f"{stage}@{model}" for stage in ("select_ema", "evaluate") for model in models]
    return [*SINGLE_STAGES, *trained, *evaluated]


def run_path(root: Path, name: str) -> Path:
    return root / "results" / "runs" / f"{name}.json"


def metrics_path(root: Path, stage: str, item: str | None) -> Path:
    """Metrics file of a stage in METRICS."""
    return root / "results" / "metrics" / f"{METRICS[stage].format(item)}.json"


def curve_path(root: Path, stage: str, item: str | None) -> Path:
    """Curve (CSV) of a stage in CURVES."""
    return root / "results" / "curves" / f"{CURVES[stage].format(item)}.csv"


def progress_path(root: Path, model: str) -> Path:
    """Curve (CSV) of a model's Frechet distance over its training, written by select_ema."""
    return root / "results" / "curves" / f"progress-{model}.csv"


def sample_path(root: Path, model: str, evaluations: int) -> Path:
    """Sample grid of `model` with this number of network evaluations (NFE)."""
    return root / "results" / "samples" / model / f"nfe-{evaluations}.png"


def read_numbers(path: Path) -> dict[str, Any]:
    """Reads a metrics or run file, which must be a JSON object that is not empty."""
    value = read_json(path)
    if not isinstance(value, dict) or not value:
        raise UserError(f"{path} holds no figures: delete it and run `dvc repro`")
    return value


def read_run(path: Path) -> dict[str, Any]:
    """Reads a run file and checks that it is complete."""
    run = read_numbers(path)
    missing = [name for name in RUN_FIELDS if name not in run]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}: delete it and run `dvc repro`")
    return run


def measured_evaluations(metrics: Mapping[str, Any]) -> list[int]:
    """Numbers of network evaluations for which evaluate-<model>.json has figures, fewest first.

    >>> measured_evaluations({"fd@35": 3.8, "fd@2": 5.3, "mparams": 0.09})
    [2, 35]
    """
    return sorted(int(key.removeprefix("fd@")) for key in metrics if key.startswith("fd@"))


def distance_ranges(metrics: Mapping[str, Any], evaluations: int) -> tuple[float, ...]:
    """The distance of each range of seeds: fd_0@N, fd_1@N, ...; empty unless evaluate.repeats > 1."""
    keys = (f"fd_{index}@{evaluations}" for index in itertools.count())
    return tuple(float(metrics[key]) for key in itertools.takewhile(metrics.__contains__, keys))


def read_curve(path: Path) -> list[dict[str, float]]:
    """Reads the rows of a curve, without empty cells and figures that are not finite.

    Raises:
        UserError: if the file is missing, has no rows, or holds text.
    """
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            lines = list(csv.DictReader(handle))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run `dvc repro` first") from None
    if not lines:
        raise UserError(f"{path} has no rows: delete it and run `dvc repro`")
    rows = []
    for number, line in enumerate(lines, start=2):
        row = {}
        for column, text in line.items():
            if column is None or text is None:
                raise UserError(f"{path} line {number} is cut short or too long: delete it and run `dvc repro`")
            try:
                value = float(text) if text else math.nan
            except ValueError:
                raise UserError(f"{path} line {number}: {column} is {text!r}, not a number") from None
            if math.isfinite(value):
                row[column] = value
        rows.append(row)
    return rows
