"""Methods to train a student, found by their names, and what all of them have.

A method is one file of this folder with its name: its block of parameters, its factory, how it is sampled and what
reports call it. It defines `METHOD`; nothing else in the source names it. Its mathematics is scm/objectives/NAME.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field, create_model

from scm.base import registry
from scm.base.count import Count
from scm.base.sections import (
    Finite,
    Positive,
    PositiveCount,
    Probability,
    Range,
    Refusals,
    Section,
    Whole,
    named_in,
    optional,
)

if TYPE_CHECKING:
    from scm.networks import Model
    from scm.objectives.protocol import Objective
    from scm.training.loop import Auxiliary


class Optimizer(Section):
    name: Literal["adam", "radam"]
    betas: Annotated[tuple[Probability, Probability], Field(strict=False)]
    eps: Positive


class LearningRate(Section):
    max: Positive
    warmup: Count
    decay: Literal["constant", "inverse_sqrt", "cosine"]
    decay_from: Count


class Training(Section):
    """What every training stage is told."""

    batch: Whole
    precision: Literal["fp32", "bf16", "fp16"]
    p_mean: Finite
    p_std: Positive
    optimizer: Optimizer
    lr: LearningRate
    dropout_max_resolution: Whole
    label_dropout: Probability


class StudentCommon(Training):
    tangent: Literal["normalized", "clipped", "raw"]
    tangent_norm_c: Positive
    tangent_warmup: Count
    adaptive_weighting: bool


_Overrides: type[Section] = create_model("_Overrides", __base__=Section, **optional(StudentCommon))


class Block(_Overrides):
    """A method's own block: its budget, and any key of `student.common` that it overrides."""

    images: PositiveCount
    dropout: Probability


class GuidedBlock(Block):
    """The block of a method whose teacher may be guided: with a scale s ~ U[low, high], or not at all without it."""

    guidance: Range | None = None


class StudentSettings(StudentCommon):
    """What a method's training follows: `student.common`, overridden by the method's own block.

    Attributes:
        guidance: range of the guidance scale; the student is told the scale.
        segments: parts of the trajectory; the student is told the start of its segment, and sampled in as many jumps.
        own: the block, with the keys that this method alone has.
    """

    images: PositiveCount
    dropout: Probability
    guidance: tuple[float, float] | None = None
    segments: int | None = None
    own: Any = None

    @classmethod
    def of(cls, common: StudentCommon, block: Block) -> "StudentSettings":
        """The common settings with the block's laid over them."""
        overrides = {key: getattr(block, key) for key in block.model_fields_set if key in cls.model_fields}
        return cls.model_validate({**dict(common), **overrides, "own": block})

    def values(self) -> dict[str, Any]:
        """All values by their keys, the method's own ones included."""
        return {**self.model_dump(exclude={"own"}, exclude_none=True), **self.own.model_dump(exclude_unset=True)}


class Parts(NamedTuple):
    """What an objective is made from beside its settings.

    Attributes:
        teacher: with its averaged weights, in eval mode.
        noise: sigma_min, sigma_max and rho of the section `sampler`.
        t_max: radians, where sampling starts.
        new_student: makes a network that starts as the model it is given, with the settings' inputs and dropout.
        seed: of the project.
    """

    teacher: "Model"
    noise: tuple[float, float, float]
    t_max: float
    new_student: "Callable[[Model, StudentSettings], Model]"
    seed: int

    @property
    def sigma_d(self) -> float:
        return self.teacher.settings.sigma_d


def tangent_settings(settings: StudentSettings) -> dict[str, Any]:
    """Arguments of alg. 1's loss: times, limit and warm-up of the tangent, weighting."""
    names = ("p_mean", "p_std", "tangent", "tangent_norm_c", "tangent_warmup", "adaptive_weighting", "label_dropout")
    return {name: getattr(settings, name) for name in names}


def distillation_settings(settings: StudentSettings, parts: Parts) -> dict[str, Any]:
    """Arguments of alg. 1's loss along the trajectory of the teacher."""
    teacher = {"sigma_d": parts.sigma_d, "teacher": parts.teacher, "guidance": settings.guidance}
    return {**teacher, **tangent_settings(settings)}


def _nothing(settings: StudentSettings) -> Refusals:
    yield from ()


@dataclass(frozen=True)
class Method:
    """One way to train a student.

    Attributes:
        title: what reports call it.
        block: type of its section `student.NAME`.
        objective: makes the loss from the settings, and what is trained beside the student.
        two_steps: sampled in two steps as well as in one, so that selection looks for t_mid.
        sampler: what reports call its sampler.
        by_tangent: learns from alg. 1's tangent g, so that the settings of the tangent act on it.
        refusals: combinations of its settings that cannot work.
        advice: further values that a training's diagnosis gives advice by (`scm.training.diagnosis.Context`).
    """

    title: str
    block: type[Block]
    objective: "Callable[[StudentSettings, Parts], tuple[Objective, Auxiliary | None]]"
    two_steps: bool = True
    sampler: str = "consistency"
    by_tangent: bool = True
    refusals: Callable[[StudentSettings], Refusals] = _nothing
    advice: Callable[[StudentSettings], Mapping[str, Any]] = lambda settings: {}


MethodName = Annotated[str, named_in(__name__)]


def names() -> tuple[str, ...]:
    """Names of all methods, in alphabetical order."""
    return registry.names(__name__)


@cache
def find(name: str) -> Method:
    """The method of this name.

    Raises:
        ValueError: there is no such method.
    """
    return registry.part(__name__, name).METHOD
