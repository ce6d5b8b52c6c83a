"""Parameters to objects: the only factory."""

import os
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scm import weights
from scm.data.codec import Codec
from scm.data.loader import LatentLoader
from scm.errors import UserError
from scm.evaluation.generate import Sampler, consistency_sampler, ddim_sampler, heun_sampler, t_max_of
from scm.networks import Model, NetworkSettings
from scm.objectives import ConsistencyDistillation, ConsistencyTraining, Diffusion, Objective
from scm.params import Params
from scm.params.schema import Network, Runtime, StudentMethod, Teacher
from scm.randomness import generator, global_draws, seed_of
from scm.samplers import edm_sigmas
from scm.training.distributed import Ranks
from scm.training.loop import Settings
from scm.training.schedule import Schedule
from scm.trigflow import time_of_sigma

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

COMPILE_OPTIONS: dict[str, Any] = {"fallback_random": True}
"""Of torch.compile: dropout draws from the generators that it draws from without compilation."""


def device_of(runtime: Runtime) -> str:
    """cpu or cuda; sets the number of CPU threads and repeatable algorithms on the way."""
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # fp32 means fp32
    available = torch.cuda.is_available()
    if runtime.device == "cuda" and not available:
        raise UserError("runtime.device is cuda, but torch finds no GPU: set it to auto or cpu")
    return "cuda" if available and runtime.device != "cpu" else "cpu"


def network_settings(network: Network, classes: int, shape: list[int]) -> NetworkSettings:
    """The network's shape for data of `shape` [C, R, R] with that many classes."""
    options = {name: getattr(network, name) for name in type(network).model_fields}
    return NetworkSettings(resolution=shape[1], channels=shape[0], classes=classes, **options)


def student_settings(network: NetworkSettings, method: StudentMethod) -> NetworkSettings:
    """A student's network: its teacher's, with a w_phi of its own and the inputs that its method adds."""
    guided, segmented = method.guidance is not None, method.segments is not None
    return replace(network, log_weight="linear", guidance=guided, segments=segmented)


def new_model(settings: NetworkSettings, training: Teacher | StudentMethod, seed: int) -> Model:
    """An untrained model; its weights follow from the seed."""
    with global_draws(seed_of(seed, "initial weights")):
        return Model(
            settings,
            dropout=training.dropout,
            dropout_max_resolution=training.dropout_max_resolution,
            precision=PRECISIONS[training.precision],
        )


def compiled(model: Model, runtime: Runtime, device: torch.device) -> Model:
    """The model, its network compiled at its first call if `runtime.compile` says so; its weights keep their names.

    Raises:
        UserError: there is nothing to compile with.
    """
    if runtime.compile:
        compiler = shlex.split(os.environ.get("CXX") or "g++")[-1]
        if device.type == "cpu" and not (shutil.which(compiler) or shutil.which("clang++")):
            raise UserError("runtime.compile is true, but there is no C++ compiler: install g++, or set it to false")
        model.network.compile(options=COMPILE_OPTIONS)
    return model


def new_student(teacher: Model, method: StudentMethod, seed: int) -> Model:
    """A student that starts as its teacher: the same F, w_phi = 0, and new inputs at zero."""
    student = new_model(student_settings(teacher.settings, method), method, seed)
    student.network.load_state_dict({**student.network.state_dict(), **teacher.network.state_dict()})
    return student


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[Model, dict[str, Any]]:
    """A trained model in eval mode and the header of its file."""
    state, header = weights.load(path)
    return model_of(state, header, device), header


def model_of(state: dict[str, Tensor], header: dict[str, Any], device: torch.device | str) -> Model:
    """The model that a state and its header describe, in eval mode."""
    model = Model(NetworkSettings.from_dict(header["network"]), precision=PRECISIONS[header["precision"]])
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        problem = str(error).splitlines()[-1].strip()
        raise UserError(f"weights do not fit their header ({problem}): delete them and run `dvc repro`") from None
    return model.to(device).eval()


class TrainingData:
    """x_0 and labels at any position: the loader's stored samples served by the codec."""

    def __init__(self, folder: Path, seed: int, batch: int, ranks: Ranks) -> None:
        self.loader = LatentLoader(folder, seed, batch, ranks.rank, ranks.world)
        self.codec = Codec(self.loader.codec_header)
        self._seed, self._ranks = seed, ranks

    def batch_at(self, images_seen: int) -> tuple[Tensor, Tensor]:
        stored, labels = self.loader.batch_at(images_seen)
        draws = generator(self._seed, "latents", images_seen, self._ranks.rank)
        return self.codec.serve(stored, draws), labels


def training_settings(
    params: Params, training: Teacher | StudentMethod, purpose: str, header: dict[str, Any]
) -> Settings:
    """The loop's settings for one training stage."""
    rate = training.lr
    return Settings(
        images=training.images,
        batch=training.batch,
        seed=params.seed,
        purpose=purpose,
        optimizer=training.optimizer.name,
        betas=training.optimizer.betas,
        eps=training.optimizer.eps,
        schedule=Schedule(rate.max, rate.warmup, rate.decay, rate.decay_from, training.images),
        profiles=params.ema.profiles,
        halflife=params.ema.halflife,
        snapshots=params.ema.snapshots,
        half_precision=training.precision == "fp16",
        header={**header, "precision": training.precision, "preset": params.preset},
        log_every=params.runtime.log_every,
        checkpoint_every=params.runtime.checkpoint_every,
    )


def diffusion(params: Params) -> Diffusion:
    """The teacher's objective."""
    teacher = params.teacher
    return Diffusion(params.network.sigma_d, teacher.p_mean, teacher.p_std, teacher.label_dropout)


def student_objective(method: str, settings: StudentMethod, sigma_d: float, teacher: Model) -> Objective:
    """The objective of one of `student.methods`."""
    common: dict[str, Any] = {
        "sigma_d": sigma_d,
        "p_mean": settings.p_mean,
        "p_std": settings.p_std,
        "tangent_norm_c": settings.tangent_norm_c,
        "tangent_warmup": settings.tangent_warmup,
        "label_dropout": settings.label_dropout,
    }
    if method == "scd":
        return ConsistencyDistillation(**common, teacher=teacher)
    return ConsistencyTraining(**common)


def teacher_samplers(params: Params, sigma_d: float) -> list[Sampler]:
    """The teacher's few-step sampler and its full one."""
    return [ddim_sampler(few_step_times(params, sigma_d), sigma_d), full_sampler(params, sigma_d)]


def few_step_times(params: Params, sigma_d: float) -> list[float]:
    """Times of the teacher's few-step DDIM, radians, ending with 0."""
    settings, steps = params.sampler, params.evaluate.teacher_few_steps
    if params.evaluate.teacher_few_spacing == "edm":
        sigmas = edm_sigmas(steps, settings.sigma_min, settings.sigma_max, settings.rho)
        return [time_of_sigma(sigma, sigma_d) for sigma in sigmas]
    t_max = t_max_of(settings.sigma_max, sigma_d)
    return [t_max * (1 - step / steps) for step in range(steps + 1)]


def full_sampler(params: Params, sigma_d: float) -> Sampler:
    settings = params.sampler
    return heun_sampler(settings.teacher_steps, settings.sigma_min, settings.sigma_max, settings.rho, sigma_d)


def student_sampler(sigma_max: float, sigma_d: float, t_mid: float | None) -> Sampler:
    """Consistency sampling in one step, or in two with the second at t_mid."""
    times = [t_max_of(sigma_max, sigma_d)] + ([] if t_mid is None else [t_mid])
    return consistency_sampler(times, sigma_d)
