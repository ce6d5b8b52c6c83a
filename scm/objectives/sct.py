"""sCT: consistency training, from the data alone (sec. 4, alg. 1)."""

from dataclasses import dataclass

from torch import Tensor

from scm.objectives.consistency import ConsistencyLoss, Inputs


@dataclass(frozen=True, kw_only=True)
class ConsistencyTraining(ConsistencyLoss):
    """Alg. 1 with dx_t/dt = v_t: the sample's own velocity is an unbiased estimate of the trajectory's direction."""

    def direction(self, x_t: Tensor, t: Tensor, labels: Tensor, inputs: Inputs, v_t: Tensor) -> Tensor:
        return v_t
