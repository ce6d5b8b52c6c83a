"""sCD: consistency distillation, along the teacher's trajectory (sec. 4, alg. 1)."""

from scm.methods import GuidedBlock, Method, Parts, StudentSettings, Trained, distillation_settings


def objective(settings: StudentSettings, parts: Parts) -> Trained:
    from scm.objectives.scd import ConsistencyDistillation

    return ConsistencyDistillation(**distillation_settings(settings, parts)), None


METHOD = Method("sCD", GuidedBlock, objective)
