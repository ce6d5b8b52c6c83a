"""Precision and recall: the share of generated images that look real, and the share of real variety that is generated.

Each set's manifold is the union of balls around its features, each as wide as the distance to the k-th nearest other
image of that set. Precision is the fraction of generated features within the real manifold, recall the fraction of
real features within the generated one (Kynkaanniemi et al. 2019, arXiv 1904.06991, eq. 1 to 3, alg. 1).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from scm.errors import UserError

MOST_IMAGES = 10_000
"""Most images in a set: time grows with the product of both numbers, and both figures depend on them."""

BLOCK = 2**20
"""Distances held at a time, 8 MiB of float64, which caches hold; bounds the memory and changes no figure."""

CLOSE = 1e-4
"""Squared distances below this part of the squared norms are computed from differences."""

SURFACE = 1 + 1e-9
"""Squared distances of a feature on a ball's surface may be so many times those of the radius, as both are rounded."""


def precision_recall(real: Tensor, generated: Tensor, neighbours: int) -> tuple[float, float]:
    """Precision and recall of generated features, both from 0 to 1.

    Balls of radius 0 (duplicates) and features on a ball's surface count as in eq. 1.

    Args:
        real: Features [N, F] of real images.
        generated: Features [M, F] of generated images, of the same type and on the same device.
        neighbours: k, the neighbour whose distance is a ball's radius; 3 in the paper.

    Raises:
        UserError: A set has no k-th neighbour.
    """
    if neighbours >= min(len(real), len(generated)):
        sides = f"more than {neighbours} images on either side, not {len(real)} real and {len(generated)} generated"
        remedy = "lower it, or raise evaluate.samples and add images"
        raise UserError(f"evaluate.neighbours = {neighbours} takes {sides}: {remedy}")
    real_radii, generated_radii = (SURFACE * _radii(features, neighbours) for features in (real, generated))
    precise, recalled = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for rows, squares in squares_between(generated, real):
        precise += int((squares <= real_radii).any(dim=1).sum())
        recalled |= (squares <= generated_radii[rows, None]).any(dim=0)
    return precise / len(generated), int(recalled.sum()) / len(real)


def spread(features: Tensor, count: int) -> Tensor:
    """Takes at most `count` of features [N, F] at equal steps, which keeps the class proportions of a sorted list."""
    count = min(count, len(features))
    return features[torch.arange(count, device=features.device) * len(features) // count]


def _radii(features: Tensor, neighbours: int) -> Tensor:
    """Squared distance [N] of each of features [N, F] to the k-th nearest other one; the nearest of all is itself."""
    blocks = [
        block.topk(neighbours + 1, largest=False).values[:, -1] for _, block in squares_between(features, features)
    ]
    return torch.cat(blocks)


def squares_between(first: Tensor, second: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yields some rows at a time, and their squared distances float64 [rows, M] from features [N, F] to [M, F].

    They come from a matrix product: |a - b|^2 = |a|^2 + |b|^2 - 2 ab, right to about 15 digits of the sums. Where most
    of these cancel, the differences are squared instead: so equal features are exactly 0 apart, and any other square is
    right to 11 digits.
    """
    second = second.double()
    norms = second.square().sum(dim=1)
    height = max(1, BLOCK // len(second))
    for start in range(0, len(first), height):
        rows = slice(start, start + height)
        some = first[rows].double()
        sums = some.square().sum(dim=1)[:, None] + norms
        squares = torch.addmm(sums, some, second.T, alpha=-2)
        for pairs in (squares < sums.mul_(CLOSE)).nonzero().split(max(1, BLOCK // second.shape[1])):
            near, far = pairs.unbind(dim=1)
            squares[near, far] = (some[near] - second[far]).square().sum(dim=1)
        yield rows, squares
