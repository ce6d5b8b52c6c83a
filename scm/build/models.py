"""Builds the device and the models that the parameters describe."""

import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scm.base.files import sha256
from scm.base.precision import DTYPES
from scm.base.randomness import global_draws, seed_of
from scm.errors import UserError
from scm.generation.sampler import t_max_of
from scm.generation.trained import repeatable
from scm.methods import StudentSettings
from scm.networks import Model, NetworkSettings
from scm.params.schema import NetworkSection, Runtime, SamplerSettings, TeacherSettings


def device_of(runtime: Runtime) -> str:
    """Chooses cpu or cuda, and sets the number of CPU threads and repeatable algorithms."""
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    repeatable()
    available = torch.cuda.is_available()
    if runtime.device == "cuda" and not available:
        raise UserError("runtime.device is cuda, but torch finds no GPU: set it to auto or cpu")
    return "cuda" if available and runtime.device != "cpu" else "cpu"


def network_settings(network: NetworkSection, classes: int, shape: list[int]) -> NetworkSettings:
    """The network for samples of `shape` [C, R, R] with that many classes."""
    options = {name: getattr(network, name) for name in type(network).model_fields}
    return NetworkSettings(resolution=shape[1], channels=shape[0], classes=classes, **options)


def student_settings(network: NetworkSettings, method: StudentSettings) -> NetworkSettings:
    """The student's network: the teacher's, with its own w_phi and the inputs that the method adds."""
    guided, segmented = method.guidance is not None, method.segments is not None
    return replace(network, log_weight="linear", guidance=guided, segments=segmented)


def new_model(settings: NetworkSettings, training: TeacherSettings | StudentSettings, seed: int) -> Model:
    """An untrained model, with weights drawn from the seed."""
    options: dict[str, Any] = {name: getattr(training, name) for name in ("dropout", "dropout_max_resolution")}
    with global_draws(seed_of(seed, "initial weights")):
        return Model(settings, precision=DTYPES[training.precision], **options)


def compile_networks(module: nn.Module, runtime: Runtime, device: torch.device) -> None:
    """If `runtime.compile` is true, has the module's networks compiled at their first call; weights keep their names.

    Raises:
        UserError: no C++ compiler found.
    """
    if not runtime.compile:
        return
    compiler = shlex.split(os.environ.get("CXX") or "g++")[-1]
    if device.type == "cpu" and not (shutil.which(compiler) or shutil.which("clang++")):
        raise UserError("runtime.compile is true, but there is no C++ compiler: install g++, or set it to false")
    for part in module.modules():
        if isinstance(part, Model):
            part.network.compile()


def new_student(start: Model, method: StudentSettings, seed: int, *, keep_weight: bool = False) -> Model:
    """A student that starts from another model: the same F, with the layers of new inputs at zero.

    Args:
        keep_weight: True copies w_phi, which another student has learned for this loss; False starts it at 0.
    """
    student = new_model(student_settings(start.settings, method), method, seed)
    student.network.load_state_dict({**student.network.state_dict(), **start.network.state_dict()})
    if keep_weight:
        student.log_weight_head.load_state_dict(start.log_weight_head.state_dict())
    return student


def student_header(
    method: str,
    settings: StudentSettings,
    sampler: SamplerSettings,
    student: Model,
    teacher: Mapping[str, Any],
    start: Path,
) -> dict[str, Any]:
    """The header of a student's snapshots: all that its sampling depends on, and its origin.

    Args:
        teacher: header of the teacher's file.
        start: file of the model that the student starts from.
    """
    header = {key: teacher[key] for key in ("classes", "codec", "sigma_d")}
    header |= {"model": method, "network": student.settings.to_dict(), "parent": sha256(start)}
    header["t_max"] = t_max_of(sampler.sigma_max, teacher["sigma_d"])
    further = {"segments": settings.segments, "guidance": settings.guidance}
    return header | {key: value for key, value in further.items() if value is not None}
