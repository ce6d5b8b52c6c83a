"""Health figures: means of an objective's figures in bins of t, between two lines of metrics.jsonl.

The loss of consistency training does not fall. Its state shows in the sizes of the tangent's terms, of F and of w_phi
at each t. For skipped steps and for samples that were left out, the figures that were not finite are counted.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from scm.objectives.protocol import Losses

BINS = 8
"""Bins of t, uniform on [0, pi/2]."""
NONFINITE = "nonfinite"
"""Prefix of `nonfinite/<figure>/<k>`: samples of skipped steps, and samples left out, whose figure was not finite."""


class HealthFigures:
    """Sums of figures and counts of samples in each bin since the last `read`.

    An objective must have the same figures and parts on all processes. The sums stay on `device` until `read`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._sums: dict[str, Tensor] = {}
        self._nonfinite: dict[str, Tensor] = {}

    def add(self, losses: Losses) -> None:
        """Adds one step's samples; a part's figures are `<part>_<figure>`, binned by the part's own times."""
        for name, values, where, left_out in _figures_of(losses):
            if left_out is not None:
                self._count(name, values, where * left_out[:, None])
                values, where = torch.where(left_out, 0, values), where * ~left_out[:, None]
            self._sums[name] = torch.stack([values @ where, where.sum(0)]) + self._sums.get(name, 0)

    def add_skipped(self, losses: Losses) -> None:
        """Counts the figures that were not finite in a skipped step."""
        for name, values, where, _ in _figures_of(losses):
            self._count(name, values, where)

    def _count(self, name: str, values: Tensor, where: Tensor) -> None:
        self._nonfinite[name] = (~values.isfinite()).to(torch.float64) @ where + self._nonfinite.get(name, 0)

    def read(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Returns the figures and resets the sums.

        Args:
            reduce: sums a tensor over the processes.

        Returns:
            For each figure, `<name>`: the mean of all samples; `<name>/<k>`: the mean in bin k, if it has samples;
            `nonfinite/<name>/<k>`: how many were not finite, if any.
        """
        names, skipped, figures = sorted(self._sums), sorted(self._nonfinite), {}
        rows = [*(self._sums[name] for name in names), *(self._nonfinite[name][None] for name in skipped)]
        if not rows:
            return figures
        stacked = reduce(torch.cat(rows)).cpu()
        for index, name in enumerate(names):
            sums, counts = stacked[2 * index], stacked[2 * index + 1]
            if counts.sum():  # else all samples were left out
                figures[name] = float(sums.sum() / counts.sum())
            figures |= {f"{name}/{k}": float(sums[k] / counts[k]) for k in range(BINS) if counts[k]}
        for name, counts in zip(skipped, stacked[2 * len(names) :], strict=True):
            figures |= {f"{NONFINITE}/{name}/{k}": float(counts[k]) for k in range(BINS) if counts[k]}
        self._sums, self._nonfinite = {}, {}
        return figures


def _figures_of(losses: Losses, prefix: str = "") -> Iterator[tuple[str, Tensor, Tensor, Tensor | None]]:
    """Yields each figure's name, its values (float64 [B]), their bins (one-hot rows [B, BINS]), and who is left out."""
    bins = (losses.t / (math.pi / 2) * BINS).long().clamp(0, BINS - 1)
    where = (bins[:, None] == torch.arange(BINS, device=bins.device)).to(torch.float64)
    own = {"loss": losses.value.detach()} if losses.recorded else {}
    for name, values in {**own, **losses.figures}.items():
        yield prefix + name, values.to(torch.float64), where, losses.left_out
    for part, inner in losses.parts.items():
        yield from _figures_of(inner, f"{prefix}{part}_")
