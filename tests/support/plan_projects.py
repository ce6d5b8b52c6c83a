"""A small DVC project in the shape of the real one; its stages leave nothing but a hash of what they read."""

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ruamel.yaml import YAML

from scm.presets import apply

ROOT = Path(__file__).parents[2]
MAKE = """
import hashlib, pathlib, sys
keys, deps, outs = (argument.split(",") for argument in sys.argv[1:])
digest = hashlib.md5()
for key in keys:
    lines, depth = [line for line in pathlib.Path("params.yaml").read_text().splitlines() if line], 0
    for part in key.split(".")[:2]:
        start = next(number for number, line in enumerate(lines) if line.startswith("  " * depth + part + ":"))
        end = start + 1
        while end < len(lines) and lines[end].startswith("  " * (depth + 1)):
            end += 1
        lines, depth = lines[start:end], depth + 1
    digest.update("".join(lines).encode())
for dep in deps:
    path = pathlib.Path(dep)
    for file in sorted(path.rglob("[!.]*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.read_bytes())
for out in map(pathlib.Path, outs):
    file = out if out.suffix else out / "a"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('{"hash": "%s"}' % digest.hexdigest())
"""
"""Hashes the lines of some keys of params.yaml and some files: `make.py KEYS FILES OUTPUTS`."""
STAGES = {  # name: (parameters, dependencies, outputs, metrics)
    "prepare": ("data", "${data.path} code/prepare.py", "data/shards", "results/metrics/prepare.json"),
    "train_teacher": ("seed teacher", "data/shards code/networks", "models/teacher/snapshots", ""),
    "train_student": (
        "seed student.${key}.images",
        "data/shards models/${item}/model.json code/networks",
        "models/${key}/snapshots",
        "",
    ),
    "select_ema": ("select.samples", "models/${item.model}/snapshots", "models/${item.model}/model.json", ""),
    "evaluate": (
        "evaluate.samples evaluate.repeats",
        "models/${item.model}/model.json code/evaluate.py",
        "results/samples/${item.model}",
        "results/metrics/evaluate-${item.model}.json",
    ),
    "report": ("preset evaluate.models", "results/metrics results/samples results/runs", "results/report.json", ""),
}
ITEMS = {"train_student": "@${key}", "select_ema": "@${item.model}", "evaluate": "@${item.model}"}


def definition() -> dict:
    """The project's dvc.yaml."""
    stages = {}
    for name, (params, deps, outs, metrics) in STAGES.items():
        made = outs.split()
        if name != "report":
            made.append(f"results/runs/{name}{ITEMS.get(name, '')}.json")
        kept = metrics.split()
        keys, read = params.split(), deps.split()
        arguments = (",".join(part) for part in (keys, read, made + kept))
        stage = {
            "cmd": f"exec {sys.executable} -IS make.py {' '.join(arguments)}",
            "params": keys,
            "deps": read,
            "outs": made,
        }
        if kept:
            stage["metrics"] = [{path: {"cache": False}} for path in kept]
        if name == "train_student":
            stage = {"foreach": "${student.methods}", "do": stage}
        elif name in ITEMS:
            stage["matrix"] = {"model": "${evaluate.models}"}
        stages[name] = stage
    return {"stages": stages}


def environment() -> dict[str, str]:
    """Nobody's MLflow, work folder or git; DVC tells nobody of its use, which costs a process each time."""
    foreign = ("MLFLOW", "SCM_", "DVC_", "GIT_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    return {**kept, "DVC_NO_ANALYTICS": "1"}


def start(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


def run(folder: Path, *command: str) -> str:
    done = start(folder, *command)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def dvc(folder: Path, *arguments: str) -> str:
    return run(folder, sys.executable, "-m", "dvc", *arguments)


def git(folder: Path, *arguments: str) -> str:
    return run(folder, "git", "-c", "user.name=tests", "-c", "user.email=tests@example.invalid", *arguments)


def make(folder: Path) -> Path:
    """Writes the project into `folder`, in git; nothing has run."""
    shutil.copytree(_made(), folder, symlinks=True, dirs_exist_ok=True)
    return folder


@functools.cache
def _made() -> Path:
    """The project, made once in each process, since starting git and DVC takes seconds."""
    folder = Path(tempfile.mkdtemp(prefix="scm-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    files = {
        "make.py": MAKE,
        "data/raw/0/a.png": "an image",
        "data/raw/.gitignore": "*\n!.gitignore\n",
        "code/prepare.py": "1",
        "code/networks/a.py": "1",
        "code/evaluate.py": "1",
        ".gitignore": "/results/*\n!/results/metrics\n/data/shards\n/models\n/mlflow.db*\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "params.yaml", folder)
    apply.apply(folder / "params.yaml", ROOT, "digits-plain")
    with (folder / "dvc.yaml").open("w", encoding="utf-8") as file:
        yaml = YAML(typ="safe")
        yaml.default_flow_style = False
        yaml.dump(definition(), file)
    git(folder, "init", "-q")
    dvc(folder, "init", "-q")
    (folder / ".dvc/config").write_text(
        "[core]\n    analytics = false\n    check_update = false\n[cache]\n    type = copy\n", encoding="utf-8"
    )
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "start")
    return folder


def edit(folder: Path, name: str, key: str, value: object) -> None:
    """Sets a dotted key of a YAML file; None takes it out."""
    yaml = YAML()
    tree = yaml.load((folder / name).read_text(encoding="utf-8"))
    *parents, last = key.split(".")
    node = tree
    for part in parents:
        node = node[part]
    if value is None:
        del node[last]
    else:
        node[last] = value
    with (folder / name).open("w", encoding="utf-8") as file:
        yaml.dump(tree, file)
