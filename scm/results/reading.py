"""Paths and readers of the figures that stages leave under results/.

The report and MLflow show the same files, so both read them here. A stage records its figures in its run file; those
of FIRST_SIGHT are in a metrics file as well, which git keeps and DVC's tables show. `read_figures` reads both.
"""

import csv
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from scm.base.documents import DAMAGED_RESULT, MISSING_RESULT, is_there, parse_json, read_json, read_text
from scm.base.forms import Natural, Rule, at_least, require
from scm.base.project import TEACHER
from scm.errors import UserError

SINGLE_STAGES = ("prepare", "encode", "reference", "train_teacher")
"""Stages that run once. `train_student`, `select_ema` and `evaluate` run once for each model."""
METRICS = {
    **{stage: stage for stage in ("prepare", "encode", "reference")},
    **{"select_ema": "select-{}", "evaluate": "evaluate-{}"},
}
CURVES = {"train_teacher": "train-teacher", "train_student": "train-{}", "select_ema": "select-{}"}
"""Names of the stages' metrics and curves; {} stands for the model. Other stages leave none.

Only `evaluate` writes metrics now. Earlier versions wrote all figures there, and none in the run files.
"""
FIRST_SIGHT = ("fd", "precision", "recall", "accuracy")
"""The figures that DVC's tables show, at each number of network evaluations."""
WITHOUT = "fd_without_"
"""Beginning of the columns of a curve by time that lack one block of images, from which a gap's noise follows."""
Parameter = str | int | float | bool | None
Seconds = Annotated[float, at_least(0)]


def _is_moment(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).timestamp() >= 0
    except (ValueError, OverflowError):
        return False


Moment = Annotated[str, Rule(_is_moment, "is not a time (ISO 8601)")]
_FIGURE = re.compile(r"[^@]+(?:@[1-9]\d{0,8})?", re.ASCII)
Figures = Annotated[
    dict[str, float | None],
    Rule(bool, "holds no figures"),
    Rule(lambda figures: all(map(_FIGURE.fullmatch, figures)), "has a name that is not of the form fd or fd@2"),
]
"""Figures; a name ends in "@" and the number of network evaluations if the figure depends on it."""


class NearestPair(TypedDict):
    """A sample by its seed, and how far from its nearest training image it is, in the extractor's features."""

    seed: Natural
    distance: Annotated[float, at_least(0)]


class Nearest(TypedDict):
    """The pairs in a picture of nearest pairs, in order of distance, and up to where they are copies."""

    threshold: Annotated[float, at_least(0)]
    pairs: Annotated[list[NearestPair], Rule(bool, "has no pairs")]


class Run(TypedDict):
    """A run file, which `run_entry` in provenance.py makes."""

    key: str
    stage: str
    item: NotRequired[str | None]
    name: str
    preset: str
    seed: int
    started: Moment
    ended: Moment
    seconds: Seconds
    machine: str
    commit: str
    dirty: bool
    params_hash: str
    params: dict[str, Parameter]
    chain: dict[str, Parameter]
    deps: NotRequired[dict[str, str] | None]
    outs: NotRequired[dict[str, str] | None]
    device: NotRequired[str | None]
    precision: NotRequired[str]
    protocol: NotRequired[str | None]
    health: NotRequired[list[str]]
    given: NotRequired[dict[str, dict[str, str]]]
    figures: NotRequired[Figures]
    nearest: NotRequired[dict[str, Nearest]]


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


def by_time_path(root: Path, model: str) -> Path:
    """Curve (CSV) of the Frechet distance of images that a model brought back from a time, written by select_ema."""
    return root / "results" / "curves" / f"by-time-{model}.csv"


def sample_path(root: Path, model: str, evaluations: int) -> Path:
    """Sample grid of `model` with this number of network evaluations (NFE)."""
    return root / "results" / "samples" / model / f"nfe-{evaluations}.png"


def nearest_path(root: Path, model: str, evaluations: int) -> Path:
    """Picture of the samples of `model` that are nearest to a training image, which `read_nearest` describes."""
    return root / "results" / "samples" / model / f"nearest-{evaluations}.png"


def read_nearest(root: Path, model: str, evaluations: int) -> Nearest:
    """The pairs in the picture of nearest pairs."""
    run_file, old_file = run_path(root, f"evaluate@{model}"), nearest_path(root, model, evaluations)
    known = read_run(run_file).get("nearest")
    if known is None:  # earlier versions had a file beside the picture
        return read_json(old_file.with_suffix(".json"), Nearest)
    if str(evaluations) not in known:
        raise UserError(f"{run_file} lacks nearest.{evaluations}: {DAMAGED_RESULT}")
    return known[str(evaluations)]


def read_figures(root: Path, stage: str, item: str | None, *needed: str, finite: bool = True) -> dict[str, float]:
    """All figures of a finished stage, wherever this version or an earlier one wrote them; null ones are left out.

    Where the run file is missing, as in a checkout of git alone, they are those of the metrics file.

    Args:
        stage: one in METRICS.
        needed: names that must be among the figures.
        finite: False takes NaN, infinity, and null as NaN, so that the gate can refuse them by name.

    Raises:
        UserError: a file is missing or damaged, or the two files are of different evaluations, as after `git checkout`
            without `dvc checkout`.
    """
    run_file = run_path(root, stage if item is None else f"{stage}@{item}")
    run = read_run(run_file) if is_there(run_file) else None
    recorded, metrics_file = run.get("figures") if run else None, metrics_path(root, stage, item)
    if recorded is None:
        figures = read_numbers(metrics_file, *needed, finite=finite)
        alike = run is None or figures != first_sight(figures)  # an earlier version wrote further ones
    else:
        figures = _numbers(recorded, run_file, needed, finite)
        alike = stage != "evaluate" or read_numbers(metrics_file, finite=finite) == first_sight(figures)
    if not alike:
        remedy = "run `dvc checkout` if git has changed the files, else `scm run`"
        raise UserError(f"{metrics_file} and {run_file} are of different evaluations: {remedy}")
    return figures


def read_numbers(metrics_file: Path, *needed: str, finite: bool = True) -> dict[str, float]:
    """The figures in a metrics file, which are under the model's name unless an earlier version wrote them."""
    text = read_text(metrics_file, MISSING_RESULT, DAMAGED_RESULT)
    content = parse_json(text, dict[str, Any], str(metrics_file), DAMAGED_RESULT, finite=finite)
    below = list(content.values())
    figures = below[0] if len(below) == 1 and isinstance(below[0], dict) else content
    form: Any = Figures
    return _numbers(require(figures, form, str(metrics_file), DAMAGED_RESULT), metrics_file, needed, finite)


def _numbers(content: Mapping[str, float | None], path: Path, needed: Sequence[str], finite: bool) -> dict[str, float]:
    if not finite:
        content = {name: math.nan if value is None else value for name, value in content.items()}
    figures = {name: value for name, value in content.items() if value is not None}
    if lacking := [name for name in needed if name not in figures]:
        raise UserError(f"{path} lacks {', '.join(lacking)}: {DAMAGED_RESULT}")
    return figures


def first_sight(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures of FIRST_SIGHT, in the order in which DVC shows them.

    >>> first_sight({"kid@2": 0.1, "recall@2": 0.9, "fd@2": 5.3, "fd@1": 7.6})
    {'fd@1': 7.6, 'fd@2': 5.3, 'recall@2': 0.9}
    """
    names = (f"{name}@{evaluations}" for name in FIRST_SIGHT for evaluations in measured_evaluations(figures))
    return {name: figures[name] for name in names if name in figures}


def read_run(path: Path) -> Run:
    """Reads a run file, which must be complete and that of the stage after which it is named."""
    run = read_json(path, Run)
    item = run.get("item")
    name = run["stage"] + (f"@{item}" if item else "")
    if name != path.stem:
        raise UserError(f"{path} is the run file of {name}: {DAMAGED_RESULT}")
    return run


def measured_evaluations(metrics: Mapping[str, Any]) -> list[int]:
    """Numbers of network evaluations for which evaluate-<model>.json has figures, fewest first.

    >>> measured_evaluations({"fd@35": 3.8, "fd@2": 5.3, "mparams": 0.09})
    [2, 35]
    """
    return sorted(int(key.removeprefix("fd@")) for key in metrics if key.startswith("fd@"))


def distance_ranges(metrics: Mapping[str, Any], evaluations: int, name: str = "fd") -> tuple[float, ...]:
    """The distance `name` of each range of seeds: fd_0@N, fd_1@N, ...; empty unless evaluate.repeats > 1."""
    keys = (f"{name}_{index}@{evaluations}" for index in itertools.count())
    return tuple(float(metrics[key]) for key in itertools.takewhile(metrics.__contains__, keys))


_NUMBER = re.compile(r"[+-]?(?:\d{1,300}(?:\.\d{1,300})?(?:e[+-]?\d{1,3})?|nan|inf)", re.ASCII)
"""A number as Python writes it."""


def read_curve(path: Path, *needed: str) -> list[dict[str, float]]:
    """Reads the rows of a curve, without empty cells and figures that are not finite.

    Args:
        needed: columns in which every row must have a number.

    Raises:
        UserError: the file is missing, damaged or empty, or a cell holds something else than a number.
    """
    text = read_text(path, MISSING_RESULT, DAMAGED_RESULT)
    try:
        reader = csv.DictReader(text.splitlines())
        lines, columns = list(reader), reader.fieldnames or ()
    except csv.Error as error:
        raise UserError(f"{path} is not valid CSV ({error}): {DAMAGED_RESULT}") from None
    if not lines:
        raise UserError(f"{path} has no rows: {DAMAGED_RESULT}")
    if len(set(columns)) < len(columns):
        raise UserError(f"{path} has a column twice: {DAMAGED_RESULT}")
    rows = []
    for number, line in enumerate(lines, start=2):
        row = {}
        for column, text in line.items():
            if column is None or text is None:
                raise UserError(f"{path} line {number} is cut short or too long: {DAMAGED_RESULT}")
            if text and not _NUMBER.fullmatch(text):
                told = f"{column} is {text[:40]!r}, not a number"
                raise UserError(f"{path} line {number}: {told}: {DAMAGED_RESULT}")
            value = float(text or math.nan)
            if math.isfinite(value):
                row[column] = value
        if lacking := [column for column in needed if column not in row]:
            raise UserError(f"{path} line {number} lacks {', '.join(lacking)}: {DAMAGED_RESULT}")
        rows.append(row)
    return rows
