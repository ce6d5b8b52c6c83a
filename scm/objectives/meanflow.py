"""MeanFlow (Geng et al. 2025, arXiv 2505.13447): a flow map that is learned from the data alone.

The paper's path is linear, z_u = (1 - u) x + u e with u from 0 to 1, and its network predicts the average velocity U
over [r, u]. Its loss has the error U - sg(v - (u - r) dU/du) (eqs. 9, 10), which is -df_r/du of the flow map
f_r = z_u - (u - r) U. Here the path is TrigFlow's:

- Its flow map is f_s = cos(t - s) x_t - sin(t - s) sigma_d F, and the error is -g = -cos(t - s) df_s/dt. The points of
  the two paths with equal noise to data, tan t = u / (1 - u) and tan s = r / (1 - r), differ by a scale, and there
  the paper's error is -g (cos t + sin t)^2 / ((cos s + sin s) cos(t - s)), and dU = (cos t + sin t) sigma_d dF. So both
  losses pull the map the same way, with other weights of t and s.
- Both times have the proposal of sCM. The paper's logit-normal u of mean m is p_mean = m + ln sigma_d.
- The paper's loss is taken with `tangent: raw`, `tangent_warmup: 0` and `adaptive_weighting: false`; any other values
  act on the error before its weight, as in alg. 1.
- Guidance as a part of the training target (the paper's sec. 4.2) is left out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from scm.objectives.consistency import ConsistencyLoss, Inputs
from scm.objectives.protocol import Batch


@dataclass(frozen=True, kw_only=True)
class MeanFlow(ConsistencyLoss):
    """A flow map with dx_t/dt = v_t, as in sCT.

    Attributes:
        jumps: fraction of the samples with s < t; the others have s = t, where the loss is diffusion's.
        weight_p: p of the loss's weight 1 / (||error||^2 + c)^p, which sends no gradient (sec. 4.3).
        weight_c: c of this weight.
    """

    jumps: float
    weight_p: float
    weight_c: float

    def jump(self, batch: Batch) -> tuple[Tensor, Inputs]:
        """Two independent times, the later of which is t; s = t with probability 1 - jumps."""
        first, second = self.times(batch), self.times(batch)
        t = torch.maximum(first, second)
        return t, {"segment": torch.where(batch.uniform() < self.jumps, torch.minimum(first, second), t)}

    def direction(self, x_t: Tensor, t: Tensor, labels: Tensor, inputs: Inputs, v_t: Tensor) -> Tensor:
        return v_t

    def distance(self, difference: Tensor) -> Tensor:
        """||error||^2 / sg(||error||^2 + c)^p; F - F^- is 0, so the difference is the error, with a gradient."""
        squared = difference.flatten(1).square().sum(dim=1)
        return squared / (squared.detach() + self.weight_c) ** self.weight_p
