"""A git repository with results that `scm compare` can read: made-up figures, and a dvc.lock that fits them."""

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from ruamel.yaml import YAML

from tests.support.projects import make_project

MEASURING = {"evaluate.samples": 1000, "evaluate.seed": 0, "evaluate.repeats": 1, "sampler": {"rho": 7.0}}
DVC = """
stages:
  evaluate:
    matrix: {model: "${evaluate.models}"}
    cmd: evaluate ${item.model}
    outs: ["results/samples/${item.model}"]
"""
IDENTITY = {
    f"GIT_{role}_{part}": value
    for role in ("AUTHOR", "COMMITTER")
    for part, value in {"NAME": "t", "EMAIL": "t@example.invalid", "DATE": "2026-11-22T12:00:00+0000"}.items()
}


def git(root: Path, *arguments: str) -> str:
    environment = {**os.environ, **IDENTITY, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    command = ["git", *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def make_repository(root: Path) -> Path:
    """A project without results, in a repository without commits."""
    root.mkdir(exist_ok=True)
    make_project(root)
    (root / "dvc.yaml").write_text(DVC, encoding="utf-8")
    (root / ".gitignore").write_text("/results/samples\n/results/compare.html\n/.dvc\n", encoding="utf-8")
    git(root, "init", "-q", "-b", "main")
    return root


def write_results(
    root: Path,
    figures: Mapping[str, Mapping[str, float]],
    *,
    weights: str = "one",
    ruler: str = "ruler 1",
    images: str = "images 1",
    code: str = "code 1",
    measuring: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    reference: Mapping[str, Any] | None = None,
) -> None:
    """Writes figures of some models, their grids, and the dvc.lock of a pipeline that would leave these."""
    shards = {"path": "data/shards", "md5": _md5(images)}
    extractor = {"reference": {"extractor": "classifier", "seed": 0, **(reference or {})}}
    stages: dict[str, Any] = {"reference": _stage(extractor, [shards], [])}
    for model, found in figures.items():
        student = {f"student.{model}.images": "128Ki", "student.common": {"batch": 128}, **(training or {})}
        method = {"path": f"scm/methods/{model}.py", "md5": _md5(code)}
        stages[f"train_student@{model}"] = _stage(student, [shards, method], [])
        metrics, samples = root / f"results/metrics/evaluate-{model}.json", root / f"results/samples/{model}"
        metrics.parent.mkdir(parents=True, exist_ok=True)
        metrics.write_text(json.dumps(dict(found)), encoding="utf-8")
        samples.mkdir(parents=True, exist_ok=True)
        for count in {name.partition("@")[2] for name in found if name.startswith("fd@")}:
            shade = int(_md5(f"{weights} {model} {count}")[:2], 16)
            Image.new("L", (8, 8), shade).save(samples / f"nfe-{count}.png")
        paths = {f"models/{model}/model.safetensors": weights, f"models/{model}/sampling.json": "sampling"}
        deps = [{"path": path, "md5": _md5(text)} for path, text in {**paths, "data/reference": ruler}.items()]
        outs = [{"path": f"results/metrics/evaluate-{model}.json", "md5": _md5(json.dumps(dict(found)))}]
        outs.append({"path": f"results/samples/{model}", "hash": "md5", "md5": _kept(root, samples)})
        stages[f"evaluate@{model}"] = _stage({**MEASURING, **(measuring or {})}, deps, outs)
    with (root / "dvc.lock").open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump({"schema": "2.0", "stages": stages}, file)


def commit(root: Path, message: str) -> str:
    git(root, "add", ".")
    git(root, "commit", "-q", "--allow-empty", "-m", message)
    return git(root, "rev-parse", "HEAD")


def _stage(params: Mapping[str, Any], deps: list[Any], outs: list[Any]) -> dict[str, Any]:
    return {"cmd": "made up", "deps": deps, "params": {"params.yaml": dict(params)}, "outs": outs}


def _kept(root: Path, folder: Path) -> str:
    """Puts the files of a folder into DVC's cache as DVC itself would; returns the folder's hash."""
    entries = []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        entries.append({"md5": _cached(root, content, ""), "relpath": path.name})
    return _cached(root, json.dumps(entries).encode(), ".dir")


def _cached(root: Path, content: bytes, ending: str) -> str:
    digest = hashlib.md5(content).hexdigest() + ending
    place = root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return digest


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()
