"""Replaces the network that stage train_teacher would train by one that was trained elsewhere.

The network becomes the single snapshot of that stage, with a run file and a curve that say so. In dvc.yaml the stage is
frozen, which tells DVC never to run it and to take its present outputs for its result. The import stays out of DVC's
run cache: an entry there would pass it off as what the current parameters train.
"""

import csv
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from scm.base import weights
from scm.base.files import link_or_copy, replacing, replacing_folder, write_json, write_text
from scm.base.precision import precision_on
from scm.base.project import TEACHER
from scm.base.sections import MAX_SIGMA_REL
from scm.base.yaml_files import parse_for_editing, read_text, render
from scm.data.latents.codec import LATENT_REDUCTION, NAMES
from scm.data.shards.shards import INDEX, read_index
from scm.ema.reconstruct import snapshot_file
from scm.errors import UserError
from scm.interop.teachers import Teacher, read_teacher
from scm.networks import NetworkSettings
from scm.params import Params, dump, flatten
from scm.params.project import Project
from scm.pipeline.dvc_command import dvc, reason_of
from scm.results.fingerprint import defined_stages
from scm.results.provenance import run_entry
from scm.results.reading import run_path
from scm.tracking.sending import publish
from scm.tracking.sync import record_of

STAGE = "train_teacher"
SNAPSHOTS = Path("models/teacher/snapshots")
CURVE = Path("results/curves/train-teacher.csv")
UNDO = "to train a teacher here, remove that line and run `scm run --force --single-item train_teacher`"


def import_teacher(project: Project, file: Path, sigma_rel: float | None) -> list[str]:
    """Imports a network as the project's teacher and returns a summary, line by line.

    Args:
        file: a network of EDM or EDM2, or one that scm wrote.
        sigma_rel: length of its EMA average, where the file does not state it.

    Raises:
        UserError: the file cannot be read or does not fit the data, or DVC failed; nothing has changed then.
    """
    root, params, started = project.root, project.params, time.time()
    # Read the network, and check that it fits the data.
    if sigma_rel is not None and not 0 < sigma_rel < MAX_SIGMA_REL:
        raise UserError(f"--sigma-rel {sigma_rel:g}: must lie between 0 and {MAX_SIGMA_REL:.4f}")
    teacher = read_teacher(file)
    if sigma_rel is not None:
        teacher = replace(teacher, sigma_rel=sigma_rel)
    classes = fitting_classes(project, teacher, file)
    # The data's codec, unlike the file's, says which weights encode.
    teacher = replace(teacher, codec=read_index(root / "data/latents")["codec"])
    header = header_of(teacher, file, classes, params)
    images, length = teacher.images, teacher.sigma_rel
    name = f"{images:012d}-imported.safetensors" if length is None else snapshot_file(images, length)
    snapshot, run_file = SNAPSHOTS / name, run_path(root, STAGE)

    # Write the stage's outputs, then have DVC record them as its result: all of that or nothing.
    with undone_on_failure(root, [SNAPSHOTS, CURVE, run_file.relative_to(root), Path("dvc.yaml"), Path("dvc.lock")]):
        with replacing_folder(root / SNAPSHOTS) as folder:
            weights.save(folder / snapshot.name, teacher.state, header)
        write_json(run_file, run_of(project, header, started))
        write_curve(root / CURVE, teacher.images)
        freeze(root / "dvc.yaml")
        for arguments in (("repro", "--no-commit", STAGE), ("commit", STAGE)):
            done = dvc(root, *arguments, check=False)
            if done.returncode:
                raise UserError(f"`dvc {' '.join(arguments)}` failed, and nothing was changed: {reason_of(done)}")
    publish(record_of(root, run_file), project.tracking)
    return summary(teacher, header, snapshot)


def fitting_classes(project: Project, teacher: Teacher, file: Path) -> list[str]:
    """Returns the names of the data's classes, if the teacher was trained on such data."""
    folder = project.root / "data/latents"
    if not (folder / INDEX).exists():
        raise UserError(f"{folder} is missing, and the teacher must fit the data: run `scm run encode` first")
    index = read_index(folder)
    if not teacher.takes(index["codec"]):
        remedy = _remedy(project.params, teacher)
        raise UserError(f"{file} was trained on another encoding than {folder} holds: {remedy}")
    names, wanted = index["classes"], teacher.settings.classes
    if len(names) != wanted:
        remedy = "use the classes that it was trained with" if wanted else "write data.labels: false into params.yaml"
        raise UserError(f"{file} was trained with {wanted} classes, but {folder} has {len(names)}: {remedy}")
    if teacher.classes and teacher.classes != names:
        raise UserError(f"{file} was trained with classes of other names than {folder} has: use the same classes")
    return names


def _remedy(params: Params, teacher: Teacher) -> str:
    """Says what to write into params.yaml so that the data fit the teacher."""
    codec, (channels, resolution, _) = teacher.codec, teacher.codec["shape"]
    if codec["name"] not in NAMES:
        return f"it needs the codec {codec['name']}, which scm does not have"
    pixels = codec["name"] == "identity"
    wanted = {"data.resolution": resolution if pixels else resolution * LATENT_REDUCTION, "codec.name": codec["name"]}
    wanted |= {"data.channels": channels} if pixels else {"data.channels": 3, "codec.channels": channels}
    wanted |= {"codec.normalize": codec["normalize"], "network.sigma_d": codec["sigma_d"]}
    values = flatten(dump(params))
    different = ", ".join(f"{key}: {value}" for key, value in wanted.items() if values[key] != value)
    if different:
        return f"write {different} into params.yaml and run `scm run encode`"
    if codec["normalize"] != "none":
        return "it was normalised with statistics of other images: use the images that it was trained on"
    return "run `scm run encode`"


def header_of(teacher: Teacher, file: Path, classes: list[str], params: Params) -> dict[str, Any]:
    """Makes a snapshot's header as the training loop writes it, with the network's origin."""
    gpu = torch.cuda.is_available() and params.runtime.device != "cpu"
    precision = precision_on(torch.device("cuda" if gpu else "cpu"), params.teacher.precision)
    return {
        "model": TEACHER, "network": teacher.settings.to_dict(), "classes": classes, "codec": teacher.codec,
        "sigma_d": teacher.settings.sigma_d, "label_dropout": teacher.label_dropout,
        "images": teacher.images, "sigma_rel": teacher.sigma_rel,
        "buffers": sorted(name for name in teacher.state if name.endswith((".freqs", ".phases"))),
        "precision": precision, "preset": params.preset, "imported": teacher.origin(file),
    }  # fmt: skip


def run_of(project: Project, header: dict[str, Any], started: float) -> dict[str, Any]:
    """Makes the run file: nothing was trained, so its parameters are those of the import."""
    parameters = flatten({"imported": header["imported"], "network": header["network"]})
    key = hashlib.sha256(json.dumps([STAGE, header], sort_keys=True).encode()).hexdigest()
    return run_entry(
        project, key=key, stage=STAGE, item=None, name=f"{STAGE} · imported {header['imported']['file']}",
        started=started, params=parameters, deps={}, chain=parameters, device="cpu",
    )  # fmt: skip


def write_curve(path: Path, images: int) -> None:
    """Writes a curve of one row without a loss: the training happened elsewhere."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("images", "time", "loss", "squared_error"), (images, time.time(), "", "")])


def freeze(dvc_yaml: Path) -> None:
    """Sets frozen: true for the stage. `dvc freeze` would reformat the whole file."""
    if STAGE not in defined_stages(dvc_yaml.parent):
        raise UserError(f"{dvc_yaml} has no stage {STAGE}: restore the file with git")
    tree = parse_for_editing(read_text(dvc_yaml, "run from the project's folder"), "dvc.yaml")
    stage = tree["stages"][STAGE]
    stage.pop("frozen", None)
    stage.insert(0, "frozen", True)
    write_text(dvc_yaml, render(tree))


@contextmanager
def undone_on_failure(root: Path, paths: Sequence[Path]) -> Iterator[None]:
    """If the block fails, restores files and folders at `paths`, and removes those that did not exist before."""
    aside = root / ".work" / "import-teacher"
    shutil.rmtree(aside, ignore_errors=True)
    for path in paths:
        (aside / path).parent.mkdir(parents=True, exist_ok=True)
        if (root / path).is_dir():
            shutil.copytree(root / path, aside / path, copy_function=link_or_copy)
        elif (root / path).exists():
            shutil.copy2(root / path, aside / path)  # dvc writes its lock file in place
    try:
        yield
    except BaseException:
        for path in paths:
            shutil.rmtree(root / path, ignore_errors=True)
            (root / path).unlink(missing_ok=True)
            if (aside / path).exists():
                (aside / path).rename(root / path)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def unstable_parts(settings: NetworkSettings) -> list[str]:
    """What makes the tangent of a network long (sec. 4.1, fig. 4), in the words of params.yaml."""
    stable = {"embedding": "positional", "c_noise": "t", "modulation": "double_norm"}
    found = {name: getattr(settings, name) for name in stable}
    return [f"network.{name}: {value}" for name, value in found.items() if value != stable[name]]


def summary(teacher: Teacher, header: dict[str, Any], snapshot: Path) -> list[str]:
    """Says what was imported, and how to undo it, in lines for people."""
    settings, codec = teacher.settings, teacher.codec
    millions = sum(value.numel() for name, value in teacher.state.items() if name not in header["buffers"]) / 1e6
    average = "of unknown length" if teacher.sigma_rel is None else f"of sigma_rel {teacher.sigma_rel:g}"
    channels, size, _ = codec["shape"]
    lines = [
        f"{header['imported']['file']}: {teacher.program}, {settings.architecture}, {millions:.1f} M parameters, "
        f"{size}x{size}x{channels} ({codec['name']}), {settings.classes or 'no'} classes, average {average}",
        *teacher.notes,
        f"written to {snapshot}; dvc.yaml has frozen: true for {STAGE} now, so nothing overwrites it: {UNDO}",
    ]
    if teacher.licence is not None:
        lines.append(f"licence of EDM's and EDM2's published weights, and of models made from them: {teacher.licence}")
    if causes := unstable_parts(settings):
        lines.append(
            f"a student inherits this network, whose tangent is unstable (sec. 4.1, fig. 4) by {', '.join(causes)}: "
            "for a TrigFlow teacher that starts from its weights, write teacher.start instead (docs/teachers.md)"
        )
    return lines
