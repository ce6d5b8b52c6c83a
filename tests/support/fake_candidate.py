"""A project with a candidate that `scm publish` can judge: made-up results, a small dvc.yaml and a dvc.lock."""

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from scm.params import Params, dump, load
from scm.params.project import Project
from scm.results.fingerprint import inputs_of
from scm.tracking import store
from tests.support.fake_results import write_fake_results
from tests.support.projects import make_project

DVC = """
stages:
  evaluate:
    matrix: {model: "${evaluate.models}"}
    cmd: exec python -m stages.evaluate ${item.model}
    params: [sampler, evaluate.samples, evaluate.repeats, evaluate.seed, evaluate.neighbours]
    deps: ["models/${item.model}/model.safetensors", "models/${item.model}/sampling.json", data/reference]
"""


def make_candidates(root: Path) -> Path:
    """The project without a candidate."""
    make_project(root)
    shutil.rmtree(root / "pipelines")
    (root / "dvc.yaml").write_text(DVC, encoding="utf-8")
    write_fake_results(root, rows=2)
    return root


def write_candidate(
    root: Path,
    distances: tuple[float, ...] = (5.0, 5.2, 5.1),
    weights: str = "one",
    t_mid: float = 0.8,
    ruler: str = "ruler 1",
    health: tuple[str, ...] = (),
    **run_entries: Any,
) -> None:
    """What training and evaluation of scd leave: weights, dvc.lock, figures and run files that fit each other."""
    sampling = {"1": {"guidance_scale": 1.0}, "2": {"guidance_scale": 1.0, "t_mid": t_mid}}
    contents = {"model.safetensors": weights, "sampling.json": json.dumps(sampling)}
    (root / "models/scd").mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (root / "models/scd" / name).write_text(content, encoding="utf-8")
    outs = {f"models/scd/{name}": hashlib.md5(content.encode()).hexdigest() for name, content in contents.items()}
    outs |= {"data/reference": ruler, "data/shards": f"shards of {ruler}"}
    lock = {"schema": "2.0", "stages": {"all": {"outs": [{"path": path, "md5": md5} for path, md5 in outs.items()]}}}
    with (root / "dvc.lock").open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(lock, file)
    figures = {"fd@1": 9.0, "fd@2": min(distances), "recall@2": 0.9, "mparams": 0.09}
    if len(distances) > 1:
        figures |= {f"fd_{number}@2": distance for number, distance in enumerate(distances)}
        figures |= {"fd_mean@2": math.fsum(distances) / len(distances), "fd_std@2": 0.1}
    _write(root / "results/metrics/evaluate-scd.json", figures)
    params = load(root / "params.yaml")
    inputs = inputs_of(root, "evaluate", "scd", dump(params))
    changes = {"key": inputs.key, "params": inputs.params, "deps": inputs.dependencies, "dirty": False}
    changes["protocol"] = hashlib.sha256(f"{ruler} {params.evaluate.repeats}".encode()).hexdigest()
    change_run(root, "evaluate@scd", **(changes | run_entries))
    change_run(root, "train_student@scd", health=list(health))


def log_version(project: Project, model: str, tags: dict[str, str], alias: str = "champion") -> str:
    """Stands in for scm.product.packaging.log_version; a version's only file is the model's weights."""
    client, name = store.connect(project.tracking), project.params.registered_name
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    place = (project.root / f"models/{model}").as_uri()
    return str(client.create_model_version(name, place, tags=tags).version)


def change_run(root: Path, run: str, /, **changes: Any) -> None:
    path = root / f"results/runs/{run}.json"
    _write(path, json.loads(path.read_text(encoding="utf-8")) | changes)


def set_param(root: Path, key: str, value: Any) -> Params:
    """Writes one value of params.yaml."""
    yaml, path = YAML(typ="safe", pure=True), root / "params.yaml"
    values = yaml.load(path.read_text(encoding="utf-8"))
    section, _, name = key.partition(".")
    values[section][name] = value
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(values, file)
    return load(path)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
