"""Builds the device and the models that the parameters describe."""

import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from scm import methods
from scm.base.distributed import Ranks
from scm.base.files import sha256
from scm.base.precision import AUTO, DTYPES, has_bf16, precision_on
from scm.base.randomness import global_draws, seed_of
from scm.errors import UserError
from scm.generation.sampler import t_max_of
from scm.generation.trained import repeatable
from scm.methods import StudentSettings
from scm.networks import Model, NetworkSettings
from scm.params.schema import NetworkSection, Runtime, SamplerSettings, TeacherSettings

TrainingSettings = TypeVar("TrainingSettings", TeacherSettings, StudentSettings)


def device_of(runtime: Runtime) -> str:
    """Chooses cpu or cuda, and sets the number of CPU threads and repeatable algorithms."""
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    repeatable()
    available = torch.cuda.is_available()
    if runtime.device == "cuda" and not available:
        raise UserError("runtime.device is cuda, but torch finds no GPU: set it to auto or cpu")
    return "cuda" if available and runtime.device != "cpu" else "cpu"


def with_precision(settings: TrainingSettings, ranks: Ranks, say: Callable[[str], None]) -> TrainingSettings:
    """The settings with the format that this machine computes in, in place of `auto`; a line tells the choice.

    Raises:
        UserError: the processes' machines choose differently.
    """
    device, asked = ranks.device, settings.precision
    precision = precision_on(device, asked)
    own = float(list(DTYPES).index(precision))
    if ranks.any(own != ranks.of_first(own)):
        raise UserError("precision is auto, but not all machines have bf16 instructions: write precision: fp32 or bf16")
    if asked == AUTO:
        say(f"precision auto: {precision}, as {device} has {'' if has_bf16(device) else 'no '}bf16 instructions")
    elif precision == "bf16" and not has_bf16(device):
        say(f"warning: {device} has no bf16 instructions and takes several times as long as in fp32: precision: auto")
    return settings.model_copy(update={"precision": precision})


def network_settings(network: NetworkSection, classes: int, shape: list[int], augment: float = 0.0) -> NetworkSettings:
    """The teacher's network for samples of `shape` [C, R, R] with that many classes.

    Args:
        augment: probability of augmentation in its training; above 0 the network is told of it.
    """
    options = {name: getattr(network, name) for name in type(network).model_fields}
    return NetworkSettings(resolution=shape[1], channels=shape[0], classes=classes, augment=augment > 0, **options)


def student_settings(network: NetworkSettings, method: StudentSettings) -> NetworkSettings:
    """The student's network: the teacher's, with its own w_phi and the inputs that the method adds.

    It is not told of augmentation, as its own images are not augmented.
    """
    guided = method.guidance is not None
    return replace(network, log_weight="linear", guidance=guided, segments=method.second_time, augment=False)


def new_model(settings: NetworkSettings, training: TeacherSettings | StudentSettings, seed: int) -> Model:
    """An untrained model, with weights drawn from the seed."""
    options: dict[str, Any] = {name: getattr(training, name) for name in ("dropout", "dropout_max_resolution")}
    with global_draws(seed_of(seed, "initial weights")):
        return Model(settings, precision=DTYPES[training.precision], **options)


def compile_networks(module: nn.Module, runtime: Runtime, device: torch.device, say: Callable[[str], None]) -> None:
    """Has the networks compiled at their first call, if `runtime.compile` asks for it; weights keep their names.

    `auto` asks for it on a GPU, if the machine has what torch.compile needs there; a line tells the choice.

    Raises:
        UserError: `runtime.compile` is true, but there is no C++ compiler.
    """
    if runtime.compile is False or (runtime.compile == AUTO and device.type == "cpu"):
        return
    if device.type == "cpu" and not _has_compiler("CXX", "g++", "clang++"):
        raise UserError("runtime.compile is true, but there is no C++ compiler: install g++, or set it to false")
    if runtime.compile == AUTO and not (find_spec("triton") and _has_compiler("CC", "gcc", "clang", "cc")):
        say("runtime.compile auto: off, so steps are slower: torch.compile needs a C compiler, such as gcc, and Triton")
        return
    say("the networks are compiled in the first steps, which takes minutes; runtime.compile: false leaves it out")
    # What `repeatable` has set holds for compiled code as well if torch is told so; this imports the compiler.
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled(), warn_only=warn_only)
    for part in module.modules():
        if isinstance(part, Model):
            part.network.compile()


def _has_compiler(variable: str, *usual: str) -> bool:
    given = shlex.split(os.environ.get(variable) or usual[0])[-1]
    return any(shutil.which(program) for program in (given, *usual[1:]))


def new_student(start: Model, method: StudentSettings, seed: int, *, keep_weight: bool = False) -> Model:
    """A student that starts from another model: the same F, with the layers of new inputs at zero.

    A teacher's layer that is told of augmentation is left out, which is F of images that are not augmented.

    Args:
        keep_weight: True copies w_phi, which another student has learned for this loss; False starts it at 0.
    """
    student = new_model(student_settings(start.settings, method), method, seed)
    state = {name: value for name, value in start.network.state_dict().items() if "_augment." not in name}
    student.network.load_state_dict({**student.network.state_dict(), **state})
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
    any_steps = methods.find(method).any_steps or None
    further = {"segments": settings.segments, "any_steps": any_steps, "guidance": settings.guidance}
    return header | {key: value for key, value in further.items() if value is not None}
