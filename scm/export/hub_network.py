"""The network of an exported model for diffusers, without scm: the export puts the source that it needs above this.

From here on: diffusers' frame around F.
"""

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from scm.networks.architectures.edm2 import NETWORK  # the export takes the model's own architecture
from scm.networks.magnitude import MPConv
from scm.networks.settings import NetworkSettings


class ScmNetwork(ModelMixin, ConfigMixin):
    """F(x_t / sigma_d, t, labels): TrigFlow's velocity divided by sigma_d (arXiv 2410.11081).

    Args:
        settings: the network's settings.
        sampling: for each number of steps its guidance scale and its times, in radians from pi / 2 (noise) down.
        classes: names of the classes; empty = without classes.
        shape: [C, H, W] of a sample.
        sigma_d: standard deviation of the data.
        mean, std: of each channel before it was normalised.
        zero_to_one: the decoder gives pixels in [0, 1], else in [-1, 1].
    """

    @register_to_config
    def __init__(
        self,
        settings: dict[str, Any],
        sampling: dict[str, Any],
        classes: list[str],
        shape: list[int],
        sigma_d: float,
        mean: list[float],
        std: list[float],
        zero_to_one: bool = False,
    ) -> None:
        super().__init__()
        self.settings = NetworkSettings.from_dict(settings)
        self.network = NETWORK(self.settings, 0.0, 0)
        for layer in self.network.modules():
            if isinstance(layer, MPConv):
                layer.fixed = True  # the weights are stored as the forward would normalise them

    def forward(self, x: Tensor, t: Tensor, labels: Tensor, guidance: Tensor | None = None) -> Tensor:
        """F.

        Args:
            x: x_t / sigma_d, [B, C, H, W].
            t: radians, [B].
            labels: int64 [B], -1 = no label.
            guidance: guidance scale, [B]; only for a network that takes one.
        """
        stored = next(self.parameters()).dtype
        t = t.to(stored)
        noise = t if self.settings.c_noise == "t" else torch.log(torch.tan(t) * self.settings.sigma_d) / 4
        numbers = torch.arange(self.settings.classes, device=t.device)
        rows = (labels[:, None] == numbers).to(stored) if self.settings.classes else None
        scale = None if guidance is None else guidance.to(stored)
        return self.network(x.to(stored), noise, rows, scale, None, None).to(x.dtype)
