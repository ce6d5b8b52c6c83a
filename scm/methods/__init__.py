"""The methods that train a student, found by their names, and what they have in common.

A method is one file of this folder. It defines `METHOD`: the method's parameters, how its objective is made, how its
students are sampled, and its name in reports. Its mathematics is in scm/objectives/NAME.py; no list names it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, TypeAlias

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
    from scm.training.settings import Auxiliary

Trained: TypeAlias = "tuple[Objective, Auxiliary | None]"
"""What a method trains: the student's objective, and the network beside the student if the method has one."""


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
    """Settings that the teacher and the students share."""

    batch: Whole
    precision: Literal["auto", "fp32", "bf16", "fp16"]
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


class MethodBlock(_Overrides):
    """The section `student.NAME`: the method's budget, and any keys of `student.common` that it overrides.

    Attributes:
        second_time: True if the student's network takes the time s <= t that it jumps to.
        images: training budget
        dropout: fraction of units that are dropped
    """

    second_time: ClassVar[bool] = False
    images: PositiveCount
    dropout: Probability


class GuidedBlock(MethodBlock):
    """The section of a method whose teacher may be guided.

    Attributes:
        guidance: [low, high] of the scale s ~ U[low, high], which the student is told; absent = no guidance
    """

    guidance: Range | None = None


class StudentSettings(StudentCommon):
    """The settings of one method's training: `student.common`, overridden by the method's own block.

    Attributes:
        guidance: range of the guidance scale, which is an input of the student.
        segments: parts of the trajectory. The start of a segment is an input of the student, which jumps once in each.
        own: the method's block, with the keys that no other method has.
    """

    images: PositiveCount
    dropout: Probability
    guidance: tuple[float, float] | None = None
    segments: int | None = None
    own: Any = None

    @property
    def second_time(self) -> bool:
        """True if the student's network takes the time that it jumps to."""
        return self.own.second_time if self.own is not None else self.segments is not None

    @classmethod
    def of(cls, common: StudentCommon, block: MethodBlock) -> "StudentSettings":
        overrides = {key: getattr(block, key) for key in block.model_fields_set if key in cls.model_fields}
        return cls.model_validate({**dict(common), **overrides, "own": block})

    def values(self) -> dict[str, Any]:
        """All values by their keys, including those that only this method has."""
        unused = {"own"} if self.segments is not None else {"own", "segments"}
        return {**self.model_dump(exclude=unused), **self.own.model_dump(exclude_unset=True)}


class Parts(NamedTuple):
    """What an objective needs beside its settings.

    Attributes:
        teacher: the teacher with its averaged weights, in eval mode.
        noise: sigma_min, sigma_max and rho of the section `sampler`.
        t_max: radians, where sampling starts.
        new_student: copies a model into a new network, which has the inputs and the dropout of the settings.
        seed: the project's seed.
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
    """Arguments of alg. 1's loss: the times, the tangent's limit and warm-up, the weighting."""
    names = ("p_mean", "p_std", "tangent", "tangent_norm_c", "tangent_warmup", "adaptive_weighting", "label_dropout")
    return {**{name: getattr(settings, name) for name in names}, "leave_out_overflow": settings.precision == "fp16"}


def distillation_settings(settings: StudentSettings, parts: Parts) -> dict[str, Any]:
    """Arguments of alg. 1's loss along the teacher's trajectory."""
    teacher = {"sigma_d": parts.sigma_d, "teacher": parts.teacher, "guidance": settings.guidance}
    return {**teacher, **tangent_settings(settings)}


@dataclass(frozen=True)
class Method:
    """One way to train a student.

    Attributes:
        title: the method's name in reports.
        block: type of the section `student.NAME`.
        objective: makes the objective from the settings.
        two_steps: True if its students are also sampled in two steps, so that selection searches for t_mid.
        any_steps: True if its students are flow maps, which are sampled in any number of steps.
        sampler: the sampler's name in reports.
        by_tangent: True if the method learns from alg. 1's tangent g, so that the tangent's settings have an effect.
        common_times: True if the student's times follow from `p_mean` and `p_std`, False if from keys of its own.
        refusals: yields the combinations of settings that cannot work.
        advice: further settings for the diagnosis of a training (`scm.training.diagnosis.Context`).
    """

    title: str
    block: type[MethodBlock]
    objective: Callable[[StudentSettings, Parts], "Trained"]
    two_steps: bool = True
    any_steps: bool = False
    sampler: str = "consistency"
    by_tangent: bool = True
    common_times: bool = True
    refusals: Callable[[StudentSettings], Refusals] = lambda settings: iter(())
    advice: Callable[[StudentSettings], Mapping[str, Any]] = lambda settings: {}


MethodName = Annotated[str, named_in(__name__)]


def names() -> tuple[str, ...]:
    """Names of all methods, sorted."""
    return registry.names(__name__)


@cache
def find(name: str) -> Method:
    """The method of this name.

    Raises:
        ValueError: there is no such method.
    """
    return registry.part(__name__, name).METHOD
