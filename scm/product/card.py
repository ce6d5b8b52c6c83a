"""The model card in Markdown: what a packaged model is, what it was made from, its figures, its use and its licence.

It is written from the files of a run (results/) and params.yaml. It says so where something was not measured.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from scm.base.documents import is_there
from scm.base.project import TEACHER
from scm.base.tables import escape, markdown_table
from scm.data.latents.autoencoders import HEADER, read_header
from scm.errors import printable
from scm.params import flatten
from scm.params.addresses import sqlite_address
from scm.params.project import Project
from scm.product.content import MAX_SEED, Content, Sampling
from scm.report import data, wording
from scm.report.wording import DISTANCES, commit_of, display_name, duration, number
from scm.results.provenance import chain, licence_of, params_hash
from scm.results.reading import measured_evaluations, metrics_path, read_figures, read_run, run_path

PAPER = "[arXiv 2410.11081](https://arxiv.org/abs/2410.11081)"
CLASSES_SHOWN = 20
MEASURED = {
    "fd": "FD", "kid": "KID", "precision": "Precision", "recall": "Recall", "accuracy": "Accuracy",
    "images_per_second": "Images/s",
}  # fmt: skip
UNSEEN = {"fd_held_out": "FD", "precision_held_out": "Precision", "recall_held_out": "Recall", "copies": "Copies"}
"""Figures of the two tables, and their names in the heads."""
FLOORS = (("Training images, drawn at random", "_floor"), ("Held-out images", "_expected"))
"""Rows below the models', and the ends of their figures' names."""
PUBLISHED = """\
mlflow.set_tracking_uri({store})
model = mlflow.pyfunc.load_model({address})"""
OWN = """\
from scm.params.project import Project
from scm.product.serving import packaged

with packaged(Project.open(), "{name}") as folder:
    model = mlflow.pyfunc.load_model(folder)"""
CODE = """\
```python
import base64

import mlflow
import pandas

{loaded}
rows = pandas.DataFrame([{row}])
for number, png in enumerate(model.predict(rows)["png"]):
    with open(f"image-{{number}}.png", "wb") as file:
        file.write(base64.b64decode(png))
```"""


def card(project: Project, content: Content, address: str | None = None) -> str:
    """Writes the card of a product.

    Args:
        address: its own in the registry, such as models:/digits@champion; None = the project's models/ alone has it.
    """
    model, title = content.name, display_name(content.name)
    models = [model] if model == TEACHER else [TEACHER, model]
    parts = [
        [f"# {title}: images in few steps ({escape(content.preset)})", "", *_what(content, models)],
        ["## Data", "", *_data(project.root, content)],
        ["## Training", "", *_training(project, models)],
        ["## Figures", "", *_figures(project, models)],
        ["## How to sample", "", *_use(project, content, address)],
        ["## Limits", "", *_limits(content)],
        ["## Licence", "", licence(project, model)],
        ["## Origin", "", *_origin(project, model)],
    ]
    return "\n".join(text for part in parts for text in (*part, ""))


def licence(project: Project, model: str) -> str:
    """One paragraph: the licence of the code, and the terms of the weights and of the decoder."""
    terms = escape(licence_of(chain(project, model)))
    codec = project.root / "data/codec"
    decoded = is_there(codec / HEADER) and read_header(codec)["autoencoder"]
    decoder = " The decoder's weights are other people's, and keep their own licence." if decoded else ""
    return f"{terms[0].upper()}{terms[1:]}.{decoder}"


def _what(content: Content, models: list[str]) -> Iterator[str]:
    steps = " or ".join(map(str, content.student_steps))
    if content.student is None:
        yield f"A TrigFlow diffusion model ({PAPER}), sampled by Heun's method in {content.teacher_steps} steps."
        return
    yield (
        f"A generator of images in {steps} step{'s' if steps != '1' else ''}: a student of the method "
        f"{display_name(models[-1])} ({PAPER}). Its teacher, a diffusion model, is packaged with it and draws in "
        f"more steps ({content.teacher_steps} Heun steps as it was measured)."
    )


def _data(root: Path, content: Content) -> Iterator[str]:
    described = is_there(root / data.FOLDER / "data.json")
    yield escape(data.sentence(data.read(root))) if described else "The summary of the training images is not here."
    names = content.classes
    shown = ", ".join(map(escape, names[:CLASSES_SHOWN])) + (", …" if len(names) > CLASSES_SHOWN else "")
    yield f"\n{len(names):,} classes: {shown}." if names else "\nWithout classes."


def _training(project: Project, models: list[str]) -> Iterator[str]:
    rows = []
    for model in models:
        path = run_path(project.root, "train_teacher" if model == TEACHER else f"train_student@{model}")
        run = read_run(path) if is_there(path) else None
        training = project.params.teacher if model == TEACHER else project.params.student.method(model)
        precision = (run or {}).get("precision", training.precision)  # of auto, the one that was chosen
        own = [f"{training.images:,}", str(training.batch), str(precision)]
        if run and "imported.file" in run["params"]:
            own = [f"imported: {run['params']['imported.file']}", "–", "–"]
        took = [duration(run["seconds"]), str(run.get("device") or "–")] if run else ["–", "–"]
        rows.append([escape(text) for text in (display_name(model), *own, *took)])
    yield markdown_table(("Model", "Images seen", "Batch", "Precision", "Time", "Device"), rows, "lrrlrl")


def _figures(project: Project, models: list[str]) -> Iterator[str]:
    root, params = project.root, project.params
    found = [model for model in models if is_there(metrics_path(root, "evaluate", model))]
    if not found:
        yield "Not measured; `scm run` measures it."
        return
    distance = DISTANCES.get(params.reference.extractor, "FD")
    measured = {model: read_figures(root, "evaluate", model) for model in found}
    yield _table(measured, {**MEASURED, "fd": distance})
    # What defines the figures, so that nobody compares them with figures of another protocol.
    evaluate, run_file = params.evaluate, run_path(root, f"evaluate@{models[-1]}")
    known = read_run(run_file).get("protocol") if is_there(run_file) else None
    protocol = f"; eval.protocol {known[:12]}" if known else ""
    repeats = f", the smallest of {evaluate.repeats} sets of seeds" if evaluate.repeats > 1 else ""
    yield (
        f"\n{distance} is the Fréchet distance to the real images in the features of the extractor "
        f"{escape(params.reference.extractor)}, of {evaluate.samples:,} samples with seeds from {evaluate.seed:,}"
        f"{repeats}{protocol}. Compare it only with figures of the same protocol. Images/s is the speed on the device "
        "above, without decoding."
    )
    if any("fd_floor" in figures for figures in measured.values()):
        yield (
            f"The last row is as many draws with replacement from the training images: the {distance} to which a model "
            "with as many samples can fall."
        )
    if any("copies_expected" in figures for figures in measured.values()):
        yield f"\n{_table(measured, {**UNSEEN, 'fd_held_out': distance})}\n\n{wording.UNSEEN}"
    else:
        yield "\nNo images were held out, so nothing says how the figures are on images that no training has seen."


def _table(measured: Mapping[str, Mapping[str, float]], names: Mapping[str, str]) -> str:
    """The figures with these names, of all models and evaluations, and below them what they can reach."""

    def cells(figures: Mapping[str, float], end: str) -> list[str]:
        values = [figures.get(f"{name}{end}") for name in names]
        return ["–" if value is None else number(value) for value in values]

    rows = [
        [display_name(model), str(evaluations), *cells(figures, f"@{evaluations}")]
        for model, figures in measured.items()
        for evaluations in reversed(measured_evaluations(figures))
    ]
    some = next(iter(measured.values()))  # all models have as many samples, and so the same floors
    rows += [[what, "–", *floor] for what, end in FLOORS if set(floor := cells(some, end)) != {"–"}]
    return markdown_table(("Model", "Evaluations", *names.values()), rows, "l" + "r" * (1 + len(names)))


def _use(project: Project, content: Content, address: str | None) -> Iterator[str]:
    tracking = project.tracking
    file = tracking.store_file
    place = file.relative_to(tracking.home) if file is not None and file.is_relative_to(tracking.home) else None
    if address is None:
        yield "In the project's folder, which has the model in its models/:\n"
        loaded = OWN.format(name=content.name)
    else:
        yield "In the project's folder, whose registry has the model:\n" if place else "The registry has the model:\n"
        store = sqlite_address(place) if place else tracking.shown
        loaded = PUBLISHED.format(store=json.dumps(store), address=json.dumps(address))
    yield CODE.format(loaded=loaded, row=json.dumps(content.example()))
    shown = address or f"models/{content.name}"
    yield f"\nOr `scm serve {shown}`, which has a page for people and answers POST requests at /invocations."


def _limits(content: Content) -> Iterator[str]:
    student = " or ".join(map(str, content.student_steps))
    own = f"{student} (the student), more (the teacher)" if student else "the teacher's"
    yield f"- steps: {own}, {content.steps} if none are given; seeds: 0 to {MAX_SEED}."
    for role, sampling in (("student", content.student), ("teacher", content.teacher)):
        if sampling is not None:
            limits = sampling.guidance_range
            yield f"- guidance of the {role}: {f'{limits[0]:g} to {limits[1]:g}' if limits else 'none'}."
            yield from _choices(role, sampling)
    yield "- It draws what its training images show, with their faults and gaps, and may repeat some of them."


def _choices(role: str, sampling: Sampling) -> Iterator[str]:
    """What was chosen for each number of steps, where there was a choice."""
    for steps in sorted(sampling.choices, key=int):
        choice = sampling.choices[steps]
        told = [f"guidance {choice['guidance_scale']:g}"] if sampling.guidance_range else []
        told += [f"second step at t = {choice['t_mid']:g}"] if "t_mid" in choice else []
        if told:
            yield f"- the {role} in {steps} step{'s' if steps != '1' else ''} by default: {', '.join(told)}."


def _origin(project: Project, model: str) -> Iterator[str]:
    path = run_path(project.root, f"evaluate@{model}")
    run = read_run(path) if is_there(path) else None
    yield f"- commit: {escape(commit_of(run)) if run else 'unknown'}"
    yield f"- params hash: {escape(run['params_hash']) if run else params_hash(project.params)}"
    if run:
        yield f"- made on: {escape(run['machine'])}, {run['ended'][:10]}"
    values = flatten(run["chain"]) if run else chain(project, model)
    yield "\n<details><summary>All parameters</summary>\n\n```yaml"
    yield from (printable(f"{key}: {value}") for key, value in sorted(values.items()))
    yield "```\n\n</details>"
