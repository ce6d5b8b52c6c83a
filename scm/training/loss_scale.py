"""Loss scaling for half precision: float16's smallest number is 6e-8, so small gradients would become 0."""

from collections.abc import Sequence

import torch
from torch import Tensor

FIRST, GROW_AFTER = 2.0**16, 2000
"""As in torch.amp. These are no parameters, because the scale cancels in every gradient that is applied."""


class LossScale:
    """A power of two that multiplies the loss: halved if a gradient overflows, doubled after 2,000 good steps.

    It stays on the device, which adapts it.

    Args:
        value: the scale.
        good_steps: steps since the last change.

    Attributes:
        value: the scale, a tensor of no dimension.
    """

    def __init__(self, value: float = FIRST, good_steps: int = 0, device: torch.device | str = "cpu") -> None:
        self.value = torch.full((), value, device=device)
        self._good_steps = torch.full((), good_steps, device=device)

    def state(self) -> list[float]:
        """The constructor's numbers, for a checkpoint."""
        return [self.value.item(), self._good_steps.item()]

    @torch.no_grad()
    def unscale(self, parameters: Sequence[Tensor]) -> None:
        """Divides the gradients by the scale, exactly, as it is a power of two."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_div_(gradients, self.value)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def after(self, finite: Tensor) -> Tensor:
        """Adapts the scale after a step; returns true if too large a scale explains the step's overflow."""
        too_large = ~finite & (self.value > 1)
        self._good_steps = torch.where(finite, self._good_steps + 1, 0)
        grown = self._good_steps == GROW_AFTER
        self._good_steps = torch.where(grown, 0, self._good_steps)
        factor = torch.where(too_large, 0.5, torch.where(grown, 2.0, 1.0))
        self.value = self.value * factor
        return too_large
