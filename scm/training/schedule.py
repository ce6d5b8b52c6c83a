"""The learning rate over a run, counted in images."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then decay.

    Attributes:
        maximum: learning rate between warm-up and decay.
        warmup: length of the warm-up.
        decay: `constant`; `inverse_sqrt`: 1 / sqrt(n / decay_from) (EDM2 eq. 67); `cosine`: to 0 at the end of the run.
        decay_from: start of the decay.
        total: length of the run.
    """

    maximum: float
    warmup: int
    decay: Literal["constant", "inverse_sqrt", "cosine"]
    decay_from: int
    total: int

    def at(self, images: int) -> float:
        """Learning rate of the step after `images` images."""
        rate = self.maximum
        if self.warmup:
            rate *= min(images / self.warmup, 1.0)
        if images > self.decay_from:
            if self.decay == "inverse_sqrt":
                rate /= math.sqrt(max(images / self.decay_from, 1.0))
            elif self.decay == "cosine":
                progress = (images - self.decay_from) / max(self.total - self.decay_from, 1)
                rate *= 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        return rate
