"""Multistep consistency distillation: one jump in each of the trajectory's M segments (results in table 6).

The paper gives no formulas for this method. Here the segments 0 = t_0 < ... < t_M = t_max have equal lengths in t. For
t in (t_k, t_{k+1}] the student f(x_t, t) = cos(t - t_k) x_t - sin(t - t_k) sigma_d F jumps to t_k (after Heek et al.
2024, arXiv 2403.06807, in TrigFlow's terms). M = 1 is sCD.
"""

from dataclasses import dataclass

from torch import Tensor

from scm.objectives.consistency import Inputs
from scm.objectives.distillation import Distillation
from scm.objectives.protocol import Batch


def segment_start(t: Tensor, segments: int, t_max: float) -> Tensor:
    """The start t_k of each t's segment (t_k, t_{k+1}]; the last segment includes times beyond t_max. [B] -> [B]."""
    length = t_max / segments
    return ((t / length).ceil() - 1).clamp(0, segments - 1) * length


@dataclass(frozen=True, kw_only=True)
class MultistepDistillation(Distillation):
    """sCD on segments: the flow map whose s is the start of t's segment.

    Attributes:
        segments: M.
        t_max: radians, where sampling starts.
    """

    segments: int
    t_max: float

    def inputs(self, batch: Batch, t: Tensor) -> Inputs:
        return {**super().inputs(batch, t), "segment": segment_start(t, self.segments, self.t_max)}
