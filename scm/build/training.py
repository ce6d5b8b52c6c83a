"""What a training is made of: data, objective, the loop's settings, the probe."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from scm import methods
from scm.base.distributed import Ranks
from scm.base.files import sha256
from scm.base.project import TEACHER
from scm.base.randomness import generator
from scm.build.models import new_student
from scm.data.latents.codec import Codec
from scm.data.shards.loader import LatentLoader
from scm.data.shards.shards import INDEX
from scm.errors import UserError
from scm.generation.sampler import t_max_of
from scm.generation.trained import load_model
from scm.methods import StudentSettings
from scm.networks import Model
from scm.objectives.diffusion import Diffusion
from scm.objectives.protocol import Objective
from scm.params import Params
from scm.params.schema import Sampler as SamplerSettings
from scm.params.schema import Teacher
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


def fitting_teacher(path: Path, data: TrainingData, settings: StudentSettings) -> tuple[Model, dict[str, Any]]:
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
    params: Params, training: Teacher | StudentSettings, purpose: str, header: dict[str, Any]
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


def health_context(params: Params, training: Teacher | StudentSettings, header: Mapping[str, Any]) -> Context:
    """The settings that a run's diagnosis gives advice by, and where they stand.

    Args:
        header: of the run's snapshots.
    """
    network, method = header["network"], header["model"]
    values: dict[str, Any] = {name: network[name] for name in ("embedding", "fourier_scale", "c_noise")}
    places: dict[str, str | None] = {}
    if isinstance(training, StudentSettings):
        found = methods.find(method)
        places |= {key: f"student.{method}.{key}" for key in training.own.model_fields_set}
        if found.by_tangent:
            values |= {name: getattr(training, name) for name in ("tangent", "tangent_norm_c", "tangent_warmup")}
        else:  # its times are in a block of its own
            places |= dict.fromkeys(("p_mean", "p_std"))
        if not training.tangent_warmup and params.student.methods.get(method) != TEACHER:
            places["tangent_warmup"] = None  # what it starts from has finished with that
        values |= found.advice(training)
    return Context(
        block="student.common" if isinstance(training, StudentSettings) else TEACHER,
        places=places,
        lr_max=training.lr.max,
        precision=training.precision,
        data_norm=network["sigma_d"] * math.sqrt(network["channels"]) * network["resolution"],
        **values,
    )


def student_probe(params: Params, settings: StudentSettings, student: Model, data: Data) -> Probe:
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
    name: str, settings: StudentSettings, sampler: SamplerSettings, teacher: Model, seed: int
) -> tuple[Objective, Auxiliary | None]:
    """The objective of one of `student.methods`, and what it trains beside the student."""
    t_max = t_max_of(sampler.sigma_max, teacher.settings.sigma_d)
    student = partial(new_student, seed=seed)
    return methods.find(name).objective(settings, methods.Parts(teacher, sampler.noise_levels, t_max, student, seed))


def check_same_index(index: Path, ranks: Ranks) -> None:
    """Compares this process's index.json of data/latents with the first one's.

    Raises:
        UserError: on every process, if it differs on one.
    """
    own = float(int(sha256(index)[:12], 16))  # 48 bits, which a float64 holds exactly
    if ranks.any(own != ranks.of_first(own)):
        raise UserError(f"{index} is not the same on all machines: run `dvc pull data/latents` where it is out of date")
