"""DMD: score distillation of the student's samples, beside regression onto the ends of the teacher's trajectories."""

from scm.base.sections import Whole
from scm.methods import Method, Parts, StudentSettings, Trained
from scm.methods._score_distillation import ScoreBlock, advice, refusals, score_settings
from scm.methods._trajectories import TrajectorySettings, trajectory_distillation


class DmdBlock(ScoreBlock):
    """The section `student.dmd`.

    Attributes:
        steps: the most steps in which the student draws the samples that are scored
    """

    steps: Whole
    trajectories: TrajectorySettings


def objective(settings: StudentSettings, parts: Parts) -> Trained:
    from scm.objectives.dmd import DistributionMatching

    arguments, auxiliary = score_settings(settings, parts)
    regression = trajectory_distillation("dmd", settings, parts, every=settings.own.fake_score.updates)
    return DistributionMatching(**arguments, consistency=regression, steps=settings.own.steps), auxiliary


METHOD = Method("DMD", DmdBlock, objective, by_tangent=False, refusals=refusals, advice=advice)
