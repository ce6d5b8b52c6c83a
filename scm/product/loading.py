"""`scm.load`: finds a finished model and loads it, from a project, a package, or MLflow's registry."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from scm.base import weights
from scm.base.documents import is_there, read_text
from scm.base.project import TEACHER, find_root
from scm.data.latents.autoencoders import load_codec
from scm.errors import UserError
from scm.generation import trained
from scm.generation.loaded import LoadedModel
from scm.product.content import CARD, CODEC, PACKED, REPACK, SETTINGS, STUDENT, Content

KNOWN = "models/NAME of a project, a package's folder (with MLmodel), or an address such as models:/digits@champion"


def load(address: str | Path, model: str | None = None, device: str = "auto") -> LoadedModel:
    """Loads a finished model.

    Args:
        address: models/NAME of a project; the folder of a package, as `scm export --to package` writes it; or an
            address of MLflow's, such as models:/digits@champion, in the project's store or where MLflow itself looks.
        model: of a package, "teacher" for the teacher that is packaged with the student; None = the model itself.
        device: cpu, cuda, or auto = cuda if there is one. A GPU is set to repeatable results.

    Raises:
        UserError: there is no such model, or its files are damaged.
    """
    place, folder = placed(device), Path(address)
    if "MLmodel" in (names := {path.name for path in folder.iterdir()} if folder.is_dir() else set()):
        return _packaged(folder / PACKED, model, place)
    if SETTINGS in names:
        return _packaged(folder, model, place)
    if "model.safetensors" in names:
        if model not in (None, folder.absolute().name):
            raise UserError(f"model {model}: {folder} holds one model; load {folder.parent / str(model)}")
        return _of_project(folder.absolute(), place)
    if isinstance(address, str) and ":/" in address:
        with _downloaded(address) as found:
            return _packaged(found / PACKED, model, place)
    raise UserError(f"{address}: no model; give {KNOWN}")


def placed(device: str) -> str:
    """The device of this name, set to repeatable results."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise UserError(f"device {device}: must be auto, cpu or cuda")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device {device}: torch finds no GPU; use auto or cpu")
    if device != "cpu":  # the CPU is repeatable anyway
        trained.repeatable()
    return device


def _of_project(folder: Path, device: str) -> LoadedModel:
    """The model in a project's models/NAME, with the project's codec and sampler."""
    from scm.params.project import Project
    from scm.report.wording import commit_of
    from scm.results.reading import read_run, run_path

    project = Project.open(folder)
    network, header = trained.load_selected(folder, device)
    codec = load_codec(project.root / "data/codec", device)
    codec.check(header["codec"], f"models/{folder.name}")
    sampler = project.params.sampler
    steps = sampler.teacher_steps if header["model"] == TEACHER else trained.own_steps(header)[-1]
    path = run_path(project.root, f"select_ema@{folder.name}")
    commit = commit_of(read_run(path)) if is_there(path) else "unknown"
    return LoadedModel(network, header, codec, trained.NoiseLevels(*sampler.noise_levels), steps, commit)


def _packaged(folder: Path, model: str | None, device: str) -> LoadedModel:
    """One of the two models of a package, from its folder `product`."""
    content = Content.read(folder)
    role = TEACHER if model == TEACHER or content.student is None else STUDENT
    if model not in (None, TEACHER, content.name):
        both = dict.fromkeys([content.name, TEACHER])
        raise UserError(f"model {model}: {folder} has {' and '.join(both)}; use one of them")
    sampling = content.teacher if role == TEACHER else content.student
    assert sampling is not None
    file, codec = folder / f"{role}.safetensors", load_codec(folder / CODEC, device, REPACK, REPACK)
    state, header = weights.load(file, device, missing=REPACK, damaged=REPACK)
    network = trained.model_of(state, header, device, str(file), REPACK)
    codec.check(header["codec"], str(file), str(folder / CODEC), REPACK)
    choices: dict[str, Any] = dict(sampling.choices)
    header = trained.with_choices(header, choices, str(folder / SETTINGS), REPACK)
    steps = content.teacher_steps if role == TEACHER else trained.own_steps(header)[-1]
    levels = trained.NoiseLevels(content.sigma_min, content.sigma_max, content.rho)
    card = read_text(folder / CARD, REPACK, REPACK)
    return LoadedModel(network, header, codec, levels, steps, sampling.commit, card)


@contextmanager
def _downloaded(address: str) -> Iterator[Path]:
    """The files of a package at an address of MLflow's, for the block; the store's settings stay as they are."""
    from scm.tracking import store

    store.quieten()
    from mlflow import MlflowClient, tracking
    from mlflow.artifacts import download_artifacts
    from mlflow.store.artifact.utils.models import get_model_name_and_version

    settings = None
    if address.startswith(("models:", "runs:")):
        settings = _store()
        if settings is None and not tracking.is_tracking_uri_set():
            raise UserError(f"{address}: there is no project here; set MLFLOW_TRACKING_URI to the store that has it")
    with tempfile.TemporaryDirectory() as temporary:
        try:
            where = {} if settings is None else {"tracking_uri": settings, "registry_uri": settings}
            place = address
            if address.startswith("models:"):  # download_artifacts would look it up in the process's registry alone
                client = MlflowClient(**where)
                name, *version = map(str, get_model_name_and_version(client, address))
                place = client.get_model_version_download_uri(name, *version) if version else address
            found = Path(download_artifacts(artifact_uri=place, dst_path=temporary, **where))
        except Exception as error:  # raised by mlflow, its database driver or the network
            raise UserError(f"{address}: cannot be loaded: {store.reason(error)}") from None
        if not (found / PACKED).is_dir():
            raise UserError(f"{address}: not a model that scm packaged")
        yield found


def _store() -> str | None:
    """The address of the store of the project at or above the current folder; None = there is no project."""
    from scm.params.project import Project
    from scm.tracking import store

    try:
        find_root()
    except UserError:
        return None
    project = Project.open()
    store.answered(project.tracking, "scm.load", lambda: store.connect(project.tracking))
    return project.tracking.store
