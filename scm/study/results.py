"""What a study shows: figures of its variants' experiments as panels to draw, and as a table."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scm.base.project import TEACHER
from scm.charts.axes import IMAGES, Line
from scm.charts.panels import Bars, Level, Panel, colour
from scm.report.wording import display_name
from scm.results.reading import curve_path, evaluations_of, metrics_path, progress_path, read_curve, read_numbers
from scm.study import experiments
from scm.study.experiments import Experiment
from scm.study.variants import Figure, Study, Variant, number

LABELS = {"fd": "Fréchet distance", "precision": "precision", "recall": "recall"}
Rows = list[dict[str, float]]


@dataclass(frozen=True)
class Outcome:
    """Figures of one variant, by model.

    Attributes:
        variant: the variant.
        experiment: where they come from.
        metrics: of results/metrics/evaluate-<model>.json.
        progress: of results/curves/progress-<model>.csv.
        training: of results/curves/train-<model>.csv.
        current: whether they were made with the present code.
    """

    variant: Variant
    experiment: Experiment
    metrics: dict[str, dict[str, float]]
    progress: dict[str, Rows]
    training: dict[str, Rows]
    current: bool


def outcomes(root: Path, study: Study) -> list[Outcome]:
    """What there is of the study's variants, of each the newest; results of the present code come first."""
    known = experiments.finished(root)
    found = []
    for variant in study.variants:
        candidates = known.get(variant.experiment, [])
        fresh = [entry for entry in candidates if experiments.has_this_code(root, entry)]
        for experiment in (fresh or candidates)[:1]:
            found.append(_read(root, variant, experiment, bool(fresh)))
    return found


def _read(root: Path, variant: Variant, experiment: Experiment, current: bool) -> Outcome:
    with experiments.unpacked(root, experiment) as folder:
        metrics, progress, training = {}, {}, {}
        for model in variant.models:
            metrics[model] = read_numbers(_existing(metrics_path(folder, "evaluate", model)))
            progress[model] = read_curve(progress_path(folder, model))
            if model != TEACHER:
                training[model] = read_curve(_existing(curve_path(folder, "train_student", model)))
        return Outcome(variant, experiment, metrics, progress, training, current)


def _existing(path: Path | None) -> Path:
    assert path is not None
    return path


def panels(study: Study, results: Sequence[Outcome]) -> list[Panel]:
    """What the study's figure shows of these results."""
    draw = {"terms": _terms, "progress": _progress, "versus": _versus, "bars": _bars}[study.figure.kind]
    return list(draw(study, results))


def _colour_of(study: Study, outcome: Outcome) -> str:
    """The same one for a variant whatever else is missing."""
    return colour(study.variants.index(outcome.variant))


def _terms(study: Study, results: Sequence[Outcome]) -> Iterator[Panel]:
    """Norms of both terms of the tangent over t, mean over the last half of the training."""
    for model in study.figure.models:
        for term, meaning in ((1, "first term of the tangent"), (2, "second term, with dF/dt")):
            lines = []
            for outcome in results:
                rows = outcome.training.get(model, [])
                points = dict(_binned(rows, f"tangent_term{term}/"))
                label = outcome.variant.name if term == 1 else ""
                lines.append(Line(list(points), list(points.values()), _colour_of(study, outcome), label, points=True))
            yield Panel(f"{display_name(model)}: {meaning}", "t, radians", "norm", lines, logarithmic=True)


def _binned(rows: Rows, prefix: str) -> Iterator[tuple[float, float]]:
    """Centre of a bin of t, and the mean of its figures over the last half."""
    from scm.training.health import BINS

    last = [row for row in rows if row["images"] > rows[-1]["images"] / 2]
    for index in range(BINS):
        figures = [row[f"{prefix}{index}"] for row in last if f"{prefix}{index}" in row]
        if figures:
            yield (index + 0.5) * math.pi / 2 / BINS, sum(figures) / len(figures)


def _progress(study: Study, results: Sequence[Outcome]) -> Iterator[Panel]:
    """Frechet distance over the training, a panel for each number of steps."""
    for model in study.figure.models:
        rows_of = [(outcome, outcome.progress[model]) for outcome in results if model in outcome.progress]
        shown = set()
        two_steps = any("fd_1step" in row for _, rows in rows_of for row in rows)
        for column, steps in (("fd_1step", "1 step"), ("fd", "2 steps" if two_steps else "")):
            lines = []
            for outcome, rows in rows_of:
                points = [(row["images"], row[column]) for row in rows if column in row]
                if points:
                    name = outcome.variant.name
                    x, y = zip(*points, strict=True)
                    lines.append(Line(x, y, _colour_of(study, outcome), "" if name in shown else name, points=True))
                    shown.add(name)
            if lines:
                title = f"{display_name(model)}, {steps}" if steps else display_name(model)
                yield Panel(title, IMAGES, LABELS["fd"], lines, logarithmic=True)


def _versus(study: Study, results: Sequence[Outcome]) -> Iterator[Panel]:
    """Figures over a number in which the variants differ, a line for each model and number of evaluations."""
    figure, reference = study.figure, study.figure.reference
    placed = [(number(o.variant, figure.x or ""), o) for o in results]
    placed = [(x, o) for x, o in placed if x is not None and not (reference and o.variant.name == reference.variant)]
    for order, name in enumerate(figure.figures):
        lines: list[Line] = []
        levels: list[Level] = []
        for label, points in _series(figure, name, placed):
            x, y = zip(*sorted(points), strict=True)
            lines.append(Line(x, y, colour(len(lines)), "" if order else label, points=True))
        for outcome in results:
            if reference and outcome.variant.name == reference.variant:
                metrics = outcome.metrics[reference.model]
                for evaluations in _drawn(figure, [metrics]):
                    label = f"{reference.variant}, {_steps(evaluations)}" if not order else ""
                    levels.append(Level(metrics[f"{name}@{evaluations}"], colour(len(levels)), label))
        yield Panel(
            LABELS[name], figure.x_label or figure.x or "", LABELS[name], lines, levels=levels,
            logarithmic=name == "fd", ticks=sorted({x for x, _ in placed}),
        )  # fmt: skip


def _series(
    figure: Figure, name: str, placed: Sequence[tuple[float, Outcome]]
) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """Label and points of each line: a teacher with its full sampler, a student for each number of evaluations."""
    for model in figure.models:
        found = [(x, outcome.metrics[model]) for x, outcome in placed if model in outcome.metrics]
        if model == TEACHER and found:  # guided, it takes twice as many
            yield display_name(model), [(x, figures[f"{name}@{evaluations_of(figures)[-1]}"]) for x, figures in found]
            continue
        for evaluations in _drawn(figure, [figures for _, figures in found]):
            key = f"{name}@{evaluations}"
            yield _of_steps(model, evaluations), [(x, figures[key]) for x, figures in found if key in figures]


def _bars(study: Study, results: Sequence[Outcome]) -> Iterator[Panel]:
    """Frechet distance of each variant, a bar for each model and number of evaluations."""
    bars: list[Bars] = []
    for model in study.figure.models:
        all_metrics = [outcome.metrics.get(model, {}) for outcome in results]
        for evaluations in _drawn(study.figure, all_metrics, most_only=model == TEACHER):
            heights = [metrics.get(f"fd@{evaluations}", math.nan) for metrics in all_metrics]
            bars.append(Bars(heights, colour(len(bars)), _of_steps(model, evaluations)))
    yield Panel(study.title, "", LABELS["fd"], bars=bars, groups=[outcome.variant.name for outcome in results])


def _drawn(figure: Figure, metrics: Sequence[dict[str, float]], most_only: bool = False) -> list[int]:
    """Numbers of network evaluations that are drawn, fewest first."""
    counts = sorted({count for figures in metrics for count in evaluations_of(figures)})
    if most_only:
        return counts[-1:]
    return [count for count in counts if figure.evaluations is None or count in figure.evaluations]


def _steps(evaluations: int) -> str:
    return f"{evaluations} evaluation{'s' if evaluations > 1 else ''}"


def _of_steps(model: str, evaluations: int) -> str:
    return f"{display_name(model)}, {_steps(evaluations)}"


def page(study: Study, results: Sequence[Outcome], missing: Sequence[str]) -> str:
    """The study in Markdown: picture, what the paper found, table, what is missing, and the command."""
    lines = [f"# {study.title}", "", f"![{study.title}]({study.name}.svg)", "", f"The paper: {study.paper}", ""]
    lines += ["| variant | model | evaluations | FD | precision | recall |", "|---|---|---:|---:|---:|---:|"]
    lines += [f"| {' | '.join(cells)} |" for cells in _table(study, results)]
    older = [outcome.variant.name for outcome in results if not outcome.current]
    if missing:
        lines += ["", f"Missing: {', '.join(missing)}."]
    if older:
        lines += ["", f"Measured with other code than the present one: {', '.join(older)}."]
    preset = study.variants[0].values["preset"]
    return "\n".join([*lines, "", f"Parameters: preset {preset}. Command: `scm study {study.name}`.", ""])


def _table(study: Study, results: Sequence[Outcome]) -> Iterator[list[str]]:
    """A row for each variant, model and number of evaluations."""
    reference = study.figure.reference
    shown = [*study.figure.models, *([reference.model] if reference else [])]
    for outcome in results:
        for model in dict.fromkeys(shown):
            metrics = outcome.metrics.get(model, {})
            for count in evaluations_of(metrics):
                figures = [metrics.get(f"{name}@{count}") for name in LABELS]
                cells = ["" if figure is None else f"{figure:.3f}" for figure in figures]
                yield [outcome.variant.name, display_name(model), str(count), *cells]
