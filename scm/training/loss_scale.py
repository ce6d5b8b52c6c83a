"""Loss scaling for half precision: float16's smallest number is 6e-8, so small gradients would become 0."""

from collections.abc import Sequence

import torch
from torch import Tensor

FIRST, GROW_AFTER = 2.0**16, 2000
"""As in torch.amp. These are no parameters, because the scale cancels in every gradient that is applied."""


class LossScale:
    """A power of two that multiplies the loss: halved if a gradient overflows, doubled after 2,000 good steps.

    Args:
        value: the scale.
        good_steps: steps since the last change.
    """

    def __init__(self, value: float = FIRST, good_steps: int = 0) -> None:
        self.value, self.good_steps = value, good_steps

    def state(self) -> list[float]:
        """The constructor's arguments, for a checkpoint."""
        return [self.value, self.good_steps]

    @torch.no_grad()
    def unscale(self, parameters: Sequence[Tensor]) -> None:
        """Divides the gradients by the scale, exactly, as it is a power of two."""
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.div_(self.value)

    def after(self, finite: bool) -> bool:
        """Adapts the scale after a step; returns True if too large a scale explains the step's overflow."""
        if finite:
            self.good_steps += 1
            if self.good_steps == GROW_AFTER:
                self.value, self.good_steps = self.value * 2, 0
            return False
        self.good_steps = 0
        if self.value == 1:
            return False
        self.value /= 2
        return True
