"""The settings of a training, what is trained beside the model, and the optimiser of both."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from scm.networks import Model
from scm.training.diagnosis import Context
from scm.training.schedule import Schedule


@dataclass(frozen=True)
class LoopSettings:
    """All settings that a run's result depends on, and how often the run reports.

    Attributes:
        images: budget; the run ends with the first step that reaches it.
        batch: images of one step, over all processes.
        purpose: names the run's random draws, so that the teacher's and the students' differ.
        optimizer: `adam` or `radam`.
        profiles: sigma_rel of the tracked averages.
        halflife: half-life of an additional exponential average, in images; None = no such average.
        snapshots: snapshots of each power-function average over the run.
        half_precision: True if the network computes in float16, which needs a scaled loss.
        header: included in each snapshot's header.
        log_every: images between two lines of metrics.jsonl.
        checkpoint_every: images between two checkpoints; the next line of metrics then brings a checkpoint. None =
            only checkpoint_minutes counts.
        checkpoint_minutes: the same in minutes, if these come first; None = only checkpoint_every counts.
        context: settings for the run's diagnosis.
    """

    images: int
    batch: int
    seed: int
    purpose: str
    optimizer: str
    betas: tuple[float, float]
    eps: float
    schedule: Schedule
    profiles: tuple[float, ...]
    halflife: int | None
    snapshots: int
    half_precision: bool
    header: Mapping[str, Any]
    log_every: int
    checkpoint_every: int | None
    checkpoint_minutes: float | None
    context: Context = field(default_factory=Context)


@dataclass(frozen=True)
class Auxiliary:
    """A module trained beside the model, by the same steps and optimiser; it is neither averaged nor exported.

    Attributes:
        module: e.g. the fake score of variational score distillation.
        lr_scale: learning rate as a multiple of the model's.
    """

    module: nn.Module
    lr_scale: float = 1.0


def make_optimizer(
    model: Model,
    auxiliary: Auxiliary | None,
    settings: LoopSettings,
    keeps: Callable[[Tensor], bool] = lambda parameter: True,
) -> torch.optim.Optimizer:
    """The optimiser of the parameters for which `keeps` is true."""
    kind = {"adam": torch.optim.Adam, "radam": torch.optim.RAdam}[settings.optimizer]
    groups = [{"params": [*filter(keeps, model.parameters())], "lr_scale": 1.0}]
    if auxiliary is not None:
        own = [*filter(keeps, auxiliary.module.parameters())]
        groups.append({"params": own, "lr_scale": auxiliary.lr_scale})
    options: dict[str, Any] = {"lr": settings.schedule.maximum, "betas": settings.betas, "eps": settings.eps}
    device = next(model.parameters()).device.type
    if settings.optimizer == "adam" and device in ("cpu", "cuda"):
        options["fused"] = True  # a quarter of the time on a CPU; on a GPU, all of the optimiser's numbers stay there
    elif device == "cuda":
        options["capturable"] = True
    return kind(groups, **options)
