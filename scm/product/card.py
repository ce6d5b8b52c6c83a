"""The model card: what a packaged model is, from what, how good, how to use and under which licence, in Markdown.

It is made from the files that a run leaves (results/) and from params.yaml. What was not measured is said to be so:
a card must not depend on figures that nobody has.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scm.base.files import read_json
from scm.params import Params, flatten
from scm.product.content import MAX_SEED, Content
from scm.report import data
from scm.report.wording import DISTANCES, cell, commit_of, display_name, duration, line, number
from scm.results.provenance import chain, params_hash
from scm.results.reading import evaluations_of, metrics_path, read_numbers, read_run, run_path

PAPER = "[arXiv 2410.11081](https://arxiv.org/abs/2410.11081)"
TEACHER = "teacher"
CLASSES_SHOWN = 20
CODE = """\
```python
import base64

import mlflow
import pandas

model = mlflow.pyfunc.load_model("{uri}")
rows = pandas.DataFrame([{row}])
for number, png in enumerate(model.predict(rows)["png"]):
    with open(f"image-{{number}}.png", "wb") as file:
        file.write(base64.b64decode(png))
```"""


def card(root: Path, params: Params, content: Content, uri: str) -> str:
    """The card of the product whose `settings.json` is `content`.

    Args:
        root: the project's folder.
        uri: what the reader loads the model by, such as models:/digits@champion.

    Raises:
        UserError: a file of the run is damaged.
    """
    model, title = content.name, display_name(content.name)
    models = [model] if model == TEACHER else [TEACHER, model]
    parts = [
        [f"# {title}: images in few steps ({cell(content.preset)})", "", *_what(content, models)],
        ["## Data", "", *_data(root, content)],
        ["## Training", "", *_training(root, params, models)],
        ["## Figures", "", *_figures(root, params, models)],
        ["## How to sample", "", *_use(content, uri)],
        ["## Limits", "", *_limits(content)],
        ["## Licence", "", licence(root)],
        ["## Origin", "", *_origin(root, params, model)],
    ]
    return "\n".join(text for part in parts for text in (*part, ""))


def licence(root: Path) -> str:
    """One paragraph: the code's, and what the weights of other people add to it."""
    codec = root / "data/codec/header.json"
    decoded = codec.exists() and read_json(codec).get("autoencoder")
    decoder = " The decoder's weights are other people's, and keep their own licence." if decoded else ""
    return _licence_of_networks(root) + decoder


def _licence_of_networks(root: Path) -> str:
    path = run_path(root, "train_teacher")
    made_by = read_run(path)["params"] if path.exists() else {}
    code = "The code is Apache-2.0."
    if "imported.file" not in made_by:
        return f"{code} The weights were trained here on the data above, whose own licence may bind them."
    file = cell(str(made_by["imported.file"]))
    if "imported.licence" in made_by:
        terms = made_by["imported.licence"]
        return f"{code} The teacher was imported from {file}, whose licence is {terms}; so is that of these weights."
    return f"{code} The teacher was imported from {file} of another scm project, whose licence binds these weights."


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
    if (root / data.FOLDER / "data.json").exists():
        yield cell(data.sentence(data.read(root)))
    else:
        yield "The counts of the images that it was trained on are not here."
    names = content.classes
    if names:
        shown = ", ".join(map(cell, names[:CLASSES_SHOWN])) + (", …" if len(names) > CLASSES_SHOWN else "")
        yield f"\n{len(names):,} classes: {shown}."
    else:
        yield "\nWithout classes."


def _training(root: Path, params: Params, models: list[str]) -> Iterator[str]:
    yield line(("Model", "Images seen", "Batch", "Precision", "Time", "Device"))
    yield line(["---", "---:", "---:", "---", "---:", "---"])
    for model in models:
        path = run_path(root, "train_teacher" if model == TEACHER else f"train_student@{model}")
        run = read_run(path) if path.exists() else {}
        training = params.teacher if model == TEACHER else params.student.method(model)
        own = [f"{training.images:,}", str(training.batch), training.precision]
        if "imported.file" in run.get("params", {}):
            own = [f"imported: {run['params']['imported.file']}", "–", "–"]
        took = [duration(run["seconds"]), str(run.get("device") or "–")] if run else ["–", "–"]
        yield line([cell(text) for text in (display_name(model), *own, *took)])


def _figures(root: Path, params: Params, models: list[str]) -> Iterator[str]:
    found = {model: path for model in models if (path := metrics_path(root, "evaluate", model)) and path.exists()}
    if not found:
        yield "Not measured: `scm run` does."
        return
    distance = DISTANCES.get(params.reference.extractor, "FD")
    yield line(("Model", "Evaluations", distance, "KID", "Precision", "Recall", "Accuracy", "Images/s"))
    yield line(["---", *["---:"] * 7])
    for model, path in found.items():
        figures = read_numbers(path)
        for evaluations in reversed(evaluations_of(figures)):
            keys = ("fd", "kid", "precision", "recall", "accuracy", "images_per_second")
            values = [figures.get(f"{key}@{evaluations}") for key in keys]
            shown = ["–" if value is None else number(value) for value in values]
            yield line([display_name(model), str(evaluations), *shown])
    evaluate, run_file = params.evaluate, run_path(root, f"evaluate@{models[-1]}")
    run = read_run(run_file) if run_file.exists() else {}
    protocol = f"; eval.protocol {run['protocol'][:12]}" if run.get("protocol") else ""
    repeats = f", the smallest of {evaluate.repeats} sets of seeds" if evaluate.repeats > 1 else ""
    yield (
        f"\n{distance} is the Fréchet distance to the real images in the features of the extractor "
        f"{cell(params.reference.extractor)}, of {evaluate.samples:,} samples with seeds from {evaluate.seed:,}"
        f"{repeats}{protocol}. It compares with figures of the same protocol alone. Images/s: on the device above, "
        "without decoding."
    )


def _use(content: Content, uri: str) -> Iterator[str]:
    yield CODE.format(uri=uri, row=json.dumps(content.example()))
    yield f"\nOr `scm serve {uri}`, which has a page for people and answers POST requests at /invocations."


def _limits(content: Content) -> Iterator[str]:
    student = " or ".join(map(str, content.student_steps))
    own = f"{student} (the student), more (the teacher)" if student else "the teacher's"
    yield f"- steps: {own}, {content.steps} where none are given; seeds: 0 to {MAX_SEED}."
    for role, drawing in (("student", content.student), ("teacher", content.teacher)):
        if drawing is not None:
            limits = drawing.guidance_range
            told = f"{limits[0]:g} to {limits[1]:g}, {drawing.guidance:g} by default" if limits else "none"
            yield f"- guidance of the {role}: {told}."
    yield "- It draws what its training images showed, with their faults and gaps, and may repeat some of them."


def _origin(root: Path, params: Params, model: str) -> Iterator[str]:
    path = run_path(root, f"evaluate@{model}")
    run: dict[str, Any] = read_run(path) if path.exists() else {}
    yield f"- commit: {cell(commit_of(run)) if run else 'unknown'}"
    yield f"- params hash: {run.get('params_hash', params_hash(params))}"
    if run:
        yield f"- made on: {cell(str(run['machine']))}, {run['ended'][:10]}"
    values = flatten(run["chain"]) if run else chain(root, params, model)
    yield "\n<details><summary>All parameters</summary>\n\n```yaml"
    yield from (f"{key}: {value}" for key, value in sorted(values.items()))
    yield "```\n\n</details>"
