"""sCD + VSD: consistency and score distillation together (app. C)."""

from scm.methods import Method, Parts, StudentSettings, Trained, distillation_settings
from scm.methods._score_distillation import ScoreBlock, advice, refusals, score_settings


def objective(settings: StudentSettings, parts: Parts) -> Trained:
    from scm.objectives.distillation import Distillation
    from scm.objectives.scd_vsd import ConsistencyAndScoreDistillation

    arguments, auxiliary = score_settings(settings, parts)
    consistency = Distillation(**distillation_settings(settings, parts))
    return ConsistencyAndScoreDistillation(**arguments, consistency=consistency), auxiliary


METHOD = Method("sCD + VSD", ScoreBlock, objective, refusals=refusals, advice=advice)
