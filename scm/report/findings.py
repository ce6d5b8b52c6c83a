"""The findings of a run, read from results/: figures, curves, choices, run files.

page.py and markdown.py show them. The models are those that params.yaml names, never those of the files in results/:
a method that was switched off leaves its old files behind.
"""

from dataclasses import dataclass
from pathlib import Path

from scm.base.documents import DAMAGED_RESULT
from scm.base.project import TEACHER
from scm.errors import UserError
from scm.params.project import Project
from scm.report import data as report_data
from scm.report.wording import DISTANCES, FEATURES, FIGURES, display_name, number, sampler_name
from scm.results import reading
from scm.results.reading import (
    by_time_path,
    measured_evaluations,
    metrics_path,
    progress_path,
    read_curve,
    read_figures,
    read_run,
    run_path,
)

DRAWN = ("Training images", "drawn at random", "–")
"""First cells of a row of floors: as many draws with replacement from the training images as there are samples."""


@dataclass(frozen=True)
class Unseen:
    """Figures against the held-out images.

    Attributes:
        distance: Fréchet distance to them.
        precision: fraction of samples that lie in their manifold.
        recall: fraction of them that lie in the samples' manifold.
        copies: fraction of samples as near to a training image as only few held-out images are.
    """

    distance: float
    precision: float
    recall: float
    copies: float


@dataclass(frozen=True)
class Floors:
    """The figures of as many draws from the training images as there are samples.

    Attributes:
        distance: their Fréchet distance to all training images.
        unseen: the same draws against the held-out images; None if there are none.
        copies: fraction of the held-out images that count as copies; None as above.
    """

    distance: float
    unseen: Unseen | None
    copies: float | None


@dataclass(frozen=True)
class Row:
    """One line of the table: a model at one number of network evaluations.

    Attributes:
        model: its key, e.g. "scd".
        sampler: how it was sampled.
        evaluations: network evaluations per sample (NFE).
        distance: Fréchet distance to the real images; the smallest of `ranges`.
        unbiased: the same extrapolated to infinitely many samples; None if there were too few.
        error: standard error of the distance for other samples of the same model; None in older results.
        ranges: the distance of each range of seeds; empty if there is only one.
        ratio: `distance` over the teacher's best.
        kernel_distance: KID to the real images; the estimate is unbiased and can fall below 0.
        compute: millions of parameters times `evaluations`.
        precision: fraction of samples that lie in the real images' manifold.
        recall: fraction of real images that lie in the samples' manifold.
        accuracy: fraction of samples in which the classifier sees the requested class; None without classes.
        unseen: figures against the held-out images; None if there are none.
        nearest: distances of the nearest pairs; None as above.
    """

    model: str
    sampler: str
    evaluations: int
    distance: float
    unbiased: float | None
    error: float | None
    ranges: tuple[float, ...]
    ratio: float
    kernel_distance: float
    compute: float
    precision: float
    recall: float
    accuracy: float | None
    unseen: Unseen | None
    nearest: reading.Nearest | None

    @property
    def name(self) -> str:
        return display_name(self.model)

    @property
    def title(self) -> str:
        """Name and evaluations, as sentences begin: "sCD in 2 evaluations"."""
        return f"{self.name} in {self.evaluations} evaluation{'s' if self.evaluations > 1 else ''}"


@dataclass(frozen=True)
class Findings:
    """Everything that the report shows.

    Attributes:
        models: in the order in which the report shows them.
        rows: the table.
        data: what prepare counted.
        floors: what the figures fall to at best.
        extractor: `reference.extractor`.
        held_out_accuracy: accuracy of the pipeline's own classifier on held-out images; None for other extractors.
        training: each model's training curve.
        selection: each model's candidates for the weight average, with their distances.
        choices: each model's chosen candidate.
        progress: each model's distance at several points of its training.
        by_time: each model's distance of real images that it brought back from t, from the floor at t = 0 on.
        runs: run files, in the order of the stages.
    """

    root: Path
    preset: str
    models: list[str]
    rows: list[Row]
    data: report_data.Summary
    floors: Floors
    extractor: str
    held_out_accuracy: float | None
    training: dict[str, list[dict[str, float]]]
    selection: dict[str, list[dict[str, float]]]
    choices: dict[str, dict[str, float]]
    progress: dict[str, list[dict[str, float]]]
    by_time: dict[str, list[dict[str, float]]]
    runs: list[reading.Run]

    @property
    def distance(self) -> str:
        """Name of the Fréchet distance in the extractor's features: FID, FD-DINOv2 or FD."""
        return DISTANCES.get(self.extractor, "FD")

    @property
    def head(self) -> tuple[str, ...]:
        """Column names of the table, one for each of `row_cells`."""
        sizes = (self.distance, f"{self.distance}∞", "× teacher", "KID", "M params × NFE")
        return ("Model", "Sampler", "NFE", *sizes, "Precision", "Recall", "Accuracy")

    @property
    def unseen_head(self) -> tuple[str, ...]:
        """Column names of the table of figures against held-out images, one for each of `unseen_rows`' cells."""
        return ("Model", "Sampler", "NFE", self.distance, "Precision", "Recall", "Copies")

    @property
    def best_teacher(self) -> Row:
        return max((row for row in self.rows if row.model == TEACHER), key=lambda row: row.evaluations)

    @property
    def leading_row(self) -> Row | None:
        """The student's row of smallest distance, of equal ones that of fewer evaluations; None without students."""
        students = [row for row in self.rows if row.model != TEACHER]
        return min(students, key=lambda row: (row.distance, row.evaluations), default=None)


def collect(project: Project) -> Findings:
    """Reads everything that the report shows.

    Raises:
        UserError: a file or a figure of a model in evaluate.models is missing, or evaluate.models lacks the teacher.
    """
    root, models = project.root, list(project.params.evaluate.models)
    reference_run = run_path(root, "reference")
    extractor = read_run(reference_run)["params"].get("reference.extractor")
    if not isinstance(extractor, str):
        raise UserError(f"{reference_run}: params lacks reference.extractor: {DAMAGED_RESULT}")
    training_of = {model: "train_teacher" if model == TEACHER else "train_student" for model in models}
    name = "held_out_accuracy"
    accuracy = read_figures(root, "reference", None, name)[name] if extractor == "classifier" else None
    return Findings(
        root=root,
        preset=project.params.preset,
        models=models,
        rows=_rows(root, models),
        data=report_data.read(root),
        floors=_floors(root, models),
        extractor=extractor,
        held_out_accuracy=accuracy,
        training={model: read_curve(reading.curve_path(root, training_of[model], model), "images") for model in models},
        selection={model: read_curve(reading.curve_path(root, "select_ema", model)) for model in models},
        choices={model: read_figures(root, "select_ema", model, "fd") for model in models},
        progress={model: read_curve(progress_path(root, model), "images", "fd") for model in models},
        by_time={model: read_curve(by_time_path(root, model), "t", "fd") for model in models},
        runs=[read_run(run_path(root, name)) for name in reading.run_names(models)],
    )


def row_cells(row: Row) -> tuple[str, ...]:
    """A row of the table as text, one cell for each column of `Findings.head`: two of words, then figures."""
    accuracy = "–" if row.accuracy is None else f"{row.accuracy:.1%}"
    shares = (f"{row.precision:.3f}", f"{row.recall:.3f}", accuracy)
    each = f" ({', '.join(map(number, row.ranges))})" if row.ranges else ""
    unbiased = "–" if row.unbiased is None else number(row.unbiased)
    sizes = (number(row.ratio), number(row.kernel_distance), number(row.compute))
    distances = (number(row.distance) + each, unbiased)
    return (row.name, row.sampler, str(row.evaluations), *distances, *sizes, *shares)


def floor_cells(findings: Findings) -> tuple[str, ...]:
    """The last row of the table: as many training images, drawn at random."""
    known = {findings.distance: number(findings.floors.distance), f"{findings.distance}∞": "0", "KID": "0"}
    return DRAWN + tuple(known.get(name, "–") for name in findings.head[len(DRAWN) :])


def explained(findings: Findings) -> list[tuple[str, str, str]]:
    """The table's figures: the name of each, what it means, and what is good."""
    real, copies = findings.held_out_accuracy, findings.floors.copies
    known = {
        "distance": findings.distance,
        "features": FEATURES.get(findings.extractor, "the extractor"),
        "accuracy": "" if real is None else f"{real:.1%}, as on real images that the classifier did not see",
        "copies": "" if copies is None else f"{copies:.1%}, the share of the held-out images themselves",
    }
    return [
        (name.format(**known), meaning.format(**known), good.format(**known))
        for name, meaning, good in FIGURES
        if (name, real) != ("Accuracy", None) and (name, copies) != ("Copies", None)
    ]


def unseen_rows(findings: Findings) -> list[tuple[str, ...]]:
    """The table of figures against held-out images, whose last rows are its floors; empty if there are none."""
    floors = findings.floors
    if floors.unseen is None or floors.copies is None:
        return []
    models = [
        (row.name, row.sampler, str(row.evaluations), *_unseen_cells(row.unseen)) for row in findings.rows if row.unseen
    ]
    held_out = ("Held-out images", "all", "–", "–", "–", "–", f"{floors.copies:.1%}")
    return [*models, (*DRAWN, *_unseen_cells(floors.unseen)), held_out]


def _unseen_cells(unseen: Unseen) -> tuple[str, ...]:
    return number(unseen.distance), f"{unseen.precision:.3f}", f"{unseen.recall:.3f}", f"{unseen.copies:.1%}"


def pairs_caption(row: Row) -> str:
    """What the picture of a row's nearest pairs shows, in words; empty if there is none."""
    if row.nearest is None:
        return ""
    distances = [pair["distance"] for pair in row.nearest["pairs"]]
    span = f"{number(distances[0])} to {number(distances[-1])}"
    return f"{len(distances)} pairs, distances {span}; copies have at most {number(row.nearest['threshold'])}"


def health_of(findings: Findings, model: str) -> list[str]:
    """Warnings that the training of this model recorded."""
    own = [run for run in findings.runs if (run.get("item") or TEACHER) == model]
    return [line for run in own for line in run.get("health", ())]


def health_lines(findings: Findings) -> list[str]:
    """Warnings that the trainings recorded, or one line that says that there were none.

    Empty if no training was diagnosed, as with imported models.
    """
    lines = [f"{display_name(model)}: {text}." for model in findings.models for text in health_of(findings, model)]
    diagnosed = any("health" in run for run in findings.runs)
    return lines or (["Nothing unusual was found in any training."] if diagnosed else [])


def _rows(root: Path, models: list[str]) -> list[Row]:
    """The table: models in the order of evaluate.models, each from its most evaluations to its fewest."""
    # Every ratio is one to the teacher's best distance, the one of its most evaluations.
    files = {model: metrics_path(root, "evaluate", model) for model in models}
    metrics = {model: read_figures(root, "evaluate", model) for model in models}
    if TEACHER not in models:
        raise UserError("evaluate.models does not name the teacher, which the report compares with: add it")
    most = max(measured_evaluations(metrics[TEACHER]), default=0)
    best = _figure(metrics[TEACHER], f"fd@{most}", files[TEACHER])

    # A model with a figure or a picture missing is an error: nobody would notice the gap in a table.
    rows = []
    for model in models:
        path, figures = files[model], metrics[model]
        size = _figure(figures, "mparams", path)
        for evaluations in reversed(measured_evaluations(figures)):
            if not reading.sample_path(root, model, evaluations).is_file():
                raise UserError(f"{reading.sample_path(root, model, evaluations)} is missing: run `scm run` first")
            distance = _figure(figures, f"fd@{evaluations}", path)
            unseen = _unseen(figures, path, f"@{evaluations}")
            rows.append(
                Row(
                    model=model,
                    sampler=_sampler(model, evaluations == most, figures.get(f"guidance@{evaluations}")),
                    evaluations=evaluations,
                    distance=distance,
                    unbiased=figures.get(f"fd_inf@{evaluations}"),
                    error=figures.get(f"fd_se@{evaluations}"),
                    ranges=reading.distance_ranges(figures, evaluations),
                    ratio=distance / best,
                    kernel_distance=_figure(figures, f"kid@{evaluations}", path),
                    compute=size * evaluations,
                    precision=_figure(figures, f"precision@{evaluations}", path),
                    recall=_figure(figures, f"recall@{evaluations}", path),
                    accuracy=figures.get(f"accuracy@{evaluations}"),
                    unseen=unseen,
                    nearest=None if unseen is None else reading.read_nearest(root, model, evaluations),
                )
            )
        if not any(row.model == model for row in rows):
            raise UserError(f"{path} has no figure 'fd@<evaluations>': delete it and run `scm run`")
    return rows


def _floors(root: Path, models: list[str]) -> Floors:
    """The floors, which are the same for all models, as their samples are equally many."""
    path = metrics_path(root, "evaluate", models[0])
    figures = read_figures(root, "evaluate", models[0])
    unseen = _unseen(figures, path, "_floor")
    return Floors(_figure(figures, "fd_floor", path), unseen, figures.get("copies_expected"))


def _unseen(figures: dict[str, float], path: Path, end: str) -> Unseen | None:
    """The figures whose names have this end, if images are held out. Draws from the training images are all copies."""
    if "copies_expected" not in figures:
        return None
    copies = 1.0 if end == "_floor" else _figure(figures, f"copies{end}", path)
    names = ("fd_held_out", "precision_held_out", "recall_held_out")
    distance, precision, recall = (_figure(figures, f"{name}{end}", path) for name in names)
    return Unseen(distance, precision, recall, copies)


def _sampler(model: str, full: bool, guidance: float | None) -> str:
    """Name of the sampler that drew a row's samples: with `full`, the teacher's own, not its few-step one."""
    name = ("Heun" if full else "DDIM") if model == TEACHER else sampler_name(model)
    return name if guidance is None else f"{name}, guidance {guidance:g}"


def _figure(metrics: dict[str, float], key: str, path: Path) -> float:
    if key not in metrics:
        raise UserError(f"{path} has no figure {key!r}: run `scm run`")
    return float(metrics[key])
