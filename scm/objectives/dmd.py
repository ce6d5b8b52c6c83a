"""DMD, distribution matching distillation (Yin et al. 2023, arXiv 2311.18828): score distillation beside regression.

Score distillation makes the student's samples as likely as the teacher's; regression onto the ends of the teacher's
trajectories keeps each noise at its own sample, so that no part of the data is lost. The samples are drawn in several
steps, as the student's are (DMD2, arXiv 2405.14867). The paper's regression is by LPIPS, and from pure noise alone;
here it is KD's, from all points. The difference of the scores is weighted by w_psi (app. C).
"""

from dataclasses import dataclass

from scm.objectives.kd import TrajectoryDistillation
from scm.objectives.score_distillation import SeveralSteps


@dataclass(frozen=True, kw_only=True)
class DistributionMatching(SeveralSteps):
    """L_KD + weight L_VSD with samples of 1 to `steps` steps.

    Attributes:
        consistency: L_KD, with the same teacher.
    """

    consistency: TrajectoryDistillation  # pyright: ignore[reportGeneralTypeIssues]: optional in the base, required here
