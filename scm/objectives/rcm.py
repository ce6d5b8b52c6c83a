"""rCM, score-regularised consistency (arXiv 2510.08431): sCD, and score distillation of samples of several steps.

sCD covers the data (forward divergence), score distillation seeks what is likely (reverse divergence). Here the
difference of the scores is weighted by w_psi, as in sCD + VSD, and not by the teacher's distance from the sample.
"""

from dataclasses import dataclass

from scm.objectives.distillation import Distillation
from scm.objectives.score_distillation import SeveralSteps


@dataclass(frozen=True, kw_only=True)
class ScoreRegularizedConsistency(SeveralSteps):
    """L_sCM + weight L_VSD with samples of 1 to `steps` steps; one step is sCD + VSD.

    Attributes:
        consistency: L_sCM, with the same teacher.
    """

    consistency: Distillation  # pyright: ignore[reportGeneralTypeIssues]: optional in the base, required here
