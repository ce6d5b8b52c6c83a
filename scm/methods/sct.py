"""sCT: consistency training, from the data alone (sec. 4, alg. 1)."""

from typing import TYPE_CHECKING

from scm.methods import Block, Method, Parts, StudentSettings, tangent_settings

if TYPE_CHECKING:
    from scm.objectives.protocol import Objective


def objective(settings: StudentSettings, parts: Parts) -> "tuple[Objective, None]":
    from scm.objectives.sct import ConsistencyTraining

    return ConsistencyTraining(sigma_d=parts.sigma_d, **tangent_settings(settings)), None


METHOD = Method(title="sCT", block=Block, objective=objective)
