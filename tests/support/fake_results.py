"""A results/ tree as a finished pipeline leaves it, with made-up figures, for tests of what reads and shows it."""

import csv
import hashlib
import json
import math
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from PIL import Image

from scm.params.project import Project

TABLES = Path(__file__).parents[2] / "pipelines/paper_tables.yaml"
MODELS = ["teacher", "scd", "sct"]
FIGURES = {  # model -> evaluations -> (Fréchet distance, precision, recall, accuracy, images per second)
    "teacher": {35: (3.82, 0.962, 0.951, 0.982, 310.0), 2: (236.4, 0.204, 0.003, 0.131, 5400.0)},
    "scd": {1: (7.61, 0.928, 0.902, 0.957, 9100.0), 2: (5.31, 0.944, 0.917, 0.969, 5450.0)},
    "sct": {1: (22.7, 0.871, 0.843, 0.902, 9080.0), 2: (13.8, 0.896, 0.872, 0.931, 5440.0)},
}
BINNED = ("tangent_norm", "tangent_term1", "tangent_term2", "output_norm", "log_weight", "loss")


def fake_params(models: list[str] | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        preset="digits",
        seed=0,
        evaluate=SimpleNamespace(models=models or MODELS, teacher_few_steps=2),
        sampler=SimpleNamespace(teacher_steps=18),
        mlflow=SimpleNamespace(enabled=True, uri=None, experiment=None),
    )


def fake_project(root: Path, models: list[str] | None = None) -> Project:
    return Project(root, cast(Any, fake_params(models)))


def write_fake_results(root: Path, seed: int = 0, rows: int = 30) -> Path:
    """Writes results/ under `root` as a pipeline with this seed would, and returns `root`."""
    generator = random.Random(seed)
    results = root / "results"
    (root / "pipelines").mkdir(exist_ok=True)
    shutil.copy(TABLES, root / "pipelines")
    _json(results / "metrics/prepare.json", {"images": 1797, "classes": 10, "skipped": 0})
    _json(results / "metrics/encode.json", {"images": 1797, "mean_0": -0.39, "std_0": 0.75})
    _json(results / "metrics/reference.json", {"held_out_accuracy": 0.9861})
    _data(results / "samples/prepare", generator)
    for model in MODELS:
        _training(results / f"curves/train-{model}.csv", model, rows, generator)
        _selection(results, model, generator)
        metrics = {"sigma_rel": 0.1, "mparams": 0.0914, "fd_floor": 1.42}
        if model != "teacher":
            metrics["t_mid@2"] = 0.8
        for evaluations, (distance, precision, recall, accuracy, speed) in FIGURES[model].items():
            metrics[f"fd@{evaluations}"] = distance * generator.uniform(0.95, 1.05)
            metrics[f"kid@{evaluations}"] = distance / 100
            metrics[f"precision@{evaluations}"], metrics[f"recall@{evaluations}"] = precision, recall
            metrics[f"accuracy@{evaluations}"] = accuracy
            metrics[f"images_per_second@{evaluations}"] = speed
            _grid(results / f"samples/{model}/nfe-{evaluations}.png", distance, generator)
        _json(results / f"metrics/evaluate-{model}.json", metrics)
    _runs(results / "runs", seed)
    return root


def _data(folder: Path, generator: random.Random) -> None:
    _grid(folder / "contact.png", 4.0, generator)
    shutil.copy(folder / "contact.png", folder / "real.png")
    content: dict = {"images": 1797, "resolution": 8, "channels": 1, "enlarged": 3, "in_colour": 0, "skipped": 2}
    content["classes"] = [{"name": str(digit), "images": 174 + digit} for digit in range(10)]
    content["short_sides"] = [{"from": 4, "to": 7, "images": 3}, {"from": 8, "to": 15, "images": 1794}]
    content["skipped_reasons"] = [{"reason": "not an image file", "files": 2}]
    _json(folder / "data.json", content)


def _training(path: Path, model: str, rows: int, generator: random.Random) -> None:
    lines = []
    for row in range(1, rows + 1):
        part, noise = row / rows, generator.gauss(0, 0.03)
        line: dict[str, float | str] = {"images": row * 4096, "time": 1.79e9 + row * 2.5, "step": row * 32}
        line |= {"loss": 0.4 * math.exp(-4 * part) - 0.2 + noise, "lr": 1e-3 * min(1, 2 - 2 * part) + 1e-9}
        line |= {"grad_norm": 2 * math.exp(-2 * part) + 0.1 + abs(noise), "images_per_second": 900 + 200 * noise}
        line["skipped"] = 0
        for figure in BINNED:
            for k in range(8):
                value: float | str = (1.2 + k) * math.exp(-part) * 0.1 + abs(generator.gauss(0, 0.01))
                line[f"{figure}/{k}"] = "" if model == "teacher" and figure.startswith("tangent") else value
        lines.append(line)
    _csv(path, lines)


def _selection(results: Path, model: str, generator: random.Random) -> None:
    rows: list[dict[str, float | str]] = []
    for sigma_rel in (0.02, 0.05, 0.10, 0.15, 0.20, 0.25):
        distance = 5 + 400 * (sigma_rel - 0.1) ** 2 + abs(generator.gauss(0, 0.1))
        if model == "teacher":
            rows.append({"sigma_rel": sigma_rel, "fd": distance})
            continue
        for t_mid in (0.6, 0.8, 1.1):
            shifted = distance + 8 * abs(t_mid - 0.8)
            rows.append({"sigma_rel": sigma_rel, "steps": 2, "t_mid": t_mid, "fd": shifted, "noise": 0.1})
    points = [{"images": images, "fd": 8 - images / 65536} for images in (65536, 131072)]
    _csv(results / f"curves/progress-{model}.csv", points[1:] if model == "teacher" else points)
    lost = {"teacher": 2.0, "scd": 2.4, "sct": 5.0}[model]
    _csv(results / f"curves/by-time-{model}.csv", [{"t": t, "fd": 1.4 + lost * t} for t in (0.0, 0.3, 0.8, 1.45)])
    choice = {"sigma_rel": 0.1, "fd": min(float(row["fd"]) for row in rows)}
    if model != "teacher":
        rows.append({"sigma_rel": 0.1, "steps": 1, "t_mid": "", "fd": choice["fd"] + 2.2, "noise": 0.0})
    _csv(results / f"curves/select-{model}.csv", rows)
    _json(results / f"metrics/select-{model}.json", choice if model == "teacher" else {**choice, "t_mid": 0.8})


def _grid(path: Path, distance: float, generator: random.Random) -> None:
    """Rows of ten blobs of 8×8 pixels, which blur as the distance grows."""
    picture = Image.new("L", (80, 32))
    spread = 3 + distance**0.5
    for top in range(0, 32, 8):
        for left in range(0, 80, 8):
            row, column = generator.uniform(2, 5), generator.uniform(2, 5)
            for y in range(8):
                for x in range(8):
                    light = 255 * math.exp(-((x - column) ** 2 + (y - row) ** 2) / spread)
                    picture.putpixel((left + x, top + y), int(light))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def _runs(folder: Path, seed: int) -> None:
    upstream = {"preset": "digits", "seed": seed, "data.source": "digits", "network.sigma_d": 0.5}
    upstream |= {"teacher.lr.max": 0.01, "student.scd.images": 131072, "student.common.p_mean": -1.0}
    names = ["prepare", "encode", "reference", "train_teacher", "train_student@scd", "train_student@sct"]
    names += [f"{stage}@{model}" for stage in ("select_ema", "evaluate") for model in MODELS]
    for number, name in enumerate(names):
        stage, _, item = name.partition("@")
        seconds = 148.3 if stage.startswith("train") else 6.2
        run = {
            "key": hashlib.sha256(f"{name} {seed}".encode()).hexdigest(),
            "stage": stage,
            "item": item or None,
            "name": f"{name} · digits · seed {seed}",
            "preset": "digits",
            "seed": seed,
            "started": f"2026-11-24T10:{number:02d}:00+00:00",
            "ended": f"2026-11-24T10:{number:02d}:06.200000+00:00",
            "seconds": seconds,
            "machine": "quiet-owl, 2 cores, Linux",
            "device": "cpu",
            "commit": "3f2a9c1e5b7d4a6f8091a2b3c4d5e6f708192a3b",
            "dirty": True,
            "params_hash": "9b1c44d2e0f7",
            "params": {"seed": seed, "evaluate.samples": 1797, "reference.extractor": "classifier"},
            "chain": upstream if stage == "evaluate" else {},
        }
        _json(folder / f"{name}.json", run)


def _json(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def _csv(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
