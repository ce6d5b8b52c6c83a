"""sCD: continuous-time consistency distillation (sec. 4, alg. 1)."""

from dataclasses import dataclass

from scm.objectives.distillation import Distillation


@dataclass(frozen=True, kw_only=True)
class ConsistencyDistillation(Distillation):
    """Alg. 1 as printed: the derivative of the student along the teacher's trajectory, at any t."""
