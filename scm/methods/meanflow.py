"""MeanFlow: a flow map, to any s <= t, from the data alone (arXiv 2505.13447)."""

from scm.base.sections import Positive, Scale, Share
from scm.methods import Method, MethodBlock, Parts, StudentSettings, Trained, tangent_settings


class MeanFlowBlock(MethodBlock):
    """The section `student.meanflow`.

    Attributes:
        jumps: fraction of the samples that jump; the others train the diffusion loss
        weight_p: p of the loss's weight 1 / (||error||^2 + c)^p
        weight_c: c of this weight
    """

    second_time = True
    jumps: Share
    weight_p: Scale
    weight_c: Positive


def objective(settings: StudentSettings, parts: Parts) -> Trained:
    from scm.objectives.meanflow import MeanFlow

    own = {name: getattr(settings.own, name) for name in ("jumps", "weight_p", "weight_c")}
    return MeanFlow(sigma_d=parts.sigma_d, **tangent_settings(settings), **own), None


METHOD = Method("MeanFlow", MeanFlowBlock, objective, two_steps=False, any_steps=True, sampler="flow map")
