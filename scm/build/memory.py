"""What a training needs of a GPU's memory, counted on tensors without data before it starts.

A step of the real objective runs on the meta device, where the tensors have shapes and no data, and the bytes of all
tensors that are made and freed are written down. A tensor either has a row for each image or does not depend on their
number, so one step gives the peak for every size of a micro-batch.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scm.base.live_memory import LiveMemory
from scm.base.precision import AUTO, DTYPES
from scm.base.project import TEACHER
from scm.base.randomness import global_draws
from scm.build.models import TrainingSettings, network_settings, new_model, new_student
from scm.build.training import student_objective
from scm.jvp import recomputed
from scm.networks import Model
from scm.networks.layers import recompute_blocks
from scm.objectives.diffusion import Diffusion
from scm.objectives.kd import TrajectoryDistillation
from scm.objectives.protocol import Batch, Objective
from scm.params import Params
from scm.training.loop import ENOUGH

FLOAT = 4
"""Bytes of a weight, of its gradient, of each of Adam's two moments and of each average: all are float32."""
IMAGES = 99_991
"""Images of the counted step: a prime, so that a tensor's bytes are divisible by it if it has a row for each image."""
FRAGMENTATION, RESERVED = 0.06, 3 * 2**29
"""Assumed, not measured: the part of a GPU's memory that the allocator leaves between tensors, and the bytes of the
driver's context, of NCCL's buffers and of the libraries' workspaces."""


class Undrawn(Batch):
    """A batch on the meta device, where no generator draws."""

    def _own(self, draw: Any, *shape: int) -> Tensor:
        return torch.empty(self.size, *shape, device=self.x_0.device)[: len(self.x_0)]


class Line(NamedTuple):
    """Bytes as a function of the images: fixed + images * each."""

    fixed: int
    each: int


@dataclass(frozen=True)
class Peak:
    """The most bytes that live during a step: the largest of some straight lines in the number of images."""

    lines: tuple[Line, ...]

    @classmethod
    def of(cls, changes: Iterable[int]) -> "Peak":
        """The peak of the changes that a step on IMAGES images makes."""
        fixed, each, highest = 0, 0, dict[int, int]()
        for change in changes:
            if change % IMAGES == 0:
                each += change // IMAGES
            else:
                fixed += change
            highest[each] = max(highest.get(each, 0), fixed)
        lines: list[Line] = []
        for slope in sorted(highest, reverse=True):  # a line counts if those that rise faster start lower
            if not lines or highest[slope] > lines[-1].fixed:
                lines.append(Line(highest[slope], slope))
        return cls(tuple(lines))

    def at(self, images: int) -> int:
        return max(line.fixed + images * line.each for line in self.lines)


class Peaks(NamedTuple):
    """The activations of a training's step.

    Attributes:
        whole: of a step with one micro-batch, the gradients that it makes included.
        part: of a micro-batch that adds to gradients, without these.
    """

    whole: Peak
    part: Peak


class Setup(NamedTuple):
    """What a training stage sets up, on the meta device.

    Attributes:
        model: the network that learns, and whose averages are kept.
        objective: its loss.
        beside: the module that is trained beside it, if there is one.
        frozen: the teacher, if there is one.
        steps_seen: steps before one in which all networks learn.
        kept: the part of the objective that keeps trajectories from step to step, if there is one.
    """

    model: Model
    objective: Objective
    beside: nn.Module | None
    frozen: Model | None
    steps_seen: int
    kept: TrajectoryDistillation | None = None


@dataclass(frozen=True)
class Counted:
    """The memory of a training, before it is divided over processes.

    Attributes:
        weights: bytes of all parameters and buffers, those of a frozen teacher included.
        gradients: bytes of the gradients.
        divisible: bytes of the optimiser's moments and of the averages, which `runtime.shard` divides.
        sample: bytes of an image and its label as the training holds them, and of what is kept for each image.
        peaks: the activations with checkpointing `none` or `blocks`, counted when they are asked for.
    """

    weights: int
    gradients: int
    divisible: int
    sample: int
    peaks: Callable[[str], Peaks]


@dataclass(frozen=True)
class Need:
    """Bytes that one process of a training needs.

    Attributes:
        state: what lives between two steps: weights, the optimiser's moments, averages.
        gradients: bytes of the gradients.
        activations: the most that the tensors of a step need beside these; a single micro-batch makes the gradients
            while its activations go.
    """

    state: int
    gradients: int
    activations: int

    @property
    def total(self) -> int:
        return self.state + self.gradients + self.activations


@dataclass(frozen=True)
class Memory:
    """The memory of one process of a training: `choose` finds the settings that fit.

    Attributes:
        counted: of the training.
        batch: images of a step on this process.
        shards: processes over which the moments and the averages are divided; 1 = each has them all.
    """

    counted: Counted
    batch: int
    shards: int = 1

    def need(self, micro_batch: int, checkpointing: str) -> Need:
        """What a step needs if it computes so many images at a time."""
        counted = self.counted
        state = counted.weights + -(-counted.divisible // self.shards) + self.batch * counted.sample
        if micro_batch >= self.batch:
            return Need(state, 0, counted.peaks(checkpointing).whole.at(self.batch))
        return Need(state, counted.gradients, counted.peaks(checkpointing).part.at(micro_batch))


class Choice(NamedTuple):
    """How a process computes its part of a batch.

    Attributes:
        micro_batch: images at a time.
        checkpointing: `none` or `blocks`.
        need: the memory that this needs.
        fits: False if even this needs more than there is.
    """

    micro_batch: int
    checkpointing: str
    need: Need
    fits: bool


def choose(memory: Memory, free: int, micro_batch: int | None = None, checkpointing: str = "auto") -> Choice:
    """The settings that `auto` stands for.

    The micro-batch is the largest divisor of the process's batch that fits; a given one is the largest divisor that is
    no larger. Activations are kept, as computing them again costs a fifth more arithmetic, if at least ENOUGH images at
    a time (or all that there are) fit so; else they are computed again, if more images fit then.

    Args:
        free: bytes that this process may use in all, its weights included (`usable`).
        micro_batch: the most images at a time; None = auto.
        checkpointing: auto, none or blocks.
    """
    sizes = [size for size in range(memory.batch, 0, -1) if memory.batch % size == 0]
    if micro_batch is not None:
        sizes = [next(size for size in sizes if size <= micro_batch)]

    def best(way: str) -> Choice:
        choices = [Choice(size, way, need := memory.need(size, way), need.total <= free) for size in sizes]
        return next((choice for choice in choices if choice.fits), choices[-1])

    if checkpointing != "auto":
        return best(checkpointing)
    kept = best("none")
    if kept.fits and kept.micro_batch >= min(ENOUGH, sizes[0]):
        return kept
    again = best("blocks")
    return again if not kept.fits or again.micro_batch > kept.micro_batch else kept


def usable(total: int) -> int:
    """The bytes of a GPU with `total` bytes that its tensors may take, by the two assumptions above."""
    return int((total - RESERVED) * (1 - FRAGMENTATION))


def on_gpu(settings: TrainingSettings) -> TrainingSettings:
    """The settings with bf16 in place of `precision: auto`: a GPU that is worth a plan has it."""
    return settings if settings.precision != AUTO else settings.model_copy(update={"precision": "bf16"})


def setup(params: Params, stage: str, item: str, classes: int) -> Setup:
    """The networks and the objective of a training stage, without data.

    Args:
        stage: train_teacher or train_student.
        item: the student's method.
        classes: number of classes.
    """
    network = network_settings(params.network, classes, params.shape, params.teacher.augment)
    with torch.device("meta"), global_draws(0):
        if stage == "train_teacher":
            settings = on_gpu(params.teacher)
            times = network.sigma_d, settings.p_mean, settings.p_std
            objective = Diffusion(*times, settings.label_dropout, settings.augment)
            return Setup(new_model(network, settings, 0), objective, None, None, 0)
        method = on_gpu(params.student.method(item))
        teacher = Model(network, precision=DTYPES[on_gpu(params.teacher).precision]).requires_grad_(False).eval()
        if params.select.guide is not None:  # of unknown size; most are smaller than the teacher
            teacher.guide = Model(network, precision=teacher.precision).requires_grad_(False).eval()
        student = new_student(teacher, method, 0)
        objective, auxiliary = student_objective(item, method, params.sampler, teacher, 0)
    beside = None if auxiliary is None else auxiliary.module
    every = getattr(objective, "updates", 1)  # the student rests in the other steps
    regression = getattr(objective, "consistency", objective)
    kept = regression if isinstance(regression, TrajectoryDistillation) else None
    return Setup(student, objective, beside, teacher, every - 1, kept)


def count(params: Params, stage: str, item: str = TEACHER, classes: int = 0) -> Counted:
    """Counts the memory of a training; arguments as of `setup`."""
    parts = setup(params, stage, item, classes)
    modules = [module for module in (parts.model, parts.beside) if module is not None]
    networks = modules if parts.frozen is None else [*modules, parts.frozen]
    own, trained = _elements(parts.model), sum(map(_elements, modules))
    averages = len(params.ema.profiles) + (params.ema.halflife is not None)
    shape = torch.Size(params.shape)
    kept = 0 if parts.kept is None else parts.kept.bytes_for_each(shape)
    return Counted(
        weights=sum(value.nbytes for module in networks for value in (*module.parameters(), *module.buffers())),
        gradients=FLOAT * trained,
        divisible=FLOAT * (2 * trained + averages * own),
        sample=FLOAT * shape.numel() + torch.int64.itemsize + kept,
        peaks=cache(lambda way: peaks(setup(params, stage, item, classes), way)),
    )


def _elements(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def peaks(parts: Setup, checkpointing: str) -> Peaks:
    """Runs a step without data, with checkpointing `none` or `blocks`, and counts what lives."""
    settings = parts.model.settings
    shape = settings.channels, settings.resolution, settings.resolution
    x_0, labels = torch.empty(IMAGES, *shape, device="meta"), torch.zeros(IMAGES, dtype=torch.int64, device="meta")
    batch = Undrawn(x_0, labels, torch.Generator())
    for module in (parts.model, parts.beside):
        if module is not None:
            module.train()
            if checkpointing == "blocks":
                recompute_blocks(module, recomputed)
    if parts.kept is not None:  # they are counted with the samples
        parts.kept.places(batch, parts.steps_seen * IMAGES)
    with global_draws(0), LiveMemory() as memory:
        losses = parts.objective(parts.model, batch, parts.steps_seen * IMAGES)
        losses.value.mean().backward()
        losses = losses.detached()
    # What is alive now are the gradients. Where they existed before, each new one is added and goes at once.
    gradients, before, added = set(memory.alive.values()), 0, list[int]()
    for place, change in enumerate(memory.changes):
        added += [-before, change]
        before = change if place in gradients else 0
    return Peaks(Peak.of(memory.changes), Peak.of(added))
