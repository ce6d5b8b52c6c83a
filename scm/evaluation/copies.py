"""Copies: the share of samples that lie nearer to a training image than held-out images do.

Held-out images come from where the training images come from, and no training has seen them. A sample counts as a copy
if its nearest training image is as near as that of the nearest twentieth of the held-out images. So a generator that
has learnt the distribution has about a twentieth of copies, and one that repeats its training images has more.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from scm.evaluation.precision_recall import squares_between

QUANTILE = 0.05
"""Share of the held-out images that count as copies."""


class Nearest(NamedTuple):
    """The nearest training image of each of N images.

    Attributes:
        distances: float32 [N], Euclidean distances of features.
        places: int64 [N], of the training images.
    """

    distances: Tensor
    places: Tensor


def nearest(images: Tensor, training: Tensor) -> Nearest:
    """Finds the nearest of features [M, F] of training images for features [N, F], of the same type and device."""
    blocks = [block.min(dim=1) for _, block in squares_between(images, training)]
    squares, places = (torch.cat(each) for each in zip(*blocks, strict=True))
    return Nearest(squares.sqrt().float(), places)


def threshold_of(distances: Tensor) -> float:
    """The largest distance at which an image is a copy, from the distances [N] of held-out images, at least one."""
    return float(distances.sort().values[max(0, round(QUANTILE * len(distances)) - 1)])


def share_of_copies(distances: Tensor, threshold: float) -> float:
    """The share of the images with these distances [N] that are copies."""
    return int((distances <= threshold).sum()) / len(distances)
