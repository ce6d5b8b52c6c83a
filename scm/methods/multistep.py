"""Multistep sCD: M segments of the trajectory, each jumped in one step (table 6)."""

from typing import TYPE_CHECKING

from scm.base.sections import Whole
from scm.methods import GuidedBlock, Method, Parts, StudentSettings, distillation_settings

if TYPE_CHECKING:
    from scm.objectives.protocol import Objective


class MultistepBlock(GuidedBlock):
    segments: Whole


def objective(settings: StudentSettings, parts: Parts) -> "tuple[Objective, None]":
    from scm.objectives.multistep import MultistepDistillation

    segments = settings.own.segments
    return MultistepDistillation(**distillation_settings(settings, parts), segments=segments, t_max=parts.t_max), None


METHOD = Method(title="Multistep sCD", block=MultistepBlock, objective=objective, two_steps=False, sampler="multistep")
