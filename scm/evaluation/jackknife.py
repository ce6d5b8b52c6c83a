"""The jackknife: samples are divided into blocks, and a figure is computed again without each of them."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from scm.base.noise import jackknife
from scm.evaluation.frechet import FEWEST_SAMPLES, distances_between
from scm.evaluation.statistics import Statistics, statistics_of, together

BLOCKS = 8
"""Blocks of samples that are left out in turn."""


def blocks_of(count: int) -> int:
    """The number of blocks of `count` samples, so that those outside one of them have a distance."""
    return min(BLOCKS, count) if count > FEWEST_SAMPLES else 0


def without_blocks(count: int, blocks: int) -> Iterator[Tensor]:
    """Yields for each block the samples outside it. A block has its share of each class, as the samples are sorted."""
    numbers = torch.arange(count)
    for block in range(blocks):
        yield numbers[numbers % blocks != block]


def distance_errors(features: Tensor, real: Sequence[Statistics]) -> list[float]:
    """Standard errors of the Frechet distances between images with these features [N, F] and each of `real`.

    They are the noise of drawing N samples of one model. The sums without a block are all sums less the block's, so the
    cost is one pass over the features and at most eight distances for each of `real`.

    Returns:
        nan for too few images.
    """
    blocks = blocks_of(len(features))
    if not blocks:
        return [math.nan] * len(real)
    parts = [statistics_of(features[block::blocks]) for block in range(blocks)]
    whole = together(parts)
    without = [{name: whole[name] - part[name] for name in whole} for part in parts]
    return [jackknife(distances_between(each, without)) for each in real]
