"""sCD + VSD: consistency and score distillation together, L_sCM + lambda L_VSD (app. C, table 7)."""

from dataclasses import dataclass

from scm.objectives.distillation import Distillation
from scm.objectives.score_distillation import ScoreDistillation


@dataclass(frozen=True, kw_only=True)
class ConsistencyAndScoreDistillation(ScoreDistillation):
    """sCD's loss beside VSD's.

    Attributes:
        consistency: L_sCM, by the same teacher.
    """

    consistency: Distillation
