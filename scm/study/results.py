"""Panels to draw and a page with a table, from the experiments of a study's variants."""

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scm.base.project import TEACHER
from scm.base.tables import escape, markdown_table
from scm.charts.axes import IMAGES, Line, places
from scm.charts.panels import Bars, Level, Panel, colour
from scm.report.wording import display_name
from scm.results.reading import curve_path, measured_evaluations, progress_path, read_curve, read_figures
from scm.study import experiments
from scm.study.experiments import Experiment
from scm.study.variants import MOST, Figure, Study, Variant, number, value_of

LABELS = {"fd": "Fréchet distance", "precision": "precision", "recall": "recall"}
MEANS = {"fd": "FD", "ratio": "× teacher", "precision": "precision", "recall": "recall", "accuracy": "accuracy",
    "fd_held_out": "FD, held out", "copies": "copies"}  # fmt: skip
FLOORS = {"fd_floor": "as many draws from the training images have FD", "fd_held_out_floor": "from held-out images",
    "copies_expected": "and of held-out images are copies"}  # fmt: skip
OF_TEACHER = {"path_term": "change of f by the path, ∇ₓf · dx/dt", "time_term": "change of f by the time, ∂f/∂t"}
OF_STUDENT = {"tangent_term1": "first term of the tangent", "tangent_term2": "second term, with dF/dt"}
Rows = list[dict[str, float]]


@dataclass(frozen=True)
class VariantResult:
    """Figures of one variant, by model.

    Attributes:
        experiment: the experiment that the figures come from.
        metrics: figures of results/metrics/evaluate-<model>.json.
        progress: rows of results/curves/progress-<model>.csv.
        training: rows of results/curves/train-<model>.csv.
        current: True if the present code made them.
    """

    variant: Variant
    experiment: Experiment
    metrics: dict[str, dict[str, float]]
    progress: dict[str, Rows]
    training: dict[str, Rows]
    current: bool


def variant_results(root: Path, study: Study) -> list[VariantResult]:
    """Figures of all variants that have finished: for each the newest, preferably made with the present code."""
    known = experiments.finished(root)
    found = []
    for variant in study.variants:
        candidates = known.get(variant.experiment, [])
        fresh = [entry for entry in candidates if experiments.has_this_code(root, entry)]
        for experiment in (fresh or candidates)[:1]:
            found.append(_read(root, variant, experiment, bool(fresh)))
    return found


def _read(root: Path, variant: Variant, experiment: Experiment, current: bool) -> VariantResult:
    with experiments.unpacked(root, experiment.revision) as folder:
        metrics, progress, training = {}, {}, {}
        for model in variant.models:
            metrics[model] = read_figures(folder, "evaluate", model)
            progress[model] = read_curve(progress_path(folder, model), "images")
            stage = "train_teacher" if model == TEACHER else "train_student"
            training[model] = read_curve(curve_path(folder, stage, model), "images")
        return VariantResult(variant, experiment, metrics, progress, training, current)


def panels(study: Study, results: Sequence[VariantResult]) -> list[Panel]:
    """Panels of the study's figure."""
    draw = {"terms": _terms, "progress": _progress, "versus": _versus, "bars": _bars}[study.figure.kind]
    return list(draw(study, results))


def _colour_of(study: Study, result: VariantResult) -> str:
    """The variant's colour, whichever other variants are missing."""
    return colour(study.variants.index(result.variant))


def _terms(study: Study, results: Sequence[VariantResult]) -> Iterator[Panel]:
    """Norms over t, averaged over the last half of the training: of both terms of a student's tangent, or of df/dt."""
    shown = set[str]()
    for model in study.figure.models:
        terms = OF_TEACHER if model == TEACHER else OF_STUDENT
        for term, meaning in terms.items():
            lines = []
            for result in results:
                points, name = _binned(result.training.get(model, []), f"{term}/"), result.variant.name
                label = "" if name in shown else name
                shown.add(name)
                lines.append(Line.through(points, _colour_of(study, result), label, points=True))
            yield Panel(f"{display_name(model)}: {meaning}", "t, radians", "norm", lines, logarithmic=True)


def _binned(rows: Rows, prefix: str) -> Iterator[tuple[float, float]]:
    """Yields the centre of each bin of t, and the mean of its figures over the last half of the training."""
    from scm.training.health import BINS

    last = [row for row in rows if row["images"] > rows[-1]["images"] / 2]
    for index in range(BINS):
        figures = [row[f"{prefix}{index}"] for row in last if f"{prefix}{index}" in row]
        if figures:
            yield (index + 0.5) * math.pi / 2 / BINS, sum(figures) / len(figures)


def _progress(study: Study, results: Sequence[VariantResult]) -> Iterator[Panel]:
    """Frechet distance over the training, one panel for each number of steps."""
    shown = set[str]()
    for model in study.figure.models:
        rows_of = [(result, result.progress[model]) for result in results if model in result.progress]
        columns = sorted({key for _, rows in rows_of for row in rows for key in row if key.startswith("fd_")})
        most = max((measured_evaluations(result.metrics[model])[-1] for result, _ in rows_of), default=0)
        named = {column: column.removeprefix("fd_").replace("step", " step") for column in columns}
        for column, steps in (*named.items(), ("fd", f"{most} steps" if named else "")):
            lines = []
            for result, rows in rows_of:
                points, name = places(rows, "images", column), result.variant.name
                if points:
                    label = "" if name in shown else name
                    lines.append(Line.through(points, _colour_of(study, result), label, points=True))
                    shown.add(name)
            if lines:
                title = f"{display_name(model)}, {steps}" if steps else display_name(model)
                yield Panel(title, IMAGES, LABELS["fd"], lines, logarithmic=True)


def _versus(study: Study, results: Sequence[VariantResult]) -> Iterator[Panel]:
    """Figures over a number in which the variants differ: lines for each model, number of evaluations, figure.lines."""
    figure, reference = study.figure, study.figure.reference
    apart = [each for each in results if reference and each.variant.name == reference.variant]
    placed = [(number(each.variant, figure.x or ""), each) for each in results if each not in apart]
    placed = [(x, each) for x, each in placed if x is not None]
    for order, name in enumerate(figure.figures):
        lines, levels = [], []
        for value, group in _groups(figure, placed):
            for label, points in _series(figure, name, group):
                shown = "" if order else f"{label}, {value}" if value else label
                lines.append(Line.through(sorted(points), colour(len(lines)), shown, points=True))
        for metrics in (result.metrics[reference.model] for result in apart if reference):
            for evaluations in _drawn(figure, [metrics]):
                label = "" if order else f"{apart[0].variant.name}, {_steps(evaluations)}"
                levels.append(Level(metrics[f"{name}@{evaluations}"], colour(len(levels)), label))
        yield Panel(
            LABELS[name], figure.x_label or figure.x or "", LABELS[name], lines, levels=levels,
            logarithmic=name == "fd", ticks=sorted({x for x, _ in placed}),
        )  # fmt: skip


def _groups(figure: Figure, placed: Sequence[tuple[float, VariantResult]]) -> Iterator[tuple[str, list]]:
    """Yields each value of the parameter `figure.lines`, and the results that have it; one group without it."""
    values = [value_of(result.variant, figure.lines) if figure.lines else "" for _, result in placed]
    for each in dict.fromkeys(values):
        yield each, [entry for entry, value in zip(placed, values, strict=True) if value == each]


def _series(
    figure: Figure, name: str, placed: Sequence[tuple[float, VariantResult]]
) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """Yields label and points of each line: a teacher has one, a student one for each number of evaluations."""
    for model in figure.models:
        found = [(x, result.metrics[model]) for x, result in placed if model in result.metrics]
        # A guided teacher takes twice as many evaluations, a multistep student one in each segment.
        if found and (model == TEACHER or figure.evaluations == MOST):
            most = [(x, figures[f"{name}@{measured_evaluations(figures)[-1]}"]) for x, figures in found]
            yield display_name(model), most
            continue
        for evaluations in _drawn(figure, [figures for _, figures in found]):
            key = f"{name}@{evaluations}"
            yield _of_steps(model, evaluations), [(x, figures[key]) for x, figures in found if key in figures]


def _bars(study: Study, results: Sequence[VariantResult]) -> Iterator[Panel]:
    """Frechet distance of each variant, one bar for each model and number of evaluations."""
    if study.figure.mean_over is not None:
        yield from _mean_bars(study, study.figure.mean_over, results)
        return
    bars: list[Bars] = []
    for model in study.figure.models:
        all_metrics = [result.metrics.get(model, {}) for result in results]
        for evaluations in _drawn(study.figure, all_metrics, most_only=model == TEACHER):
            heights = [metrics.get(f"fd@{evaluations}", math.nan) for metrics in all_metrics]
            bars.append(Bars(heights, colour(len(bars)), _of_steps(model, evaluations)))
    yield Panel(study.title, "", LABELS["fd"], bars=bars, groups=[result.variant.name for result in results])


def _mean_bars(study: Study, over: str, results: Sequence[VariantResult]) -> Iterator[Panel]:
    """Mean and deviation of each model's Frechet distance, one bar for each number of evaluations."""
    models = study.figure.models
    for group in _alike(over, results):
        metrics = {model: [result.metrics.get(model, {}) for result in group] for model in models}
        counts = {model: _drawn(study.figure, metrics[model], most_only=model == TEACHER) for model in models}
        bars = []
        for count in sorted({each for found in counts.values() for each in found}):
            key, drawn = f"fd@{count}", [model if count in counts[model] else "" for model in models]
            values = [[each[key] for each in metrics.get(model, []) if key in each] for model in drawn]
            heights = [statistics.fmean(each) if each else math.nan for each in values]
            errors = [statistics.stdev(each) if len(each) > 1 else math.nan for each in values]
            bars.append(Bars(heights, colour(len(bars)), _steps(count), errors))
        yield Panel(study.title, "", LABELS["fd"], bars=bars, groups=[display_name(model) for model in models])


def _drawn(figure: Figure, metrics: Sequence[dict[str, float]], most_only: bool = False) -> list[int]:
    """Numbers of network evaluations to draw, fewest first."""
    counts = sorted({count for figures in metrics for count in measured_evaluations(figures)})
    if most_only:
        return counts[-1:]
    return [count for count in counts if figure.evaluations in (None, MOST) or count in figure.evaluations]


def _steps(evaluations: int) -> str:
    return f"{evaluations} evaluation{'s' if evaluations > 1 else ''}"


def _of_steps(model: str, evaluations: int) -> str:
    return f"{display_name(model)}, {_steps(evaluations)}"


def page(study: Study, results: Sequence[VariantResult], missing: Sequence[str]) -> str:
    """The study in Markdown: picture, the paper's finding, table, what is missing, and the command."""
    lines = [f"# {study.title}", "", f"![{study.title}]({study.name}.svg)", ""]
    if study.paper is not None:
        lines += [f"The paper: {study.paper}", ""]
    head = ("variant", "model", "evaluations", "FD", "precision", "recall")
    lines.append(markdown_table(head, list(_table(study, results)), align="llrrrr"))
    if study.figure.kind == "progress":
        head = ("variant", "model", "images", "FD in 1 step", "FD")
        lines += ["", markdown_table(head, list(_progress_table(study, results)), align="llrrr")]
    if study.figure.mean_over is not None:
        lines += ["", f"Mean ± standard deviation over {escape(study.figure.mean_over)}:", ""]
        lines += _means(study.figure, study.figure.mean_over, results)
    older = [result.variant.name for result in results if not result.current]
    if missing:
        lines += ["", f"Missing: {', '.join(missing)}."]
    if older:
        lines += ["", f"Measured with other code than the present one: {', '.join(older)}."]
    preset = study.variants[0].values["preset"]
    return "\n".join([*lines, "", f"Parameters: preset {preset}. Command: `scm study {study.name}`.", ""])


def _progress_table(study: Study, results: Sequence[VariantResult]) -> Iterator[list[str]]:
    """Yields a row for each variant, model and number of images seen."""
    for result in results:
        for model in study.figure.models:
            for row in result.progress.get(model, []):
                cells = [f"{row[name]:.3f}" if name in row else "" for name in ("fd_1step", "fd")]
                yield [escape(result.variant.name), display_name(model), f"{row['images']:,.0f}", *cells]


def _table(study: Study, results: Sequence[VariantResult]) -> Iterator[list[str]]:
    """Yields a row for each variant, model and number of evaluations."""
    reference = study.figure.reference
    shown = [*study.figure.models, *([reference.model] if reference else [])]
    for result in results:
        for model in dict.fromkeys(shown):
            metrics = result.metrics.get(model, {})
            for count in measured_evaluations(metrics):
                figures = [metrics.get(f"{name}@{count}") for name in LABELS]
                cells = ["" if figure is None else f"{figure:.3f}" for figure in figures]
                yield [escape(result.variant.name), display_name(model), str(count), *cells]


def _means(figure: Figure, over: str, results: Sequence[VariantResult]) -> list[str]:
    """The table of means, with a row for each model and number of evaluations, and the floors below it.

    A mean is over all variants that differ in `over` alone. A figure that no training has gets no column.
    """
    rows = list[tuple[list[str], dict[str, list[float]]]]()
    floors = dict[str, list[float]]()
    for group in _alike(over, results):
        names = escape(", ".join(result.variant.name for result in group))
        for model in figure.models:
            found = [result.metrics[model] | _ratios(result, model) for result in group if model in result.metrics]
            for count in sorted({each for metrics in found for each in measured_evaluations(metrics)}):
                values = {name: [each[key] for each in found if (key := f"{name}@{count}") in each] for name in MEANS}
                rows.append(([names, display_name(model), str(count), str(len(values["fd"]))], values))
            for name in FLOORS:
                floors.setdefault(name, []).extend(each[name] for each in found if name in each)
    known = [name for name in MEANS if any(values[name] for _, values in rows)]
    head = ("variants", "model", "evaluations", "trainings", *(MEANS[name] for name in known))
    cells = [[*first, *(_mean_and_deviation(values[name]) for name in known)] for first, values in rows]
    lines = [markdown_table(head, cells, align="llrr" + "r" * len(known))]
    told = [f"{meaning} {statistics.fmean(floors[name]):.3f}" for name, meaning in FLOORS.items() if floors[name]]
    return [*lines, "", f"Floors: {', '.join(told)}."] if told else lines


def _ratios(result: VariantResult, model: str) -> dict[str, float]:
    """The model's distances as multiples of the teacher's in its most evaluations."""
    teacher, figures = result.metrics.get(TEACHER, {}), result.metrics[model]
    best = teacher.get(f"fd@{max(measured_evaluations(teacher), default=0)}")
    return {f"ratio@{each}": figures[f"fd@{each}"] / best for each in measured_evaluations(figures)} if best else {}


def _alike(over: str, results: Sequence[VariantResult]) -> list[list[VariantResult]]:
    """The results in groups whose variants differ in the parameter `over` alone."""
    groups: dict[str, list[VariantResult]] = {}
    for result in results:
        rest = {key: value for key, value in result.variant.own.items() if key != over}
        groups.setdefault(json.dumps(rest, sort_keys=True), []).append(result)
    return list(groups.values())


def _mean_and_deviation(values: Sequence[float]) -> str:
    """As text; the deviation (divided by n - 1) needs two values."""
    if len(values) < 2:
        return "".join(f"{value:.3f}" for value in values)
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"
