"""rCM: sCD, and score distillation of samples that the student draws in several steps."""

from scm.base.sections import Whole
from scm.methods import Method, Parts, StudentSettings, Trained, distillation_settings
from scm.methods._score_distillation import ScoreBlock, advice, refusals, score_settings


class RcmBlock(ScoreBlock):
    """The section `student.rcm`.

    Attributes:
        steps: the most steps in which the student draws the samples that are scored
    """

    steps: Whole


def objective(settings: StudentSettings, parts: Parts) -> Trained:
    from scm.objectives.distillation import Distillation
    from scm.objectives.rcm import ScoreRegularizedConsistency

    arguments, auxiliary = score_settings(settings, parts)
    consistency = Distillation(**distillation_settings(settings, parts))
    return ScoreRegularizedConsistency(**arguments, consistency=consistency, steps=settings.own.steps), auxiliary


METHOD = Method("rCM", RcmBlock, objective, refusals=refusals, advice=advice)
