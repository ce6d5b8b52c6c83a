"""Discrete sCD: differences between N points of a grid in place of the derivative (app. E)."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from scm.base.sections import Refusals
from scm.methods import GuidedBlock, Method, Parts, StudentSettings, distillation_settings

if TYPE_CHECKING:
    from scm.objectives.protocol import Objective


class DiscreteBlock(GuidedBlock):
    points: Annotated[int, Field(ge=2)]


def objective(settings: StudentSettings, parts: Parts) -> "tuple[Objective, None]":
    from scm.objectives.discrete import DiscreteDistillation, time_grid

    grid = time_grid(settings.own.points, *parts.noise, parts.sigma_d)
    return DiscreteDistillation(**distillation_settings(settings, parts), grid=grid), None


def refusals(settings: StudentSettings) -> Refusals:
    if settings.precision != "fp32":
        problem = "differences between neighbouring points drown in its rounding"
        yield "precision", settings.precision, f"{problem}; write precision: fp32 in student.discrete"


METHOD = Method(title="Discrete sCD", block=DiscreteBlock, objective=objective, refusals=refusals)
