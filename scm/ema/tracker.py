"""The averages kept while training, in float32: one for each power-function profile, and a plain exponential one."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from scm.ema.profiles import decay, halflife_decay


class Averages:
    """Averages of a module's parameters: a power-function one for each sigma_rel, then the exponential one.

    Args:
        module: its parameters are averaged, its buffers are constants.
        sigma_rels: power-function profiles to track.
        halflife: images after which a plain exponential average has forgotten half; None = none is kept.
        keeps: True for the parameters that are averaged.
    """

    def __init__(
        self,
        module: nn.Module,
        sigma_rels: Sequence[float],
        halflife: int | None = None,
        keeps: Callable[[Tensor], bool] = lambda parameter: True,
    ) -> None:
        self.sigma_rels, self.halflife = tuple(sigma_rels), halflife
        self._sources = {key: value for key, value in module.named_parameters() if keeps(value)}
        number = len(self.sigma_rels) + (halflife is not None)
        self.averages = [{k: v.detach().clone() for k, v in self._sources.items()} for _ in range(number)]

    @torch.no_grad()
    def update(self, images: int, step: int) -> None:
        """Updates each average with the weights after a step of `step` images (EDM2 eq. 127).

        Args:
            images: images seen, those of the step included.
        """
        if not self._sources:  # of more processes than parameters, some keep none
            return
        sources = [value.detach() for value in self._sources.values()]
        decays = [decay(sigma_rel, images, step) for sigma_rel in self.sigma_rels]
        if self.halflife is not None:
            decays.append(halflife_decay(self.halflife, step))
        for beta, average in zip(decays, self.averages, strict=True):
            values = list(average.values())
            torch._foreach_lerp_(values, sources, 1 - beta)  # pyright: ignore[reportPrivateImportUsage, reportPrivateUsage]

    def state(self) -> dict[str, Tensor]:
        """All averages under `<index of the profile>.<parameter>`."""
        return {f"{i}.{key}": value for i, average in enumerate(self.averages) for key, value in average.items()}
