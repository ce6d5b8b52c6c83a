"""A project of a test's own: the shipped presets and params.yaml, with fixed values for digits and digits-plain.

So tests depend neither on a user's edits nor on the tuning of the shipped values.
"""

import copy
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from scm import methods
from scm.base.yaml_files import render
from scm.params import USERS_SECTIONS, Params, validate
from scm.presets import apply

ROOT = Path(__file__).parents[2]
FIXED = """
extends: shipped
data: {source: digits, path: data/raw, labels: true, resolution: 8, channels: 1, held_out: 0.0}
reference: {classifier: {held_out: 0.2}}
codec: {name: identity, normalize: measured}
network:
  architecture: edm2
  sigma_d: 0.5
  width: 32
  multipliers: [1, 2]
  blocks: 1
  attention: [4]
  channels_per_head: 32
  modulation: double_norm
teacher:
  images: 320Ki
  batch: 128
  precision: fp32
  p_mean: -0.8
  optimizer: {name: adam, betas: [0.9, 0.99], eps: 1.0e-11}
  lr: {max: 1.0e-2, warmup: 10Ki, decay: cosine, decay_from: 160Ki}
  label_dropout: 0.0
student:
  methods: {scd: teacher, sct: teacher}
  common:
    batch: 128
    p_mean: -1.0
    lr: {max: 1.0e-3, warmup: 5Ki, decay: cosine, decay_from: 64Ki}
    tangent: normalized
    tangent_warmup: 20Ki
    adaptive_weighting: true
  scd: {images: 128Ki, dropout: 0.0}
  sct: {images: 128Ki, dropout: 0.0}
ema: {profiles: [0.05, 0.10], snapshots: 16, halflife: null}
sampler: {sigma_min: 0.002, sigma_max: 80.0, rho: 7.0, teacher_steps: 18}
select:
  sigma_rel: {teacher: [0.05], student: [0.05, 0.10]}
  guidance: {teacher: [1.0], student: [1.0]}
  t_mid: [0.6, 0.8, 1.1]
  coarse: null
  samples: 1797
  progress: 4
evaluate: {models: [teacher, scd, sct], samples: 1797, seed: 1000000, teacher_few_steps: 2, neighbours: 3}
runtime:
  device: auto
  threads: null
  processes: 1
  compile: false
  log_every: 4Ki
  checkpoint_every: 32Ki
  checkpoint_minutes: 15
mlflow: {enabled: true, uri: null, experiment: null}
publish: {name: null, model: scd, evaluations: null, allowed: 0.0, deviations: 2.0}
"""


INTERVALS = ("log_every", "checkpoint_every", "checkpoint_minutes")
"""What presets name of the section runtime."""


def make_project(folder: Path) -> Path:
    """dvc.yaml (empty), the presets and params.yaml with digits applied; returns params.yaml's path."""
    for name, text in _files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "params.yaml"


@functools.cache
def _files() -> dict[str, str]:
    """The project's files, made once in each process, since applying presets takes a while."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        _fill(folder)
        paths = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in paths}


def _fill(folder: Path) -> None:
    presets_folder = folder / "pipelines" / "presets"
    shutil.copytree(ROOT / "pipelines", folder / "pipelines")
    (presets_folder / "digits-plain.yaml").rename(presets_folder / "shipped.yaml")
    (presets_folder / "fixed.yaml").write_text(FIXED, encoding="utf-8")
    values = apply.resolve(folder, "fixed")
    digits = presets_folder / "digits.yaml"
    digits.write_text(render(values), encoding="utf-8")
    (presets_folder / "digits-plain.yaml").write_text("extends: digits\n", encoding="utf-8")
    params_file = folder / "params.yaml"
    shutil.copy(ROOT / "params.yaml", params_file)
    for gone, stays in (("scd", "sct"), ("sct", "scd")):  # blocks that come anew take one line each
        without = {"student": {"methods": {stays: "teacher"}, gone: None}, "evaluate": {"models": ["teacher", stays]}}
        apply.apply(params_file, folder, "digits", further=without)
    apply.apply(params_file, folder, "digits")
    values["runtime"] = {key: values["runtime"][key] for key in INTERVALS}
    for users_section in {*USERS_SECTIONS} - {"runtime"}:
        values.pop(users_section)
    digits.write_text(render(values), encoding="utf-8")
    for name in ("shipped", "fixed"):
        (presets_folder / f"{name}.yaml").unlink()
    (folder / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")


@functools.cache
def _values() -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(_files()["params.yaml"])


def values_with(changes: dict[str, Any]) -> dict[str, Any]:
    """The fixed values with some changed, named by dotted keys."""
    values = copy.deepcopy(_values())
    for key, value in changes.items():
        *sections, last = key.split(".")
        functools.reduce(dict.__getitem__, sections, values)[last] = value
    return values


def params_with(changes: dict[str, Any]) -> Params:
    """The same, checked."""
    return validate(values_with(changes), "params.yaml")


def has_local_edits() -> bool:
    """Whether params.yaml or the presets differ from what git holds."""
    command = ["git", "diff", "--quiet", "HEAD", "--", "params.yaml", "pipelines/presets"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 1


METHODS = methods.names()


OWN_VALUES = {
    "p_mean": -0.7, "p_std": 1.3, "tangent": "clipped", "tangent_norm_c": 0.2, "tangent_warmup": "3Ki",
    "adaptive_weighting": False, "label_dropout": 0.2,
}  # fmt: skip


def params_of_all(guidance: list[float] | None = None, **changes: Any) -> Params:
    """Every method switched on, with values that are nobody's default."""
    block = {"images": "128Ki", "dropout": 0.0} | ({} if guidance is None else {"guidance": guidance})
    vsd = {"vsd": {"weight": 0.7, "p_mean": 0.3, "p_std": 1.9}}
    vsd |= {"fake_score": {"lr_max": 3e-4, "dropout": 0.25, "p_mean": -0.6, "p_std": 1.5, "updates": 2}}
    further = {"discrete": {"points": 5}, "multistep": {"segments": 3}, "scd_vsd": vsd, "vsd": vsd, "scd": {}}
    own = {"trajectories": {"steps": 5, "kept": 2, "uses": 3, "from_noise": 0.4}}
    further |= {"kd": own, "dmd": {**vsd, **own, "steps": 3}}
    gan = {"weight": 0.6, "p_mean": 0.1, "p_std": 1.2, "heads": 3, "width": 8, "lr_max": 2e-4}
    further |= {"rcm": {**vsd, "steps": 3}, "scd_gan": {"gan": gan}, "ayf": {"r_max": 0.9}, "facm": {"anchor": 0.5}}
    ect = {"q": 4.0, "k": 6.0, "b": 0.5, "doubling": "48Ki", "c": 0.03}
    meanflow = {"jumps": 0.6, "weight_p": 0.7, "weight_c": 0.01}
    of_data = {
        f"student.{name}": {"images": "128Ki", "dropout": 0.0, **own}
        for name, own in (("ect", ect), ("meanflow", meanflow))
    }
    return params_with(
        {f"student.common.{key}": value for key, value in OWN_VALUES.items()}
        | {f"student.{method}": {**block, **more} for method, more in further.items()}
        | of_data
        | {"student.methods": dict.fromkeys(METHODS, "teacher"), "evaluate.models": ["teacher", *METHODS]}
        | {"teacher.label_dropout": 0.1, "sampler.sigma_min": 0.01, "sampler.sigma_max": 50.0, "sampler.rho": 5.0}
        | changes
    )
