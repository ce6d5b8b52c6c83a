"""sCD: consistency distillation, along the teacher's trajectory (sec. 4, alg. 1)."""

from typing import TYPE_CHECKING

from scm.methods import GuidedBlock, Method, Parts, StudentSettings, distillation_settings

if TYPE_CHECKING:
    from scm.objectives.protocol import Objective


def objective(settings: StudentSettings, parts: Parts) -> "tuple[Objective, None]":
    from scm.objectives.scd import ConsistencyDistillation

    return ConsistencyDistillation(**distillation_settings(settings, parts)), None


METHOD = Method(title="sCD", block=GuidedBlock, objective=objective)
