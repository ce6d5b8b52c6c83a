"""Builds the parts of a training: data, objective, loop settings and probe."""

import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scm import methods
from scm.base.distributed import Ranks
from scm.base.files import sha256
from scm.base.progress import Progress
from scm.base.project import TEACHER
from scm.base.randomness import generator
from scm.build.models import new_student
from scm.data.latents.codec import Codec
from scm.data.shards.loader import LatentLoader
from scm.data.shards.shards import INDEX, read_index, verify_all
from scm.errors import UserError
from scm.generation.sampler import t_max_of
from scm.generation.trained import can_be_guided, load_model
from scm.methods import StudentSettings
from scm.networks import Model
from scm.params import Params
from scm.params.schema import SamplerSettings, TeacherSettings
from scm.training.ahead import Data
from scm.training.diagnosis import Context
from scm.training.probe import Probe
from scm.training.schedule import Schedule
from scm.training.settings import LoopSettings


class TrainingData:
    """x_0 and labels at any position: the loader's stored samples, converted by the codec."""

    def __init__(
        self, folder: Path, seed: int, batch: int, ranks: Ranks, say: Callable[[str], None], *, flip: bool = False
    ) -> None:
        """Opens data/latents and verifies every shard; the processes of a machine share that work.

        Args:
            say: prints a line of progress, if the shards take long.
            flip: True mirrors each image left to right with probability 1/2.

        Raises:
            UserError: the shards are damaged, or the processes have different ones.
        """
        self.loader, index = LatentLoader(folder, seed, batch, ranks.rank, ranks.world), folder / INDEX
        own = float(int(sha256(index)[:12], 16))  # 48 bits, which a float64 holds exactly
        if ranks.any(own != ranks.of_first(own)):
            problem = f"{index} is not the same on all machines"
            raise UserError(f"{problem}: run `dvc pull data/latents` where it is out of date")
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # some launchers set LOCAL_RANK alone
        shards = read_index(folder)["shards"][int(os.environ.get("LOCAL_RANK", "0")) % here :: here]
        verify_all(folder, shards, Progress(sum(shard["count"] for shard in shards), say, "verified").add)
        self.codec = Codec(self.loader.codec_header)
        self._seed, self._ranks, self._flip = seed, ranks, flip

    def batch_at(self, images_seen: int) -> tuple[Tensor, Tensor]:
        stored, labels = self.loader.batch_at(images_seen)
        first = images_seen + self._ranks.rank * len(stored)
        x_0 = self.codec.serve(stored, lambda place: generator(self._seed, "latents", first + place))
        if self._flip:
            named = (generator(self._seed, "flip", first + place) for place in range(len(x_0)))
            draws = torch.stack([torch.rand((), generator=each) for each in named])
            x_0 = torch.where(draws[:, None, None, None] < 0.5, x_0.flip(3), x_0)
        return x_0, labels


def fitting_teacher(path: Path, data: TrainingData, settings: StudentSettings) -> tuple[Model, dict[str, Any]]:
    """The frozen teacher and its header.

    Raises:
        UserError: the teacher was trained on other data, or the method needs guidance and the teacher lacks it.
    """
    teacher, header = load_model(path)
    if header["codec"] != data.codec.header:
        raise UserError(f"{path} was trained on another encoding than data/latents: run `scm run train_teacher`")
    if len(header["classes"]) != len(data.loader.classes):
        raise UserError(
            f"{path} knows {len(header['classes'])} classes, data/latents has {len(data.loader.classes)}: "
            "train a teacher on these data, or prepare the teacher's data"
        )
    if settings.guidance and not can_be_guided(header):
        raise UserError(
            f"{path} cannot be guided, as it was never trained without labels: remove guidance from the method, "
            "train a teacher with label_dropout 0.1, or name a select.guide"
        )
    return teacher.requires_grad_(False), header


def training_settings(
    params: Params, training: TeacherSettings | StudentSettings, purpose: str, header: dict[str, Any]
) -> LoopSettings:
    """The loop's settings for one training stage."""
    rate = training.lr
    return LoopSettings(
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
        checkpoint_minutes=params.runtime.checkpoint_minutes,
        context=health_context(params, training, header),
    )


def health_context(params: Params, training: TeacherSettings | StudentSettings, header: Mapping[str, Any]) -> Context:
    """The settings that a run's diagnosis refers to, and their places in params.yaml.

    Args:
        header: header of the run's snapshots.
    """
    network, method = header["network"], header["model"]
    values: dict[str, Any] = {name: network[name] for name in ("embedding", "fourier_scale", "c_noise")}
    places: dict[str, str | None] = {}
    if isinstance(training, StudentSettings):
        found = methods.find(method)
        places |= {key: f"student.{method}.{key}" for key in training.own.model_fields_set}
        if found.by_tangent:
            values |= {name: getattr(training, name) for name in ("tangent", "tangent_norm_c", "tangent_warmup")}
        if not found.common_times:
            places |= dict.fromkeys(("p_mean", "p_std"))
        if not training.tangent_warmup and params.student.methods.get(method) != TEACHER:
            places["tangent_warmup"] = None  # the student that it starts from has finished the warm-up
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
    """Measures a student's samples during training, a guided student's at the smallest scale that it learns."""
    sigma_d, guidance = student.settings.sigma_d, None if settings.guidance is None else settings.guidance[0]
    t_max = t_max_of(params.sampler.sigma_max, sigma_d)
    jumps = settings.segments or (1 if settings.second_time else None)
    return Probe(data, settings.batch, params.seed, t_max, sigma_d, jumps, guidance)


def student_objective(
    name: str, settings: StudentSettings, sampler: SamplerSettings, teacher: Model, seed: int
) -> methods.Trained:
    """The objective of the method `name`, and the network that it trains beside the student."""
    t_max = t_max_of(sampler.sigma_max, teacher.settings.sigma_d)
    student = partial(new_student, seed=seed)
    return methods.find(name).objective(settings, methods.Parts(teacher, sampler.noise_levels, t_max, student, seed))
