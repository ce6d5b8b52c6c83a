"""AYF-EMD: a flow map, to any s <= t, along the teacher's trajectory (arXiv 2506.14603)."""

from scm.base.sections import Share
from scm.methods import GuidedBlock, Method, Parts, StudentSettings, Trained, distillation_settings


class AyfBlock(GuidedBlock):
    """The section `student.ayf`.

    Attributes:
        r_max: the last value of the tangent's warm-up; below 1 steadies long trainings, the paper has 0.99
    """

    second_time = True
    r_max: Share


def objective(settings: StudentSettings, parts: Parts) -> Trained:
    from scm.objectives.ayf import FlowMapDistillation

    return FlowMapDistillation(**distillation_settings(settings, parts), r_max=settings.own.r_max), None


METHOD = Method("AYF-EMD", AyfBlock, objective, two_steps=False, any_steps=True, sampler="flow map")
