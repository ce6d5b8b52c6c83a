"""Health figures: means of an objective's figures per bin of t between two lines of metrics.jsonl.

Consistency training has no loss that falls; what shows its state are the sizes of the tangent's terms, of F and of
w_phi at each t.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scm.objectives import Losses

BINS = 8
"""Bins of t, uniform on [0, pi/2]."""


class HealthFigures:
    """Sums of figures and counts of samples in each bin since the last reading.

    Args:
        device: where the objective's figures live; nothing is copied from it before a reading.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sums: dict[str, Tensor] = {}
        self.counts = torch.zeros(BINS, dtype=torch.float64, device=device)

    def add(self, losses: Losses) -> None:
        """Takes in one step's samples."""
        bins = (losses.t / (math.pi / 2) * BINS).long().clamp(0, BINS - 1)
        where = torch.nn.functional.one_hot(bins, BINS).to(torch.float64)
        self.counts += where.sum(0)
        for name, values in {"loss": losses.value.detach(), **losses.figures}.items():
            total = values.to(torch.float64) @ where
            self.sums[name] = self.sums[name] + total if name in self.sums else total

    def read(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Means over all samples under the figure's name and per bin under `<name>/<k>`; empties the sums.

        Args:
            reduce: sums a tensor over the processes.
        """
        names = sorted(self.sums)
        stacked = reduce(torch.stack([self.counts, *(self.sums[name] for name in names)])).cpu()
        counts, figures = stacked[0], {}
        for name, sums in zip(names, stacked[1:], strict=True):
            figures[name] = float(sums.sum() / counts.sum())
            for k in range(BINS):
                if counts[k]:
                    figures[f"{name}/{k}"] = float(sums[k] / counts[k])
        self.sums, self.counts = {}, torch.zeros_like(self.counts)
        return figures
