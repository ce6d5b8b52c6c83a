"""sCD + VSD: consistency and score distillation together, L_sCM + lambda L_VSD (app. C, table 7)."""

from dataclasses import dataclass

from scm.objectives.distillation import Distillation
from scm.objectives.score_distillation import ScoreDistillation


@dataclass(frozen=True, kw_only=True)
class ConsistencyAndScoreDistillation(ScoreDistillation):
    """The sum of sCD's and VSD's losses.

    Attributes:
        consistency: L_sCM, with the same teacher.
    """

    consistency: Distillation  # pyright: ignore[reportGeneralTypeIssues]: optional in the base, required here
