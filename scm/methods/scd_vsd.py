"""sCD + VSD: consistency and score distillation together (app. C)."""

from typing import TYPE_CHECKING

from scm.methods import Method, Parts, StudentSettings, distillation_settings
from scm.methods._score_distillation import ScoreBlock, advice, refusals, score_settings

if TYPE_CHECKING:
    from scm.objectives.protocol import Objective
    from scm.training.loop import Auxiliary


def objective(settings: StudentSettings, parts: Parts) -> "tuple[Objective, Auxiliary]":
    from scm.objectives.distillation import Distillation
    from scm.objectives.scd_vsd import ConsistencyAndScoreDistillation

    arguments, auxiliary = score_settings(settings, parts)
    consistency = Distillation(**distillation_settings(settings, parts))
    return ConsistencyAndScoreDistillation(**arguments, consistency=consistency), auxiliary


METHOD = Method(title="sCD + VSD", block=ScoreBlock, objective=objective, refusals=refusals, advice=advice)
