"""The candidate: the model that `scm publish` would make the champion, as results/ and dvc.lock describe it."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from scm.base.files import sha256
from scm.base.project import TEACHER
from scm.errors import UserError
from scm.params import Params, dump
from scm.params.project import Project
from scm.publishing.entry import Entry
from scm.results.fingerprint import inputs_of, made_by_stages
from scm.results.provenance import licence_of
from scm.results.reading import distance_ranges, measured_evaluations, metrics_path, read_figures, read_run, run_path

MEASURED_BY = ("evaluate.samples", "evaluate.seed", "evaluate.repeats", "evaluate.neighbours", "sampler.", "reference.")
"""Beginnings of the names of all parameters that a protocol follows from."""
BY_TEACHERS = ("evaluate.teacher_few",)
"""Further parameters that the teacher's protocol follows from."""
RULER = "data/reference"
"""The stage output that all models are compared with: extractor and statistics of the real images."""


def candidate_of(project: Project) -> Entry:
    """Reads the candidate.

    Its key follows from the registered name as well: the same weights under two names are two candidates.

    Raises:
        UserError: the model does not exist, its evaluation is missing or was made with other parameters, code or
            dvc.lock than the present ones, or it lacks the figure fd@N that is asked for.
    """
    root, params = project.root, project.params
    model, settings = params.publish.model, params.publish
    # The evaluation must be that of the parameters, code and files as they are now.
    if model not in params.evaluate.models:
        raise UserError(f"publish.model = {model}: no such model; use one of {', '.join(params.evaluate.models)}")
    run_file, metrics_file = run_path(root, f"evaluate@{model}"), metrics_path(root, "evaluate", model)
    run = read_run(run_file)
    protocol = run.get("protocol")
    if not protocol:
        raise UserError(f"{run_file} lacks the protocol of its figures: run `scm run --force evaluate@{model}`")
    lock = root / "dvc.lock"
    if not lock.exists():
        raise UserError(f"{lock} is missing: run `scm run`, or restore it with git")
    made = {path: output["md5"] for path, output in made_by_stages(root).items()}
    if inputs_of(root, "evaluate", model, dump(params)).key != run["key"]:
        what = "was made with other parameters, code or files than the present ones"
        raise UserError(f"{run_file} {what}: run `scm run`, then `scm publish` again")
    unknown = [path for path in model_files(model) if path not in made]
    if unknown:
        raise UserError(f"{lock} does not know {unknown[0]}: run `scm run`")
    # The figures, and the one that decides.
    figures = read_figures(root, "evaluate", model, finite=False)
    distances = distances_of(figures)
    evaluations = settings.evaluations or max(distances, default=0)
    if evaluations not in distances:
        known = ", ".join(f"fd@{each}" for each in distances) or "no distance"
        raise UserError(f"publish.evaluations = {settings.evaluations}: {metrics_file} has {known}; use one, or null")
    return Entry(
        key=hashlib.sha256(json.dumps([params.registered_name, run["key"]]).encode()).hexdigest(),
        model=model,
        evaluations=evaluations,
        distances=distances,
        figures=figures,
        weights=_together(made[path] for path in model_files(model)),
        protocol=protocol,
        parts=protocol_parts(run),
        health=tuple(_health(root, params, model)),
        origin={
            "preset": run["preset"],
            "commit": run["commit"],
            "dirty": "true" if run["dirty"] else "false",
            "params_hash": run["params_hash"],
            "data": made.get("data/shards", ""),
            "dvc_lock": sha256(lock),
            "licence": licence_of(run["chain"]),
            "run_key": run["key"],
        },
    )


def model_files(model: str) -> tuple[str, str]:
    """Files of the weights and of how selection chose to sample them; another t_mid makes another candidate."""
    return f"models/{model}/model.safetensors", f"models/{model}/sampling.json"


def require_weights(root: Path, candidate: Entry) -> None:
    """Checks, before the model's files are packed, that they are the measured ones."""
    names, digests = model_files(candidate.model), []
    for name in names:
        path = root / name
        if not path.is_file():
            raise UserError(f"{path} is missing: run `dvc checkout {name}` or `dvc pull`")
        with path.open("rb") as handle:
            digests.append(hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest())
    if _together(digests) != candidate.weights:
        remedy = f"run `dvc checkout {' '.join(names)}`"
        raise UserError(f"{root / names[0]} is not the file that was measured: {remedy}")


def _together(digests: Iterable[str]) -> str:
    """Combines several hashes into one."""
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def distances_of(figures: Mapping[str, float]) -> dict[int, tuple[float, ...]]:
    """Distances of all ranges of seeds, by N: fd_0@N, fd_1@N, ..., or fd@N alone for a single range."""
    counts = measured_evaluations(figures)
    return {number: distance_ranges(figures, number) or (figures[f"fd@{number}"],) for number in counts}


def protocol_parts(run: Mapping[str, Any]) -> dict[str, str]:
    """Parameters and the ruler's hash, from which a protocol follows: they tell how two protocols differ."""
    values = {**run["chain"], **run["params"]}
    names = (*MEASURED_BY, *BY_TEACHERS) if run.get("item") == TEACHER else MEASURED_BY
    parts = {key: json.dumps(value) for key, value in sorted(values.items()) if key.startswith(names)}
    ruler = (run.get("deps") or {}).get(RULER)
    return parts | ({} if ruler is None else {f"{RULER} (extractor and statistics of the real images)": ruler[:12]})


def trainings_of(params: Params, model: str) -> list[str]:
    """Names of the stages that trained the model and all models that it starts from."""
    names = []
    while model != TEACHER:
        names.append(f"train_student@{model}")
        model = params.student.methods[model]
    return [*names, "train_teacher"]


def _health(root: Path, params: Params, model: str) -> Iterator[str]:
    """Failed health checks of all trainings that the model comes from.

    A healthy training has none, and neither has an imported teacher, whose training nobody here has seen.
    """
    for name in trainings_of(params, model):
        for line in read_run(run_path(root, name)).get("health", ()):
            yield f"{name}: {line}"
