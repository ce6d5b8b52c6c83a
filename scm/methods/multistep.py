"""Multistep sCD: the trajectory is cut into M segments, and each is jumped in one step (table 6)."""

from scm.base.sections import Whole
from scm.methods import GuidedBlock, Method, Parts, StudentSettings, Trained, distillation_settings


class MultistepBlock(GuidedBlock):
    """The section `student.multistep`.

    Attributes:
        segments: M, the parts of the trajectory, each of which is jumped in one step
    """

    second_time = True
    segments: Whole


def objective(settings: StudentSettings, parts: Parts) -> Trained:
    from scm.objectives.multistep import MultistepDistillation

    segments = settings.own.segments
    return MultistepDistillation(**distillation_settings(settings, parts), segments=segments, t_max=parts.t_max), None


METHOD = Method("Multistep sCD", MultistepBlock, objective, two_steps=False, sampler="multistep")
