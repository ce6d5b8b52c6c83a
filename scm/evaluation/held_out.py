"""Figures against held-out images, which no training has seen, and the search for copies of training images."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from scm.evaluation.copies import nearest, share_of_copies, threshold_of
from scm.evaluation.frechet import distance_between
from scm.evaluation.precision_recall import MOST_IMAGES, precision_recall, spread
from scm.evaluation.statistics import Statistics, statistics_of

SIDE = 2_000
"""Most images on a side of precision and recall. There are few held-out images; many samples make several sides."""
SIDES = 8
"""Most sets of samples over which precision and recall are averaged."""
PAIRS = 10
"""Number of nearest pairs that are shown."""
PICTURE = 64
"""Most pixels on a side of a picture of them."""


class Pair(NamedTuple):
    """A sample and its nearest training image.

    Attributes:
        sample: position of the sample in its set.
        training: position of the training image in `Reference.features`.
        distance: Euclidean distance of their features.
    """

    sample: int
    training: int
    distance: float


@dataclass(frozen=True)
class HeldOut:
    """The held-out images, and the training images that samples are searched for copies of.

    Attributes:
        statistics: of the held-out images.
        features: float32 [H, F], of at most 10,000 held-out images, in random order.
        training: float32 [M, F], of at most 50,000 training images.
        pictures: uint8 [M, C, h, w], these training images.
        distances: float32 [H], from each held-out image to its nearest training image.
    """

    statistics: Statistics
    features: Tensor
    training: Tensor
    pictures: Tensor
    distances: Tensor

    @cached_property
    def threshold(self) -> float:
        return threshold_of(self.distances)

    @property
    def expected(self) -> float:
        """The share of the held-out images that count as copies."""
        return share_of_copies(self.distances, self.threshold)

    def distance_of(self, features: Tensor) -> float:
        """Frechet distance between images with these features [N, F], float64, and the held-out images."""
        return distance_between(self.statistics, statistics_of(features))

    def figures(self, features: Tensor, neighbours: int) -> dict[str, float]:
        """Figures of images with these features [N, F], float64: fd_held_out, precision_held_out, recall_held_out."""
        pairs = list(self._precision_recall(features.float(), neighbours))
        precision, recall = (sum(each) / len(pairs) for each in zip(*pairs, strict=True))
        distance = self.distance_of(features)
        return {"fd_held_out": distance, "precision_held_out": precision, "recall_held_out": recall}

    def _precision_recall(self, features: Tensor, neighbours: int) -> Iterator[tuple[float, float]]:
        """Both figures of each of several sets of samples, which are as many as the held-out images."""
        count = min(len(self.features), len(features), SIDE)
        sides = min(SIDES, len(features) // count)
        held_out = self.features[:count].to(features.device)
        some = spread(features, count * sides)
        for side in range(sides):
            yield precision_recall(held_out, some[side::sides], neighbours)

    def copies(self, features: Tensor) -> tuple[float, list[Pair]]:
        """The share of copies among samples with these features [N, F], and the pairs of smallest distance."""
        count = min(MOST_IMAGES, len(features))
        found = nearest(spread(features.float(), count), self.training.to(features.device))
        order = found.distances.argsort(stable=True)[:PAIRS].tolist()
        pairs = [
            Pair(place * len(features) // count, int(found.places[place]), float(found.distances[place]))
            for place in order
        ]
        return share_of_copies(found.distances, self.threshold), pairs


def held_out_of(statistics: Statistics, features: Tensor, training: Tensor, pictures: Tensor) -> HeldOut:
    """The held-out images with their distances, which are computed here; the arguments are as in `HeldOut`."""
    return HeldOut(statistics, features, training, pictures, nearest(features, training).distances)


def pictures_of(images: Tensor) -> Tensor:
    """Images uint8 [N, C, H, W] with at most `PICTURE` pixels on a side."""
    if images.shape[-1] <= PICTURE:
        return images
    return functional.interpolate(images.float(), (PICTURE, PICTURE), mode="area").round().to(torch.uint8)
