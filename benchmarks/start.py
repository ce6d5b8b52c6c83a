"""Two uses of another network, on the digits: `python -m benchmarks.start [FOLDER]`.

A teacher of EDM2's kind (Fourier features of ln sigma, gain modulation) is brought to TrigFlow by a tenth of its
budget, beside TrigFlow teachers from nothing. A TrigFlow teacher is guided by an early snapshot of itself.
All are measured by the Frechet distance of the full sampler. An interrupted run goes on in the same FOLDER.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from scm.base.files import sha256, write_json, write_text
from scm.base.project import TEACHER
from scm.base.yaml_files import read_mapping, render
from scm.presets.apply import resolve
from scm.presets.overlays import laid_over
from scm.results.reading import measured_evaluations, read_figures

ROOT = Path(__file__).parents[1]
PRESET, BUDGET, PART = "digits-short", "65,536", "6,400"
EDM2_KIND = {"network.modulation": "gain", "network.embedding": "fourier", "network.c_noise": "log_sigma"}
TENTH = {
    "teacher.images": 6400,
    "teacher.lr": {"max": 7.0e-3, "warmup": 512, "decay": "cosine", "decay_from": 3200},
}
EARLY, SCALES = "000000008192-0.100.safetensors", [1.0, 1.25, 1.5, 2.0]
KEPT = Path("data/teachers")


def main() -> None:
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder))


def measure(folder: Path) -> None:
    """Makes a project in the folder, trains and measures, and prints the tables."""
    if not (folder / "dvc.yaml").exists():
        for name in ("scm", "stages"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "data/raw").mkdir(parents=True)
        shutil.copy(ROOT / "dvc.yaml", folder)
    edm2_kind, trigflow, early = (folder / KEPT / f"{name}.safetensors" for name in ("edm2-kind", "trigflow", "early"))
    print("| teacher | images | FD |\n|---|---|---|")
    tell("EDM2's kind", BUDGET, trial(folder, "edm2-kind", EDM2_KIND))
    start = {"teacher.start": str(edm2_kind), "teacher.start_sha256": sha256(edm2_kind)}
    tell("TrigFlow, started from it", PART, trial(folder, "started", {**TENTH, **start}))
    tell("TrigFlow from nothing", PART, trial(folder, "tenth", TENTH))
    tell("TrigFlow from nothing", BUDGET, trial(folder, "trigflow", {}))
    guide = {"select.guide": str(early), "select.guide_sha256": sha256(early), "select.guidance.teacher": SCALES}
    print("\n| guidance scale, guide: 8Ki images | FD in selection |\n|---|---|")
    guided = trial(folder, "guided", guide, trained=trigflow.parent / "snapshots")
    for scale, distance in guided["scales"].items():
        print(f"| {scale} | {distance:.3f} |")
    print(f"\nwith other seeds: {guided['fd']:.3f} at the chosen scale, {guided['nfe']} network evaluations")


def tell(name: str, images: str, figures: dict[str, Any]) -> None:
    print(f"| {name} | {images} | {figures['fd']:.3f} |", flush=True)


def trial(folder: Path, name: str, changes: dict[str, Any], trained: Path | None = None) -> dict[str, Any]:
    """Figures of a teacher with these parameters; the weights are kept as data/teachers/NAME.safetensors.

    Args:
        trained: snapshots of a finished training, which is then not done again.
    """
    done = folder / f"{name}.json"
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    write_text(folder / "params.yaml", render(values_with(changes)))
    if not (folder / "data/reference").exists():
        run(folder, "prepare", "encode", "reference")
    if trained is None:
        run(folder, "train_teacher")
    else:
        shutil.copytree(trained, folder / "models/teacher/snapshots", dirs_exist_ok=True)
    run(folder, "select_ema teacher", "evaluate teacher")
    (folder / KEPT).mkdir(exist_ok=True)
    shutil.copy(folder / "models/teacher/model.safetensors", folder / KEPT / f"{name}.safetensors")
    if name == "trigflow":
        shutil.copytree(folder / "models/teacher/snapshots", folder / KEPT / "snapshots")
        shutil.copy(folder / "models/teacher/snapshots" / EARLY, folder / KEPT / "early.safetensors")
    figures = read_figures(folder, "evaluate", TEACHER)
    nfe = max(measured_evaluations(figures))
    with (folder / "results/curves/select-teacher.csv").open(encoding="utf-8", newline="") as file:
        scales = {row.get("guidance", "1.0"): float(row["fd"]) for row in csv.DictReader(file)}
    write_json(done, {"fd": figures[f"fd@{nfe}"], "nfe": nfe, "scales": scales})
    return json.loads(done.read_text(encoding="utf-8"))


def values_with(changes: dict[str, Any]) -> dict[str, Any]:
    """The preset's values with some changed, named by dotted keys; runtime as in params.yaml."""
    values = laid_over(read_mapping(ROOT / "params.yaml", "run from the project's folder"), resolve(ROOT, PRESET))
    values["mlflow"]["enabled"] = False
    for key, value in changes.items():
        *sections, last = key.split(".")
        block = values
        for section in sections:
            block = block[section]
        block[last] = value
    return values


def run(folder: Path, *stages: str) -> None:
    for stage in stages:
        command = [sys.executable, "-m", *f"stages.{stage}".split()]
        environment = {**os.environ, "PYTHONPATH": str(folder), "SCM_WORK": str(folder / ".work")}
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=sys.stderr)


if __name__ == "__main__":
    main()
