"""The Frechet distance of infinitely many samples (Chong & Forsyth 2020, arXiv 1911.07023).

The distance of N samples exceeds that of the distribution by about a constant over N. So a line through the distances
at several N, drawn over 1 / N, meets 1 / N = 0 at the distance without this bias.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from scm.base.randomness import generator

PARTS = (1, 2, 4, 8)
"""Numbers of equal parts into which the samples are divided. A distance at N / k is the mean over k parts."""


def extrapolated(features: Tensor, distance_of: Callable[[Tensor], float], whole: float) -> float | None:
    """The distance extrapolated to infinitely many samples; it can fall below 0 by chance.

    Args:
        features: [N, F] of the samples, which are divided at random.
        distance_of: returns the distance of some of them.
        whole: the distance of all.

    Returns:
        None if the smallest part has no more samples than features, where the bias no longer falls as 1 / N.
    """
    count, length = features.shape
    if count // PARTS[-1] <= length:
        return None
    order = torch.randperm(count, generator=generator(0, "extrapolated distance")).to(features.device)
    distances = [whole]
    for parts in PARTS[1:]:
        size = count // parts
        some = (features[order[part * size : (part + 1) * size]] for part in range(parts))
        distances.append(sum(map(distance_of, some)) / parts)
    inverse = torch.tensor([1 / (count // parts) for parts in PARTS], dtype=torch.float64)
    return intercept(inverse, torch.tensor(distances, dtype=torch.float64))


def intercept(x: Tensor, y: Tensor) -> float:
    """Where the least-squares line through points (x, y), float64 [N] each, meets x = 0.

    >>> intercept(torch.tensor([1.0, 2.0]).double(), torch.tensor([3.0, 5.0]).double())
    1.0
    """
    centred = x - x.mean()
    slope = (centred * (y - y.mean())).sum() / centred.square().sum()
    return float(y.mean() - slope * x.mean())
