"""The averages that are kept while training: two power-function profiles, in float32."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from scm.ema.profiles import decay


class PowerAverages:
    """Power-function averages of a module's parameters, one for each sigma_rel.

    Args:
        module: its parameters are averaged, its buffers are constants.
        sigma_rels: profiles to track.
    """

    def __init__(self, module: nn.Module, sigma_rels: Sequence[float]) -> None:
        self.sigma_rels = tuple(sigma_rels)
        self._sources = dict(module.named_parameters())
        self.averages = [{k: v.detach().clone() for k, v in self._sources.items()} for _ in self.sigma_rels]

    @torch.no_grad()
    def update(self, images: int, step: int) -> None:
        """Takes in the weights after a step of `step` images, `images` seen including them (EDM2 eq. 127)."""
        sources = [value.detach() for value in self._sources.values()]
        for sigma_rel, average in zip(self.sigma_rels, self.averages, strict=True):
            weight = 1 - decay(sigma_rel, images, step)
            for value, source in zip(average.values(), sources, strict=True):
                value.lerp_(source, weight)

    def state(self) -> dict[str, Tensor]:
        """All averages under `<index of the profile>.<parameter>`."""
        return {f"{i}.{key}": value for i, average in enumerate(self.averages) for key, value in average.items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        for key, value in self.state().items():
            value.copy_(state[key])
