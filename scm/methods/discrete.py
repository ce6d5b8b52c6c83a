"""Discrete sCD: differences between N points of a grid replace the derivative (app. E)."""

from typing import Annotated

from pydantic import Field

from scm.base.sections import Refusals
from scm.methods import GuidedBlock, Method, Parts, StudentSettings, Trained, distillation_settings


class DiscreteBlock(GuidedBlock):
    points: Annotated[int, Field(ge=2)]


def objective(settings: StudentSettings, parts: Parts) -> Trained:
    from scm.objectives.discrete import DiscreteDistillation, time_grid

    grid = time_grid(settings.own.points, *parts.noise, parts.sigma_d)
    return DiscreteDistillation(**distillation_settings(settings, parts), grid=grid), None


def refusals(settings: StudentSettings) -> Refusals:
    if settings.precision != "fp32":
        problem = "differences between neighbouring points are lost in its rounding"
        yield "precision", settings.precision, f"{problem}; write precision: fp32 in student.discrete"


METHOD = Method("Discrete sCD", DiscreteBlock, objective, refusals=refusals)
