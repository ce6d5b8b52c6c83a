"""The scale of the loss in half precision, whose smallest number is 6e-8: small gradients would be lost in it."""

from collections.abc import Sequence

import torch
from torch import Tensor

FIRST, GROW_AFTER = 2.0**16, 2000
"""As in torch.amp. No parameters: the scale itself changes no gradient, it only loses none and skips overflows."""


class LossScale:
    """A power of two that the loss is multiplied by: halved where a gradient overflows, doubled after 2,000 good steps.

    Args:
        value: the scale.
        good_steps: steps since it was last changed.
    """

    def __init__(self, value: float = FIRST, good_steps: int = 0) -> None:
        self.value, self.good_steps = value, good_steps

    def state(self) -> list[float]:
        """What a checkpoint keeps: the arguments."""
        return [self.value, self.good_steps]

    @torch.no_grad()
    def unscale(self, parameters: Sequence[Tensor]) -> None:
        """Divides the gradients by the scale; exact, as it is a power of two."""
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.div_(self.value)

    def after(self, finite: bool) -> bool:
        """Adapts the scale to a step's gradient; true if the scale was too large, so that the step says no more."""
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
