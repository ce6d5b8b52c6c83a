"""sCT: consistency training, from the data alone (sec. 4, alg. 1)."""

from scm.methods import Method, MethodBlock, Parts, StudentSettings, Trained, tangent_settings


def objective(settings: StudentSettings, parts: Parts) -> Trained:
    from scm.objectives.sct import ConsistencyTraining

    return ConsistencyTraining(sigma_d=parts.sigma_d, **tangent_settings(settings)), None


METHOD = Method("sCT", MethodBlock, objective)
