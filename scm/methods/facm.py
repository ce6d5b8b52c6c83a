"""FACM: sCD's loss and the diffusion loss in one network, told apart by a second time (arXiv 2507.03738)."""

from scm.base.sections import Positive
from scm.methods import GuidedBlock, Method, Parts, StudentSettings, Trained, distillation_settings


class FacmBlock(GuidedBlock):
    """The section `student.facm`.

    Attributes:
        anchor: weight of the diffusion loss; the paper has 1
    """

    second_time = True
    anchor: Positive


def objective(settings: StudentSettings, parts: Parts) -> Trained:
    from scm.objectives.facm import FlowAnchoredDistillation

    return FlowAnchoredDistillation(**distillation_settings(settings, parts), anchor=settings.own.anchor), None


METHOD = Method("FACM", FacmBlock, objective)
