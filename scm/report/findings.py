"""results/ -> one page: what came out, how it looks, how the training went, and what exactly was run.

The page iterates over the models that params.yaml names, never over the files that happen to be there, since a smaller
list of methods leaves old files behind. It needs nothing but itself: pictures and curves stand in the file.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scm.errors import UserError
from scm.report import data as report_data
from scm.report.wording import DISTANCES, display_name, number
from scm.results.reading import (
    curve_path,
    evaluations_of,
    metrics_path,
    read_curve,
    read_numbers,
    read_run,
    run_names,
    run_path,
    sample_path,
)

HEAD = (
    "Model",
    "Sampler",
    "NFE",
    "FD",
    "× teacher",
    "KID",
    "M params × NFE",
    "Precision",
    "Recall",
    "Accuracy",
    "Images/s",
)
"""Columns of the table, see `row_cells`; FD by its name of `DISTANCES`."""


@dataclass(frozen=True)
class Row:
    """One line of the table: a model with a number of network evaluations.

    Attributes:
        model: its key, e.g. "scd".
        sampler: how it was sampled.
        evaluations: network evaluations a sample (NFE).
        distance: Frechet distance to the real images; the smallest of `ranges`.
        ranges: the distance of each range of seeds, where there are several.
        ratio: `distance` over the teacher's best.
        kernel_distance: KID to the real images; the unbiased estimate may be below 0.
        compute: parameters in millions times `evaluations`.
        precision: fraction of samples within the real images' manifold.
        recall: fraction of real images within the samples' manifold.
        accuracy: fraction of samples that the classifier gives the asked class; None without classes.
        speed: images a second.
    """

    model: str
    sampler: str
    evaluations: int
    distance: float
    ranges: tuple[float, ...]
    ratio: float
    kernel_distance: float
    compute: float
    precision: float
    recall: float
    accuracy: float | None
    speed: float

    @property
    def name(self) -> str:
        return display_name(self.model)


@dataclass(frozen=True)
class Findings:
    """Everything that the page shows, read from results/.

    Attributes:
        root: the project's folder.
        preset: label of the preset.
        models: models in the page's order.
        rows: the table.
        data: what prepare counted.
        floor: Frechet distance between two halves of the real images.
        extractor: `reference.extractor`.
        held_out_accuracy: of the pipeline's own extractor on images that it was not trained on; None of others.
        training: curve of each model's training.
        selection: curve of each model's choice of the average's length.
        choices: what was chosen for each model.
        runs: run files, in the order of the stages.
    """

    root: Path
    preset: str
    models: list[str]
    rows: list[Row]
    data: dict[str, Any]
    floor: float
    extractor: str
    held_out_accuracy: float | None
    training: dict[str, list[dict[str, float]]]
    selection: dict[str, list[dict[str, float]]]
    choices: dict[str, dict[str, float]]
    runs: list[dict[str, Any]]

    @property
    def distance(self) -> str:
        """What the Fréchet distance is called."""
        return DISTANCES.get(self.extractor, "FD")

    @property
    def head(self) -> tuple[str, ...]:
        """Columns of the table."""
        return tuple(self.distance if name == "FD" else name for name in HEAD)

    @property
    def best_teacher(self) -> Row:
        return max((row for row in self.rows if row.model == "teacher"), key=lambda row: row.evaluations)

    @property
    def headline_row(self) -> Row | None:
        """Two-step sCD, else the first student's row with the most evaluations; None without students."""
        students = [row for row in self.rows if row.model != "teacher"]
        wanted = [row for row in students if (row.model, row.evaluations) == ("scd", 2)]
        first = [row for row in students if row.model == students[0].model]
        return wanted[0] if wanted else max(first, key=lambda row: row.evaluations, default=None)


def collect(root: Path, params: Any) -> Findings:
    """Reads all that the page shows."""
    models = list(params.evaluate.models)
    reference_file = _path(metrics_path(root, "reference", None))
    reference = read_numbers(reference_file)
    extractor = str(read_run(run_path(root, "reference"))["params"]["reference.extractor"])
    own = extractor == "classifier"
    training_of = {model: "train_teacher" if model == "teacher" else "train_student" for model in models}
    return Findings(
        root=root,
        preset=params.preset,
        models=models,
        rows=_rows(root, models),
        data=report_data.read(root),
        floor=_figure(reference, "fd_floor", reference_file),
        extractor=extractor,
        held_out_accuracy=_figure(reference, "held_out_accuracy", reference_file) if own else None,
        training={model: read_curve(_path(curve_path(root, training_of[model], model))) for model in models},
        selection={model: read_curve(_path(curve_path(root, "select_ema", model))) for model in models},
        choices={model: read_numbers(_path(metrics_path(root, "select_ema", model))) for model in models},
        runs=[read_run(run_path(root, name)) for name in run_names(models)],
    )


def headline(findings: Findings) -> str:
    """One sentence: the two-step student beside the teacher."""
    teacher, row = findings.best_teacher, findings.headline_row
    distance = {"FD": "a Fréchet distance"}.get(findings.distance, f"an {findings.distance}")
    best = f"the teacher's {number(teacher.distance)} in {teacher.evaluations}"
    if row is None:
        return f"The teacher has {distance} of {number(teacher.distance)} in {teacher.evaluations} evaluations."
    steps = "evaluation" if row.evaluations == 1 else "evaluations"
    return (
        f"{row.name} reaches {distance} of {number(row.distance)} in {row.evaluations} network {steps}, beside "
        f"{best}: {number(row.ratio)} × the distance with {number(teacher.evaluations / row.evaluations)} × fewer "
        "evaluations."
    )


def row_cells(row: Row) -> tuple[str, ...]:
    """A row of the table as text, a cell for each of `HEAD`; the first two are words, the others figures."""
    accuracy = "–" if row.accuracy is None else f"{row.accuracy:.1%}"
    shares = (f"{row.precision:.3f}", f"{row.recall:.3f}", accuracy)
    each = f" ({', '.join(map(number, row.ranges))})" if row.ranges else ""
    sizes = (number(row.distance) + each, number(row.ratio), number(row.kernel_distance), number(row.compute))
    return (row.name, row.sampler, str(row.evaluations), *sizes, *shares, number(row.speed))


def health_lines(findings: Findings) -> list[str]:
    """What the trainings found wrong with themselves, or one line that says that they found nothing."""
    runs = [run for run in findings.runs if "health" in run]
    lines = [f"{display_name(run['item'] or 'teacher')}: {text}." for run in runs for text in run["health"]]
    return lines or (["Nothing unusual was found in any training."] if runs else [])


def _rows(root: Path, models: list[str]) -> list[Row]:
    """The table: the teacher's best first, every model by falling number of evaluations."""
    files = {model: _path(metrics_path(root, "evaluate", model)) for model in models}
    metrics = {model: read_numbers(path) for model, path in files.items()}
    if "teacher" not in models:
        raise UserError("evaluate.models does not name the teacher, which the report compares with: add it")
    most = max(evaluations_of(metrics["teacher"]), default=0)
    best = _figure(metrics["teacher"], f"fd@{most}", files["teacher"])
    rows = []
    for model in models:
        path, figures = files[model], metrics[model]
        size = _figure(figures, "mparams", path)
        for evaluations in reversed(evaluations_of(figures)):
            if not sample_path(root, model, evaluations).is_file():
                raise UserError(f"{sample_path(root, model, evaluations)} is missing: run `dvc repro` first")
            distance = _figure(figures, f"fd@{evaluations}", path)
            rows.append(
                Row(
                    model=model,
                    sampler=_sampler(model, evaluations == most, figures.get("guidance")),
                    evaluations=evaluations,
                    distance=distance,
                    ranges=_ranges(figures, evaluations),
                    ratio=distance / best,
                    kernel_distance=_figure(figures, f"kid@{evaluations}", path),
                    compute=size * evaluations,
                    precision=_figure(figures, f"precision@{evaluations}", path),
                    recall=_figure(figures, f"recall@{evaluations}", path),
                    accuracy=figures.get(f"accuracy@{evaluations}"),
                    speed=_figure(figures, f"images_per_second@{evaluations}", path),
                )
            )
        if not any(row.model == model for row in rows):
            raise UserError(f"{path} has no figure 'fd@<evaluations>': delete it and run `dvc repro`")
    return rows


def _sampler(model: str, full: bool, guidance: float | None) -> str:
    """How a model was sampled; `full`: with as many evaluations as the teacher's own sampler."""
    if model == "teacher":
        name = "Heun" if full else "DDIM"
    else:
        name = "multistep" if model == "multistep" else "consistency"
    return name if guidance is None else f"{name}, guidance {guidance:g}"


def _ranges(figures: dict[str, Any], evaluations: int) -> tuple[float, ...]:
    """The distance of each range of seeds, as evaluate.repeats > 1 leaves them."""
    keys = (f"fd_{index}@{evaluations}" for index in itertools.count())
    return tuple(float(figures[key]) for key in itertools.takewhile(figures.__contains__, keys))


def _figure(metrics: dict[str, Any], key: str, path: Path) -> float:
    if not isinstance(metrics.get(key), int | float):
        raise UserError(f"{path} has no figure {key!r}: run `dvc repro`")
    return float(metrics[key])


def _path(path: Path | None) -> Path:
    """The stages that are asked here all have the file; the type does not know."""
    assert path is not None
    return path
