"""Align Your Flow's Eulerian map distillation, AYF-EMD (Sabour et al. 2025, arXiv 2506.14603, alg. 1).

A flow map follows the teacher's trajectory; s is drawn together with t. The paper's path is linear, with u from 0 to 1,
and its tangent is F - dx/du + r (u - w) dF/du for a jump from u to w. Here both terms are TrigFlow's alg. 1 with the
angle t - s. The paper's times are kept: tan t = u / (1 - u) and tan s = w / (1 - w) pair the noise levels of the paths.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from scm.objectives.consistency import Function, Inputs, Tangent
from scm.objectives.distillation import Distillation
from scm.objectives.protocol import Batch


def time_of(u: Tensor) -> Tensor:
    """The linear path's time u in [0, 1] to TrigFlow's at the same ratio of noise to data: tan t = u / (1 - u).

    At u = 1, to which a sum may round, t stays below pi / 2 in float32 too: ln tan t has to be finite.
    """
    return torch.atan2(u, (1 - u).clamp(min=1e-6))


@dataclass(frozen=True, kw_only=True)
class FlowMapDistillation(Distillation):
    """A flow map along the teacher's trajectory.

    The length u - w of a jump is the sigmoid of N(p_mean, p_std^2), and w is uniform in what this length leaves free.

    Attributes:
        r_max: the warm-up's last r. Below 1 the loss keeps a share of ||sigma_d F - dx/dt||^2, which draws jumps
            towards straight ones and steadies long trainings (sec. 3.4, eq. 5); the paper's is 0.99.
    """

    r_max: float

    def jump(self, batch: Batch) -> tuple[Tensor, Inputs]:
        length = torch.sigmoid(batch.normal() * self.p_std + self.p_mean)
        end = batch.uniform() * (1 - length)
        return time_of(end + length), {"segment": time_of(end)}

    def tangent_of(
        self, function: Function, x_t: Tensor, t: Tensor, inputs: Inputs, direction: Tensor, r: float
    ) -> Tangent:
        return super().tangent_of(function, x_t, t, inputs, direction, min(r, self.r_max))
