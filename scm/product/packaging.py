"""A trained model as a self-contained MLflow model: weights, codec, settings, card, and the source that draws.

What is written holds safetensors, JSON and text alone, and needs of this project nothing but the copied modules, so
that it loads where scm is not installed. MLflow executes its file entry.py instead of unpickling an object.
"""

import argparse
import ast
import hashlib
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scm.base import weights
from scm.base.files import link_or_copy, read_json, sha256, write_text
from scm.base.project import find_root
from scm.data.latents.autoencoders import load_codec
from scm.data.latents.codec import RANDOM
from scm.errors import UserError
from scm.generation import trained as trained_module
from scm.generation.trained import own_steps
from scm.params import Params, load
from scm.product.card import card
from scm.product.content import CARD, CODEC, STUDENT, TEACHER, Content, Drawing
from scm.results.reading import run_path
from scm.tracking import sending, store
from scm.tracking.records import Settings
from scm.tracking.registry import CHAMPION
from scm.tracking.sync import record_of

MAX_ROWS, MAX_STEPS = 16, 100
"""Limits of a request where whoever serves the model sets no others."""
MAX_GUIDANCE = 10.0
"""Of a teacher, which takes any scale in principle."""
REQUIREMENTS = ("mlflow", "torch", "numpy", "pandas", "safetensors", "pillow")
DESCRIPTION = "MLmodel"
ENTRY = Path(__file__).with_name("entry.py")
PACKAGE = Path(__file__).parents[1]


def log_version(settings: Settings, root: Path, params: Params, model: str, name: str, tags: dict[str, str]) -> str:
    """Packages a model of the project and registers it as a new version of `name`; returns the version's number.

    The version belongs to the model's run of `evaluate`, which is sent if the store does not have it yet, and carries
    `tags`. The same content is stored once: a second version of it is another name for the same files.

    Raises:
        UserError: files of the model or of its run are missing. Others: whatever mlflow and the network raise.
    """
    record = record_of(root, run_path(root, f"evaluate@{model}"))
    client = store.connect(settings)
    sending.send(client, record, settings)
    run = sending.run_of(client, record.key)
    with tempfile.TemporaryDirectory() as temporary:
        folder = package(root, params, model, Path(temporary) / "model", f"models:/{name}@{CHAMPION}")
        place = f"model-{_digest(folder)[:12]}"
        _store(client, run.info.run_id, folder, place)
    _require_name(client, name)
    source = f"{run.info.artifact_uri.rstrip('/')}/{place}"
    made = client.create_model_version(name, source, run.info.run_id, tags=tags, await_creation_for=60)
    return str(made.version)


def package(root: Path, params: Params, model: str, folder: Path, uri: str) -> Path:
    """Writes the MLflow model into `folder`, which must not exist, and returns it.

    Args:
        model: a student's method, which its teacher accompanies, or "teacher".
        uri: what readers of the card load it by.

    Raises:
        UserError: a file is missing, or the models do not belong together.
    """
    store.quieten()
    import mlflow.pyfunc

    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        staging = Path(temporary)
        content, headers = content_of(root, params, model)
        _stage(root, staging / "product", headers)
        content.write(staging / "product")
        write_text(staging / "product" / CARD, card(root, params, content, uri))
        copy_source(staging / "scm")
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


def card_command(args: argparse.Namespace) -> int:
    """`scm card`: prints the card of args.model, None = the project's product."""
    root = find_root()
    params = load(root / "params.yaml")
    content, _ = content_of(root, params, args.model or params.publish.model)
    print(card(root, params, content, f"models:/{params.registered_name}@{CHAMPION}"), end="")
    return 0


def content_of(root: Path, params: Params, model: str) -> tuple[Content, dict[str, dict[str, Any]]]:
    """The package's settings, and the headers of the files that go into it, by role."""
    if model not in params.evaluate.models:
        raise UserError(f"model {model}: params.yaml has {', '.join(params.evaluate.models)}; use one of them")
    roles = {TEACHER: TEACHER} if model == TEACHER else {STUDENT: model, TEACHER: TEACHER}
    headers = {role: _header(root, name) for role, name in roles.items()}
    codec = load_codec(root / "data/codec")
    for role, name in roles.items():
        codec.check(headers[role]["codec"], f"models/{name}")
    drawings = {role: _drawing(header) for role, header in headers.items()}
    student_steps = list(own_steps(headers[STUDENT])) if STUDENT in headers else []
    teacher_steps = params.sampler.teacher_steps
    content = Content(
        name=model,
        preset=params.preset,
        classes=list(headers[TEACHER]["classes"]),
        student=drawings.get(STUDENT),
        teacher=drawings[TEACHER],
        student_steps=student_steps,
        teacher_steps=teacher_steps,
        steps=max(student_steps, default=teacher_steps),
        **dict(zip(("sigma_min", "sigma_max", "rho"), params.sampler.noise_levels, strict=True)),
    )
    return content, headers


def signature(content: Content) -> Any:
    """Columns in: class (name or number), seed, steps and guidance; out: png (base64), seconds, evaluations, model."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, Schema

    label = [ColSpec(AnyType(), "class", required=False)]
    asked = [ColSpec("long", "seed"), ColSpec("long", "steps", required=False)]
    scale = [ColSpec("double", "guidance", required=False)]
    drawn = [ColSpec("string", "png"), ColSpec("double", "seconds"), ColSpec("long", "evaluations")]
    return ModelSignature(Schema([*label, *asked, *scale]), Schema([*drawn, ColSpec("string", "model")]))


def requirements(codec: str) -> list[str]:
    """Pip requirements at the installed versions; a local build such as 2.13.0+cpu stands for its version."""
    names = (*REQUIREMENTS, "diffusers") if codec in RANDOM else REQUIREMENTS
    return [f"{name}=={version(name).partition('+')[0]}" for name in names]


def copy_source(target: Path) -> list[str]:
    """Copies the modules of scm that the packaged model imports, and no others; returns their names."""
    names = sorted(needed_modules("scm.product.model"))
    for name in names:
        path = _file_of(name)
        assert path is not None
        copy = target / path.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return names


def needed_modules(name: str) -> set[str]:
    """Modules of scm that importing `name` imports, itself and packages included, by their source."""
    found: set[str] = set()
    waiting = [name]
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
    return found


def _file_of(name: str) -> Path | None:
    """Source of a module of scm, None of anything else."""
    top, *parts = name.split(".")
    if top != "scm":
        return None
    place = PACKAGE.joinpath(*parts)
    candidates = (place / "__init__.py", place.with_suffix(".py")) if parts else (place / "__init__.py",)
    return next((path for path in candidates if path.is_file()), None)


def _weights(root: Path, model: str) -> Path:
    return root / "models" / model / "model.safetensors"


def _header(root: Path, model: str) -> dict[str, Any]:
    """Of a selected model's file, and how selection chose to sample it."""
    return {
        **weights.read_header(_weights(root, model)),
        **read_json(root / "models" / model / trained_module.SAMPLING),
    }


def _drawing(header: dict[str, Any]) -> Drawing:
    """How selection has this model drawn, and the scales that it takes."""
    trained = header.get("guidance")
    limits = tuple(trained) if trained else (0.0, MAX_GUIDANCE) if header.get("label_dropout") else None
    chosen = {key: header[key] for key in ("t_mid",) if header.get(key) is not None}
    return Drawing(chosen, header["guidance_scale"], limits)


def _stage(root: Path, folder: Path, headers: dict[str, dict[str, Any]]) -> None:
    folder.mkdir()
    for role, header in headers.items():
        link_or_copy(_weights(root, header["model"]), folder / f"{role}.safetensors")
    shutil.copytree(root / "data/codec", folder / CODEC)


def _forget_places(folder: Path) -> None:
    """Takes the paths of this machine, which nothing reads, out of the file MLmodel."""
    from mlflow.models import Model

    described = Model.load(str(folder))
    flavor = described.flavors["python_function"]
    flavor["model_code_path"] = ENTRY.name
    flavor["artifacts"]["product"]["uri"] = flavor["artifacts"]["product"]["path"]
    described.save(str(folder / DESCRIPTION))


def _digest(folder: Path) -> str:
    """Of what makes the package: the files that are the same each time it is made."""
    total = hashlib.sha256()
    for path in sorted(path for part in ("artifacts", "code") for path in (folder / part).rglob("*") if path.is_file()):
        total.update(f"{path.relative_to(folder).as_posix()} {sha256(path)}\n".encode())
    return total.hexdigest()


def _store(client: Any, run_id: str, folder: Path, place: str) -> None:
    """Uploads a package, its file MLmodel last, so that where this lies everything does; and nothing a second time."""
    if any(Path(entry.path).name == DESCRIPTION for entry in client.list_artifacts(run_id, place)):
        return
    description = folder.parent / DESCRIPTION
    (folder / DESCRIPTION).rename(description)
    client.log_artifacts(run_id, str(folder), place)
    client.log_artifact(run_id, str(description), place)


def _require_name(client: Any, name: str) -> None:
    """Makes the registered model, unless it is there."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
