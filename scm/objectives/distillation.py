"""Consistency distillation: the student follows a teacher's trajectory, which may be guided (alg. 1, sec. 5.1)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scm.objectives.consistency import ConsistencyLoss, Inputs
from scm.objectives.protocol import Batch, Network
from scm.samplers.guidance import guided


@dataclass(frozen=True, kw_only=True)
class Distillation(ConsistencyLoss):
    """Alg. 1 with dx_t/dt = sigma_d F_teacher, the direction of the teacher's trajectory.

    Attributes:
        teacher: the pretrained network with its averaged weights, in eval mode.
        guidance: (low, high): the teacher is guided with s ~ U[low, high], and s is an input of the student
            (sec. 5.1); None = no guidance.
    """

    teacher: Network
    guidance: tuple[float, float] | None = None

    def inputs(self, batch: Batch, t: Tensor) -> Inputs:
        return guidance_inputs(batch, self.guidance)

    def direction(self, x_t: Tensor, t: Tensor, labels: Tensor, inputs: Inputs, v_t: Tensor) -> Tensor:
        return self.sigma_d * teacher_output(self.teacher, x_t / self.sigma_d, t, labels, inputs)


def guidance_inputs(batch: Batch, guidance: tuple[float, float] | None) -> dict[str, Tensor]:
    """Draws s ~ U[low, high] for each sample; no inputs without a range."""
    if guidance is None:
        return {}
    low, high = guidance
    return {"guidance": low + (high - low) * batch.uniform()}


@torch.no_grad()
def teacher_output(teacher: Network, x: Tensor, t: Tensor, labels: Tensor, inputs: Inputs) -> Tensor:
    """F_teacher(x, t), guided by the scale in `inputs`, if it has one. [B, C, H, W]."""
    if "guidance" not in inputs:
        return teacher(x, t, labels)
    return guided(teacher, x, t, labels, inputs["guidance"])
