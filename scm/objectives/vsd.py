"""VSD: a one-step generator by variational score distillation with adaptive weighting (app. C, table 7)."""

from dataclasses import dataclass, field

from scm.objectives.score_distillation import ScoreDistillation


@dataclass(frozen=True, kw_only=True)
class VariationalScoreDistillation(ScoreDistillation):
    """L_VSD and the fake score's loss, without L_sCM."""

    consistency: None = field(default=None, init=False)
