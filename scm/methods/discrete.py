"""Discrete sCD: differences between N points of a grid replace the derivative (app. E)."""

from typing import Annotated

from pydantic import Field

from scm.methods import GuidedBlock, Method, Parts, StudentSettings, Trained, distillation_settings


class DiscreteBlock(GuidedBlock):
    """The section `student.discrete`.

    Attributes:
        points: N, the points of the grid of times
    """

    points: Annotated[int, Field(ge=2)]


def objective(settings: StudentSettings, parts: Parts) -> Trained:
    import torch

    from scm.base.precision import DTYPES
    from scm.objectives.discrete import DiscreteDistillation, time_grid

    grid = time_grid(settings.own.points, *parts.noise, parts.sigma_d)
    roundoff = torch.finfo(DTYPES[settings.precision]).eps / 2
    return DiscreteDistillation(**distillation_settings(settings, parts), grid=grid, roundoff=roundoff), None


METHOD = Method("Discrete sCD", DiscreteBlock, objective)
