"""VSD: a one-step generator by variational score distillation (app. C)."""

from typing import TYPE_CHECKING

from scm.methods import Method, Parts, StudentSettings
from scm.methods._score_distillation import ScoreBlock, advice, refusals, score_settings

if TYPE_CHECKING:
    from scm.objectives.protocol import Objective
    from scm.training.loop import Auxiliary


def objective(settings: StudentSettings, parts: Parts) -> "tuple[Objective, Auxiliary]":
    from scm.objectives.vsd import VariationalScoreDistillation

    arguments, auxiliary = score_settings(settings, parts)
    return VariationalScoreDistillation(**arguments), auxiliary


METHOD = Method(
    title="VSD",
    block=ScoreBlock,
    objective=objective,
    two_steps=False,
    by_tangent=False,
    refusals=refusals,
    advice=advice,
)
