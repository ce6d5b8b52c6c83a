"""Health figures: means of an objective's figures per bin of t between two lines of metrics.jsonl.

Consistency training has no loss that falls; what shows its state are the sizes of the tangent's terms, of F and of
w_phi at each t. Of steps that are skipped, what was not finite is counted.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from scm.objectives.protocol import Losses

BINS = 8
"""Bins of t, uniform on [0, pi/2]."""
NONFINITE = "nonfinite"
"""Of `nonfinite/<figure>/<k>`: samples of skipped steps whose figure was infinite or no number."""


class HealthFigures:
    """Sums of figures and counts of samples in each bin since the last reading.

    The names of an objective's figures and parts must be the same on all processes.

    Args:
        device: where the objective's figures live; nothing is copied from it before a reading.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._sums: dict[str, Tensor] = {}
        self._nonfinite: dict[str, Tensor] = {}

    def add(self, losses: Losses) -> None:
        """Takes in one step's samples; figures of a part are `<part>_<figure>`, binned by the part's own times."""
        for name, values, where in _figures_of(losses):
            self._sums[name] = torch.stack([values @ where, where.sum(0)]) + self._sums.get(name, 0)

    def add_skipped(self, losses: Losses) -> None:
        """Counts what was not finite in a step that changed nothing."""
        for name, values, where in _figures_of(losses):
            self._nonfinite[name] = (~values.isfinite()).to(torch.float64) @ where + self._nonfinite.get(name, 0)

    def read(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Empties the sums.

        Args:
            reduce: sums a tensor over the processes.

        Returns:
            Means over all samples under the figure's name and per bin under `<name>/<k>`, without bins that nothing
            fell into; counts of what was not finite under `nonfinite/<name>/<k>`, without zeros.
        """
        names, skipped, figures = sorted(self._sums), sorted(self._nonfinite), {}
        rows = [*(self._sums[name] for name in names), *(self._nonfinite[name][None] for name in skipped)]
        if not rows:
            return figures
        stacked = reduce(torch.cat(rows)).cpu()
        for index, name in enumerate(names):
            sums, counts = stacked[2 * index], stacked[2 * index + 1]
            figures[name] = float(sums.sum() / counts.sum())
            figures |= {f"{name}/{k}": float(sums[k] / counts[k]) for k in range(BINS) if counts[k]}
        for name, counts in zip(skipped, stacked[2 * len(names) :], strict=True):
            figures |= {f"{NONFINITE}/{name}/{k}": float(counts[k]) for k in range(BINS) if counts[k]}
        self._sums, self._nonfinite = {}, {}
        return figures


def _figures_of(losses: Losses, prefix: str = "") -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, values float64 [B], where each lies as rows of 0 and 1 [B, BINS]) of the loss, the figures, the parts."""
    bins = (losses.t / (math.pi / 2) * BINS).long().clamp(0, BINS - 1)
    where = torch.nn.functional.one_hot(bins, BINS).to(torch.float64)
    own = {"loss": losses.value.detach()} if losses.recorded else {}
    for name, values in {**own, **losses.figures}.items():
        yield prefix + name, values.to(torch.float64), where
    for part, inner in losses.parts.items():
        yield from _figures_of(inner, f"{prefix}{part}_")
