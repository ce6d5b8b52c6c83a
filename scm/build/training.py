"""What a training is made of: data, objective, the loop's settings, the probe."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from scm.base.distributed import Ranks
from scm.base.files import sha256
from scm.base.project import TEACHER
from scm.base.randomness import generator, global_draws, seed_of
from scm.build.models import new_student
from scm.data.latents.codec import Codec
from scm.data.shards.loader import LatentLoader
from scm.data.shards.shards import INDEX
from scm.errors import UserError
from scm.generation.sampler import t_max_of
from scm.generation.trained import load_model
from scm.networks import Model
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
from scm.params.schema import Sampler as SamplerSettings
from scm.params.schema import StudentMethod, Teacher
from scm.training.ahead import Data
from scm.training.diagnosis import Context
from scm.training.loop import Auxiliary, Settings
from scm.training.probe import Probe
from scm.training.schedule import Schedule


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


def check_same_index(index: Path, ranks: Ranks) -> None:
    """Compares this process's index.json of data/latents with the first one's.

    Raises:
        UserError: on every process, if it differs on one.
    """
    own = float(int(sha256(index)[:12], 16))  # 48 bits, which a float64 holds exactly
    if ranks.any(own != ranks.of_first(own)):
        raise UserError(f"{index} is not the same on all machines: run `dvc pull data/latents` where it is out of date")
