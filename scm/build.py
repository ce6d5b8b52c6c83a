"""Parameters to objects: the only factory."""

import math
import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from scm import weights
from scm.data.codec import Codec
from scm.data.loader import LatentLoader
from scm.data.shards import INDEX
from scm.drawing import PRECISIONS, evaluations_of, model_of, repeatable
from scm.errors import UserError
from scm.evaluation.extractors.classifier import ClassifierSettings
from scm.evaluation.generate import (
    Sampler,
    consistency_sampler,
    ddim_sampler,
    heun_sampler,
    multistep_sampler,
    t_max_of,
)
from scm.files import read_json, sha256
from scm.networks import Model, NetworkSettings
from scm.networks.model import LogWeight
from scm.objectives import (
    ConsistencyDistillation,
    ConsistencyTraining,
    Diffusion,
    DiscreteDistillation,
    FakeScore,
    MultistepDistillation,
    Objective,
    ScoreDistillation,
)
from scm.objectives.discrete import time_grid
from scm.params import Params
from scm.params.schema import TEACHER, TWO_STEPS, Network, Runtime, StudentMethod, Teacher
from scm.params.schema import Sampler as SamplerSettings
from scm.randomness import generator, global_draws, seed_of
from scm.samplers import edm_sigmas
from scm.training.agreement import check_same_index
from scm.training.ahead import Data
from scm.training.diagnosis import Context
from scm.training.distributed import Ranks
from scm.training.loop import Auxiliary, Settings
from scm.training.probe import Probe
from scm.training.schedule import Schedule
from scm.trigflow import time_of_sigma

SAMPLING = "sampling.json"
"""How a selected model is sampled: beside its weights, so that another choice retrains nobody who starts from them."""
COMPILE_OPTIONS: dict[str, Any] = {"fallback_random": True}
"""Of torch.compile: dropout draws from the generators that it draws from without compilation."""


def device_of(runtime: Runtime) -> str:
    """cpu or cuda; sets the number of CPU threads and repeatable algorithms on the way."""
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    repeatable()
    available = torch.cuda.is_available()
    if runtime.device == "cuda" and not available:
        raise UserError("runtime.device is cuda, but torch finds no GPU: set it to auto or cpu")
    return "cuda" if available and runtime.device != "cpu" else "cpu"


def classifier_settings(params: Params) -> ClassifierSettings:
    """How the pipeline's own extractor is built and trained."""
    return ClassifierSettings(**params.reference.classifier.model_dump())


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


M = TypeVar("M", bound=nn.Module)


def compiled(module: M, runtime: Runtime, device: torch.device) -> M:
    """The module, networks compiled at their first call if `runtime.compile` says so; weights keep their names.

    Raises:
        UserError: there is nothing to compile with.
    """
    if runtime.compile:
        compiler = shlex.split(os.environ.get("CXX") or "g++")[-1]
        if device.type == "cpu" and not (shutil.which(compiler) or shutil.which("clang++")):
            raise UserError("runtime.compile is true, but there is no C++ compiler: install g++, or set it to false")
        for part in module.modules():
            if isinstance(part, Model):
                part.network.compile(options=COMPILE_OPTIONS)
    return module


def new_student(start: Model, method: StudentMethod, seed: int, *, keep_weight: bool = False) -> Model:
    """A student that starts as another model: the same F, and new inputs at zero.

    Args:
        keep_weight: take w_phi along, as of a student of the same loss; else it starts at 0.
    """
    student = new_model(student_settings(start.settings, method), method, seed)
    student.network.load_state_dict({**student.network.state_dict(), **start.network.state_dict()})
    if keep_weight:
        student.log_weight_head.load_state_dict(start.log_weight_head.state_dict())
    return student


def student_header(
    method: str,
    settings: StudentMethod,
    sampler: SamplerSettings,
    student: Model,
    teacher: Mapping[str, Any],
    start: Path,
) -> dict[str, Any]:
    """What a student's snapshots say of it: whatever its sampling depends on, and what it was made from.

    Args:
        teacher: header of the teacher's file.
        start: the file of the model that it starts from.
    """
    header = {key: teacher[key] for key in ("classes", "codec", "sigma_d")}
    header |= {"model": method, "network": student.settings.to_dict(), "parent": sha256(start)}
    header["t_max"] = t_max_of(sampler.sigma_max, teacher["sigma_d"])
    further = {"segments": settings.segments, "guidance": settings.guidance}
    return header | {key: value for key, value in further.items() if value is not None}


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[Model, dict[str, Any]]:
    """A trained model in eval mode and the header of its file."""
    state, header = weights.load(path)
    return model_of(state, header, device), header


def load_selected(folder: Path, device: torch.device | str = "cpu") -> tuple[Model, dict[str, Any]]:
    """The model in models/<name>, and its header with how selection chose to sample it: `guidance_scale`, t_mid."""
    model, header = load_model(folder / "model.safetensors", device)
    return model, {**header, **read_json(folder / SAMPLING)}


class TrainingData:
    """x_0 and labels at any position: the loader's stored samples served by the codec."""

    def __init__(self, folder: Path, seed: int, batch: int, ranks: Ranks) -> None:
        """Opens the shards; a UserError if they are damaged, or other processes have other data."""
        self.loader = LatentLoader(folder, seed, batch, ranks.rank, ranks.world)
        check_same_index(folder / INDEX, ranks)
        self.codec = Codec(self.loader.codec_header)
        self._seed, self._ranks = seed, ranks

    def batch_at(self, images_seen: int) -> tuple[Tensor, Tensor]:
        stored, labels = self.loader.batch_at(images_seen)
        first = images_seen + self._ranks.rank * len(stored)
        return self.codec.serve(stored, lambda place: generator(self._seed, "latents", first + place)), labels


def fitting_teacher(path: Path, data: TrainingData, settings: StudentMethod) -> tuple[Model, dict[str, Any]]:
    """The teacher, frozen, and its header.

    Raises:
        UserError: it was made for other data, or cannot be guided where the method asks for it.
    """
    teacher, header = load_model(path)
    if header["codec"] != data.codec.header:
        raise UserError(f"{path} was trained on another encoding than data/latents: run `dvc repro train_teacher`")
    if len(header["classes"]) != len(data.loader.classes):
        raise UserError(
            f"{path} knows {len(header['classes'])} classes, data/latents has {len(data.loader.classes)}: "
            "train a teacher on these data, or prepare those that it was trained on"
        )
    if settings.guidance and not header.get("label_dropout"):
        raise UserError(
            f"{path} cannot be guided, as it was never trained without labels: take guidance out of the method, "
            "or train a teacher with label_dropout 0.1"
        )
    return teacher.requires_grad_(False), header


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
        context=health_context(params, training, header),
    )


def health_context(params: Params, training: Teacher | StudentMethod, header: Mapping[str, Any]) -> Context:
    """The settings that a run's diagnosis gives advice by, and where they stand.

    Args:
        header: of the run's snapshots.
    """
    network, method = header["network"], header["model"]
    values: dict[str, Any] = {name: network[name] for name in ("embedding", "fourier_scale", "c_noise")}
    places: dict[str, str | None] = {}
    if isinstance(training, StudentMethod):
        places |= {key: f"student.{method}.{key}" for key in getattr(params.student, method).model_fields_set}
        if method == "vsd":  # knows neither tangents nor times but its block's
            places |= dict.fromkeys(("p_mean", "p_std"))
        else:
            values |= {name: getattr(training, name) for name in ("tangent", "tangent_norm_c", "tangent_warmup")}
        if not training.tangent_warmup and params.student.methods.get(method) != TEACHER:
            places["tangent_warmup"] = None  # what it starts from has finished with that
    if isinstance(training, StudentMethod) and training.vsd and training.fake_score:
        values |= {"vsd_weight": training.vsd.weight, "fake_lr_max": training.fake_score.lr_max}
    return Context(
        block="student.common" if isinstance(training, StudentMethod) else TEACHER,
        places=places,
        lr_max=training.lr.max,
        precision=training.precision,
        data_norm=network["sigma_d"] * math.sqrt(network["channels"]) * network["resolution"],
        **values,
    )


def student_probe(params: Params, settings: StudentMethod, student: Model, data: Data) -> Probe:
    """The distance of a student's samples while it trains; a guided one is sampled at the smallest scale it learns."""
    sigma_d = student.settings.sigma_d
    return Probe(
        data,
        settings.batch,
        params.seed,
        t_max_of(params.sampler.sigma_max, sigma_d),
        sigma_d,
        settings.segments,
        None if settings.guidance is None else settings.guidance[0],
    )


def diffusion(params: Params) -> Diffusion:
    """The teacher's objective."""
    teacher = params.teacher
    return Diffusion(params.network.sigma_d, teacher.p_mean, teacher.p_std, teacher.label_dropout)


def student_objective(
    method: str, settings: StudentMethod, sampler: SamplerSettings, teacher: Model, seed: int
) -> tuple[Objective, Auxiliary | None]:
    """The objective of one of `student.methods`, and what it trains beside the student."""
    sigma_d = teacher.settings.sigma_d
    common: dict[str, Any] = {"sigma_d": sigma_d, "label_dropout": settings.label_dropout}
    scm: dict[str, Any] = {
        name: getattr(settings, name)
        for name in ("p_mean", "p_std", "tangent", "tangent_norm_c", "tangent_warmup", "adaptive_weighting")
    }
    if method == "sct":
        return ConsistencyTraining(**common, **scm), None
    distillation = {**common, "teacher": teacher, "guidance": settings.guidance}
    t_max = t_max_of(sampler.sigma_max, sigma_d)
    if method == "scd":
        return ConsistencyDistillation(**distillation, **scm), None
    if method == "discrete":
        assert settings.points
        grid = time_grid(settings.points, sampler.sigma_min, sampler.sigma_max, sampler.rho, sigma_d)
        return DiscreteDistillation(**distillation, **scm, grid=grid), None
    if method == "multistep":
        assert settings.segments
        return MultistepDistillation(**distillation, **scm, segments=settings.segments, t_max=t_max), None
    assert settings.vsd and settings.fake_score
    fake = fake_score(teacher, settings, seed)
    objective = ScoreDistillation(
        **distillation,
        t_max=t_max,
        weight=settings.vsd.weight,
        p_mean=settings.vsd.p_mean,
        p_std=settings.vsd.p_std,
        fake=fake,
        fake_p_mean=settings.fake_score.p_mean,
        fake_p_std=settings.fake_score.p_std,
        updates=settings.fake_score.updates,
        adaptive_weighting=settings.adaptive_weighting,
        consistency=None if method == "vsd" else ConsistencyDistillation(**distillation, **scm),
    )
    return objective, Auxiliary(fake, settings.fake_score.lr_max / settings.lr.max)


def fake_score(teacher: Model, settings: StudentMethod, seed: int) -> FakeScore:
    """F of the generator's own samples, started from the teacher; it is told the guidance scale as the generator is."""
    assert settings.fake_score
    network = new_student(teacher, settings.model_copy(update={"dropout": settings.fake_score.dropout}), seed)
    with global_draws(seed_of(seed, "weight of score distillation")):
        return FakeScore(network, LogWeight())


def samplers(params: Params, header: Mapping[str, Any], scale: float, t_mid: float | None) -> list[Sampler]:
    """The samplers that a model is measured with, fewest evaluations first.

    A teacher's few-step and full one; of multistep a jump for each segment; else one step and, at `t_mid`, two.

    Args:
        header: of the model's file, or of one of its snapshots.
        scale: of guidance, which doubles a teacher's evaluations.
    """
    settings, sigma_d = params.sampler, header["sigma_d"]
    if header["model"] == TEACHER:
        few = ddim_sampler(few_step_times(params, sigma_d), sigma_d)
        full = heun_sampler(settings.teacher_steps, settings.sigma_min, settings.sigma_max, settings.rho, sigma_d)
        evaluations = evaluations_of(header, scale)
        return [replace(each, nfe=each.nfe * evaluations) for each in (few, full)]
    t_max = header["t_max"]
    if "segments" in header:
        return [multistep_sampler(header["segments"], t_max, sigma_d)]
    one_step = consistency_sampler([t_max], sigma_d)
    return [one_step] if t_mid is None else [one_step, consistency_sampler([t_max, t_mid], sigma_d)]


def two_step_times(params: Params, header: Mapping[str, Any]) -> tuple[float, ...]:
    """The candidates for t_mid of a model that is sampled in two steps; none for others."""
    return params.select.t_mid if header["model"] in TWO_STEPS else ()


def scales_of(params: Params, header: Mapping[str, Any]) -> tuple[float, ...]:
    """The candidates for the guidance scale: 1 alone for a student that was not trained for another."""
    scales = params.select.guidance
    if header["model"] != TEACHER:
        return scales.student if header["network"].get("guidance") else (1.0,)
    for scale in scales.teacher:
        if scale != 1 and not header.get("label_dropout"):
            problem = "this teacher was never trained without labels, and cannot be guided"
            raise UserError(f"params.yaml: select.guidance.teacher = {scale}: {problem}; write [1.0]")
    return scales.teacher


def is_guided(header: Mapping[str, Any]) -> bool:
    """Whether the guidance scale plays a part in what the model draws."""
    return bool(header["network"].get("guidance")) or header["guidance_scale"] != 1


def few_step_times(params: Params, sigma_d: float) -> list[float]:
    """Times of the teacher's few-step DDIM, radians, ending with 0."""
    settings, steps = params.sampler, params.evaluate.teacher_few_steps
    if params.evaluate.teacher_few_spacing == "edm":
        sigmas = edm_sigmas(steps, settings.sigma_min, settings.sigma_max, settings.rho)
        return [time_of_sigma(sigma, sigma_d) for sigma in sigmas]
    t_max = t_max_of(settings.sigma_max, sigma_d)
    return [t_max * (1 - step / steps) for step in range(steps + 1)]
