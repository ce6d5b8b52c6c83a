"""VSD: a one-step generator by variational score distillation (app. C)."""

from scm.methods import Method, Parts, StudentSettings, Trained
from scm.methods._score_distillation import ScoreBlock, advice, refusals, score_settings


def objective(settings: StudentSettings, parts: Parts) -> Trained:
    from scm.objectives.vsd import VariationalScoreDistillation

    arguments, auxiliary = score_settings(settings, parts)
    return VariationalScoreDistillation(**arguments), auxiliary


METHOD = Method(
    "VSD",
    ScoreBlock,
    objective,
    two_steps=False,
    by_tangent=False,
    common_times=False,
    refusals=refusals,
    advice=advice,
)
