"""Packages a trained model for MLflow: weights, codec, settings, card, and the source that draws.

A package holds only safetensors, JSON and text, and brings the modules of this project that it needs, so that it loads
where scm is not installed. MLflow runs its file entry.py instead of unpickling an object.
"""

import ast
import hashlib
import pkgutil
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scm.base.documents import is_there
from scm.base.files import link_or_copy, sha256, write_text
from scm.data.latents.autoencoders import load_codec
from scm.data.latents.codec import RANDOM
from scm.errors import UserError
from scm.generation.trained import can_be_guided, own_steps, selected_header
from scm.params.project import Project
from scm.product.card import card
from scm.product.content import CARD, CODEC, STUDENT, TEACHER, Content, Sampling
from scm.report.wording import commit_of
from scm.results.reading import read_run, run_path
from scm.tracking import sending, store
from scm.tracking.registry import CHAMPION
from scm.tracking.sync import record_of

MAX_ROWS, MAX_STEPS = 16, 100
"""Limits of a request, unless whoever serves the model sets others."""
MAX_GUIDANCE = 10.0
"""Largest guidance scale that a request may ask a teacher for; a teacher takes any scale in principle."""
REQUIREMENTS = ("mlflow", "torch", "numpy", "pandas", "safetensors", "pillow")
DESCRIPTION = "MLmodel"
ENTRY = Path(__file__).with_name("entry.py")
PACKAGE = Path(__file__).parents[1]


def log_version(project: Project, model: str, tags: dict[str, str], alias: str = CHAMPION) -> str:
    """Packages a model and registers it as a new version of `params.registered_name`; returns the version's number.

    Its card loads it by `alias`, which the caller gives to it.

    The version belongs to the model's run of `evaluate`, which is sent if the store does not have it yet, and carries
    `tags`. The same content is stored once: a second version of it is another name for the same files.

    Raises:
        UserError: files of the model or of its run are missing. Others: whatever mlflow and the network raise.
    """
    name, settings = project.params.registered_name, project.tracking
    record = record_of(project.root, run_path(project.root, f"evaluate@{model}"))
    client = store.connect(settings)
    sending.send(client, record, settings)
    run = sending.run_of(client, record.key)
    with tempfile.TemporaryDirectory() as temporary:
        folder = package(project, model, Path(temporary) / "model", f"models:/{name}@{alias}")
        place = f"model-{_digest(folder)[:12]}"
        _store(client, run.info.run_id, folder, place)
    _require_name(client, name)
    source = f"{run.info.artifact_uri.rstrip('/')}/{place}"
    made = client.create_model_version(name, source, run.info.run_id, tags=tags, await_creation_for=60)
    return str(made.version)


def champion_address(project: Project) -> str:
    """The address by which MLflow loads the project's champion."""
    return f"models:/{project.params.registered_name}@{CHAMPION}"


def package(project: Project, model: str, folder: Path, address: str | None = None) -> Path:
    """Writes the MLflow model into `folder`, which must not exist, and returns it.

    Args:
        model: a student's method, which is packaged with its teacher, or "teacher".
        address: see `card`.

    Raises:
        UserError: a file is missing, or the models do not belong together.
    """
    store.quieten()
    import mlflow.pyfunc

    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        # The product: weights, codec, settings and card, beside the source that draws.
        staging = Path(temporary)
        content, headers = content_of(project, model)
        _stage(project.root, staging / "product", headers)
        content.write(staging / "product")
        write_text(staging / "product" / CARD, card(project, content, address))
        copy_source(staging / "scm")
        # MLflow's frame around it.
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(ENTRY),
            artifacts={"product": str(staging / "product")},
            code_paths=[str(staging / "scm")],
            signature=signature(content),
            pip_requirements=requirements(headers[TEACHER]["codec"]["name"]),
            model_config={"max_rows": MAX_ROWS, "max_steps": MAX_STEPS, "device": "auto"},
            input_example=[content.example()],
            metadata={"preset": content.preset, "model": content.name},
        )
    _forget_places(folder)
    return folder


def content_of(project: Project, model: str) -> tuple[Content, dict[str, dict[str, Any]]]:
    """The package's settings, and the header of each role's weights."""
    root, params = project.root, project.params
    if model not in params.evaluate.models:
        raise UserError(f"model {model}: params.yaml has {', '.join(params.evaluate.models)}; use one of them")
    roles = {TEACHER: TEACHER} if model == TEACHER else {STUDENT: model, TEACHER: TEACHER}
    headers = {role: selected_header(root / "models" / name) for role, name in roles.items()}
    codec = load_codec(root / "data/codec")
    for role, name in roles.items():
        codec.check(headers[role]["codec"], f"models/{name}")
    samplings = {role: _sampling(root, header) for role, header in headers.items()}
    teacher_steps = params.sampler.teacher_steps
    default = max(own_steps(headers[STUDENT])) if STUDENT in headers else teacher_steps
    content = Content(
        model, params.preset, list(headers[TEACHER]["classes"]), samplings.get(STUDENT), samplings[TEACHER],
        teacher_steps, default, *params.sampler.noise_levels,
    )  # fmt: skip
    return content, headers


def signature(content: Content) -> Any:
    """Inputs: the columns of a row (scm.product.model); outputs: png (base64), seconds, evaluations, model."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, Schema

    label = [ColSpec(AnyType(), "class", required=False)]
    asked = [ColSpec("long", "seed"), ColSpec("long", "steps", required=False)]
    scale = [ColSpec("double", "guidance", required=False)]
    between = [ColSpec(AnyType(), "to_class", required=False), ColSpec("long", "to_seed", required=False)]
    between.append(ColSpec("double", "fraction", required=False))
    edit = [ColSpec("string", name, required=False) for name in ("task", "image", "mask")]
    edit.append(ColSpec("long", "factor", required=False))
    drawn = [ColSpec("string", "png"), ColSpec("double", "seconds"), ColSpec("long", "evaluations")]
    return ModelSignature(
        Schema([*label, *asked, *scale, *between, *edit]), Schema([*drawn, ColSpec("string", "model")])
    )


def requirements(codec: str) -> list[str]:
    """Pip requirements at the installed versions; a local build such as 2.13.0+cpu stands for its version."""
    names = (*REQUIREMENTS, *(["diffusers"] if codec in RANDOM else []))
    return [f"{name}=={version(name).partition('+')[0]}" for name in names]


def copy_source(target: Path) -> list[str]:
    """Copies the modules of scm that the packaged model imports, and no others; returns their names."""
    names = sorted(needed_modules("scm.product.model"))
    for path in filter(None, map(_file_of, names)):
        copy = target / path.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return names


def needed_modules(name: str) -> set[str]:
    """Modules of scm that importing `name` imports, itself and packages included, by their source.

    A package that reads its own `__path__` imports its modules by name: all of them are needed.
    """
    found, waiting = set[str](), [name]
    while waiting:
        module = waiting.pop()
        path = _file_of(module)
        if module in found or path is None:
            continue
        found.add(module)
        waiting.append(module.rpartition(".")[0])
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Name) and node.id == "__path__":
                waiting += [f"{module}.{part.name}" for part in pkgutil.iter_modules([str(path.parent)])]
    return found


def _file_of(name: str) -> Path | None:
    """Source of a module of scm, None of anything else."""
    top, *parts = name.split(".")
    place = PACKAGE.joinpath(*parts)
    candidates = (place / "__init__.py", place.with_suffix(".py")) if top == "scm" else ()
    return next((path for path in candidates if path.is_file()), None)


def _sampling(root: Path, header: dict[str, Any]) -> Sampling:
    """How to sample this model: what selection chose, and the guidance scales that it takes."""
    path = run_path(root, f"select_ema@{header['model']}")
    commit = commit_of(read_run(path)) if is_there(path) else "unknown"
    trained = header.get("guidance")
    limits = tuple(trained) if trained else (0.0, MAX_GUIDANCE) if can_be_guided(header) else None
    return Sampling({str(steps): choice for steps, choice in header["sampling"].items()}, limits, commit)


def _stage(root: Path, folder: Path, headers: dict[str, dict[str, Any]]) -> None:
    folder.mkdir()
    for role, header in headers.items():
        link_or_copy(root / "models" / header["model"] / "model.safetensors", folder / f"{role}.safetensors")
    shutil.copytree(root / "data/codec", folder / CODEC)


def _forget_places(folder: Path) -> None:
    """Removes this machine's paths from the file MLmodel; nothing reads them."""
    from mlflow.models import Model

    described = Model.load(str(folder))
    flavor = described.flavors["python_function"]
    flavor["model_code_path"] = ENTRY.name
    flavor["artifacts"]["product"]["uri"] = flavor["artifacts"]["product"]["path"]
    described.save(str(folder / DESCRIPTION))


def _digest(folder: Path) -> str:
    """Hash of the files that are the same each time that the package is made."""
    total = hashlib.sha256()
    for path in sorted(path for part in ("artifacts", "code") for path in (folder / part).rglob("*") if path.is_file()):
        total.update(f"{path.relative_to(folder).as_posix()} {sha256(path)}\n".encode())
    return total.hexdigest()


def _store(client: Any, run_id: str, folder: Path, place: str) -> None:
    """Uploads a package unless the store has it. MLmodel goes last: a store that has it has the whole package."""
    if any(Path(entry.path).name == DESCRIPTION for entry in client.list_artifacts(run_id, place)):
        return
    description = folder.parent / DESCRIPTION
    (folder / DESCRIPTION).rename(description)
    client.log_artifacts(run_id, str(folder), place)
    client.log_artifact(run_id, str(description), place)


def _require_name(client: Any, name: str) -> None:
    """Creates the registered model, unless it exists."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
