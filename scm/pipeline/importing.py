"""`scm import-teacher`: another program's network in the place of the one that stage train_teacher would train.

The network becomes the single snapshot of that stage, with a run file and a curve that say so. In dvc.yaml the stage is
frozen, by which DVC understands: never run it, what lies there is its result. DVC's run cache is kept out of it: an
entry there would pass the import off as what the current parameters train.
"""

import argparse
import csv
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scm.base import weights
from scm.base.files import link_or_copy, replacing, replacing_folder, sha256, write_json, write_text
from scm.base.project import find_root
from scm.base.sections import MAX_SIGMA_REL
from scm.base.yaml_files import parse_for_editing, read_text, render
from scm.data.latents.codec import LATENT_REDUCTION, NAMES
from scm.data.shards.shards import INDEX, read_index
from scm.ema.reconstruct import snapshot_file
from scm.errors import UserError
from scm.interop.teachers import OWN, Teacher, read_teacher
from scm.params import Params, dump, flatten, load
from scm.results.provenance import commit_of, machine_name, params_hash
from scm.results.reading import run_path
from scm.tracking.records import Settings
from scm.tracking.sending import publish
from scm.tracking.sync import record_of

STAGE = "train_teacher"
SNAPSHOTS = Path("models/teacher/snapshots")
CURVE = Path("results/curves/train-teacher.csv")
LICENCE = "CC BY-NC-SA 4.0 (non-commercial)"
"""Of the weights that EDM's and EDM2's authors publish."""
UNDO = "to train one again, take that line out and run `scm run --force --single-item train_teacher`"


def import_command(args: argparse.Namespace) -> int:
    """Imports args.file; args.sigma_rel is the length of its average where the file does not say it, or None."""
    root, started = find_root(), time.time()
    params = load(root / "params.yaml")
    if args.sigma_rel is not None and not 0 < args.sigma_rel < MAX_SIGMA_REL:
        raise UserError(f"--sigma-rel {args.sigma_rel:g}: must lie between 0 and {MAX_SIGMA_REL:.4f}")
    teacher = read_teacher(args.file)
    if args.sigma_rel is not None:
        teacher = replace(teacher, sigma_rel=args.sigma_rel)
    classes = fitting_classes(root, params, teacher, args.file)
    teacher = replace(teacher, codec=read_index(root / "data/latents")["codec"])  # it says which weights encode
    header = header_of(teacher, args.file, classes, params)
    snapshot, run_file = SNAPSHOTS / name_of(teacher), run_path(root, STAGE)
    with undone_on_failure(root, [SNAPSHOTS, CURVE, run_file.relative_to(root), Path("dvc.yaml"), Path("dvc.lock")]):
        with replacing_folder(root / SNAPSHOTS) as folder:
            weights.save(folder / snapshot.name, teacher.state, header)
        write_json(run_file, run_of(root, params, header, started))
        write_curve(root / CURVE, teacher.images)
        freeze(root / "dvc.yaml")
        dvc(root, "repro", "--no-commit", STAGE)
        dvc(root, "commit", STAGE)
    publish(record_of(root, run_file), Settings.of(params, root))
    print("\n".join(summary(teacher, header, snapshot)))
    return 0


def fitting_classes(root: Path, params: Params, teacher: Teacher, file: Path) -> list[str]:
    """Names of the teacher's classes, once it is clear that data/latents holds what it was trained on."""
    folder = root / "data/latents"
    if not (folder / INDEX).exists():
        raise UserError(f"{folder} is missing, and the teacher must fit the data: run `scm run encode` first")
    index = read_index(folder)
    if not _same_codec(index["codec"], teacher):
        raise UserError(f"{file} was trained on another encoding than {folder} holds: {_remedy(params, teacher)}")
    names, wanted = index["classes"], teacher.settings.classes
    if len(names) != wanted:
        remedy = "use the classes that it was trained with" if wanted else "write data.labels: false into params.yaml"
        raise UserError(f"{file} was trained with {wanted} classes, but {folder} has {len(names)}: {remedy}")
    if teacher.classes and teacher.classes != names:
        raise UserError(f"{file} was trained with classes of other names than {folder} has: use the same classes")
    return names


def _same_codec(codec: dict[str, Any], teacher: Teacher) -> bool:
    """Whether the teacher was trained on what this codec makes; an EDM2 pickle does not say which weights encoded."""
    silent = teacher.program != OWN and teacher.codec["autoencoder"] is None
    return codec == (teacher.codec | {"autoencoder": codec.get("autoencoder")} if silent else teacher.codec)


def _remedy(params: Params, teacher: Teacher) -> str:
    """What to write into params.yaml so that the data fit the teacher."""
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
        return "it was normalised by the figures of other images: use the images that it was trained on"
    return "run `scm run encode`"


def header_of(teacher: Teacher, file: Path, classes: list[str], params: Params) -> dict[str, Any]:
    """A snapshot's header as the training loop writes it, and where the network came from."""
    imported = {"file": file.name, "sha256": sha256(file), "program": teacher.program}
    if teacher.program != OWN:
        imported["licence"] = LICENCE
    buffers = sorted(name for name in teacher.state if name.endswith((".freqs", ".phases")))
    return {
        "model": "teacher",
        "network": teacher.settings.to_dict(),
        "classes": classes,
        "codec": teacher.codec,
        "sigma_d": teacher.settings.sigma_d,
        "label_dropout": teacher.label_dropout,
        "images": teacher.images,
        "sigma_rel": teacher.sigma_rel,
        "buffers": buffers,
        "precision": params.teacher.precision,
        "preset": params.preset,
        "imported": imported,
    }


def name_of(teacher: Teacher) -> str:
    if teacher.sigma_rel is None:
        return f"{teacher.images:012d}-imported.safetensors"
    return snapshot_file(teacher.images, teacher.sigma_rel)


def run_of(root: Path, params: Params, header: dict[str, Any], started: float) -> dict[str, Any]:
    """The run file: nothing was trained, so its parameters are those of the import."""
    parameters = flatten({"imported": header["imported"], "network": header["network"]})
    ended, (commit, dirty) = time.time(), commit_of(root)
    return {
        "key": hashlib.sha256(json.dumps([STAGE, header], sort_keys=True).encode()).hexdigest(),
        "stage": STAGE,
        "item": None,
        "name": f"{STAGE} · imported {header['imported']['file']}",
        "preset": params.preset,
        "seed": params.seed,
        "started": datetime.fromtimestamp(started, UTC).isoformat(),
        "ended": datetime.fromtimestamp(ended, UTC).isoformat(),
        "seconds": round(ended - started, 1),
        "machine": machine_name(),
        "device": "cpu",
        "commit": commit,
        "dirty": dirty,
        "params_hash": params_hash(params),
        "params": parameters,
        "deps": {},
        "chain": parameters,
    }


def write_curve(path: Path, images: int) -> None:
    """One row, without a loss: nobody here has seen the training."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("images", "time", "loss"), (images, time.time(), "")])


def freeze(dvc_yaml: Path) -> None:
    """Sets frozen: true for the stage; `dvc freeze` does the same, but lays out the whole file anew."""
    tree = parse_for_editing(read_text(dvc_yaml, "run from the project's folder"), "dvc.yaml")
    stage = tree.get("stages", {}).get(STAGE)
    if stage is None:
        raise UserError(f"{dvc_yaml} has no stage {STAGE}: restore the file with git")
    stage.pop("frozen", None)
    stage.insert(0, "frozen", True)
    write_text(dvc_yaml, render(tree))


def dvc(root: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"`dvc {' '.join(arguments)}` failed, and nothing was changed: {lines[-1]}")


@contextmanager
def undone_on_failure(root: Path, paths: Sequence[Path]) -> Iterator[None]:
    """Puts back what lay at `paths`, or nothing where nothing did, if the block fails."""
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


def summary(teacher: Teacher, header: dict[str, Any], snapshot: Path) -> list[str]:
    settings, codec = teacher.settings, teacher.codec
    millions = sum(value.numel() for name, value in teacher.state.items() if name not in header["buffers"]) / 1e6
    average = "of unknown length" if teacher.sigma_rel is None else f"of sigma_rel {teacher.sigma_rel:g}"
    channels, size, _ = codec["shape"]
    lines = [
        f"{header['imported']['file']}: {teacher.program}, {settings.architecture}, {millions:.1f} M parameters, "
        f"{size}x{size}x{channels} ({codec['name']}), {settings.classes or 'no'} classes, average {average}",
        *teacher.notes,
        f"written to {snapshot}; dvc.yaml has frozen: true for {STAGE} now, so that nothing overwrites it: {UNDO}",
    ]
    if "licence" in header["imported"]:
        lines.append(f"licence of EDM's and EDM2's published weights, and of models made from them: {LICENCE}")
    return lines
