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

BLOCK = 2**24
"""Distances held at a time, 64 MiB of float32; bounds the memory and changes no figure."""


def precision_recall(real: Tensor, generated: Tensor, neighbours: int) -> tuple[float, float]:
    """Precision and recall of generated features, both from 0 to 1.

    Euclidean distances are computed from differences rather than scalar products. So equal features are exactly 0 apart
    and a distance does not depend on its block: balls of radius 0 (duplicates) and features on a ball's surface count
    as in eq. 1.

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
    real_radii, generated_radii = _radii(real, neighbours), _radii(generated, neighbours)
    precise, recalled = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for rows, distances in distances_between(generated, real):
        precise += int((distances <= real_radii).any(dim=1).sum())
        recalled |= (distances <= generated_radii[rows, None]).any(dim=0)
    return precise / len(generated), int(recalled.sum()) / len(real)


def spread(features: Tensor, count: int) -> Tensor:
    """Takes at most `count` of features [N, F] at equal steps, which keeps the class proportions of a sorted list."""
    count = min(count, len(features))
    return features[torch.arange(count, device=features.device) * len(features) // count]


def _radii(features: Tensor, neighbours: int) -> Tensor:
    """Distance [N] of each of features [N, F] to the k-th nearest other one; the nearest of all is itself."""
    blocks = [
        block.topk(neighbours + 1, largest=False).values[:, -1] for _, block in distances_between(features, features)
    ]
    return torch.cat(blocks)


def distances_between(first: Tensor, second: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yields some rows at a time, and their Euclidean distances [rows, M] from features [N, F] to [M, F]."""
    height = max(1, BLOCK // len(second))
    for start in range(0, len(first), height):
        rows = slice(start, start + height)
        yield rows, torch.cdist(first[rows], second, compute_mode="donot_use_mm_for_euclid_dist")
