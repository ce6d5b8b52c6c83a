"""FACM, flow-anchored consistency models (Peng et al. 2025, arXiv 2507.03738): sCM's loss beside the diffusion loss.

One network learns the jump to the data and the velocity at each point, which anchors it. An input tells it the task.
The paper doubles the interval of t for this, or gives the network a second time that is the jump's end for the
consistency loss and t itself for the anchor. Here it is this second time, `segment`: s = 0 and s = t.

The paper's two losses are a Huber-like one of the clipped tangent, and the squared error plus 1 - cosine. Here both are
alg. 1's: with s = t its tangent is g = dx/dt - sigma_d F, the anchor's error, limited and weighted like the other.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scm.objectives.consistency import Inputs, diffusion_tangent
from scm.objectives.distillation import Distillation
from scm.objectives.protocol import Batch, Losses, Network


@dataclass(frozen=True, kw_only=True)
class FlowAnchoredDistillation(Distillation):
    """The sum of sCD's loss and the diffusion loss towards the same direction, the teacher's, at the same x_t.

    Attributes:
        anchor: weight of the diffusion loss; the paper's is 1.
    """

    anchor: float

    def __call__(self, model: Network, batch: Batch, images_seen: int) -> Losses:
        places = self.places(batch)
        shortcut = self.loss_at(model, places, images_seen)
        inputs = {**places.inputs, "segment": places.t}
        output = model(places.x_t / self.sigma_d, places.t, places.labels, **inputs)
        anchor = self.loss_of(model, places.t, diffusion_tangent(output, places.direction, self.sigma_d))
        return replace(shortcut, value=shortcut.value + self.anchor * anchor.value, parts={"anchor": anchor})

    def inputs(self, batch: Batch, t: Tensor) -> Inputs:
        return {**super().inputs(batch, t), "segment": torch.zeros_like(t)}
