"""Figures of a model's samples, which are drawn, shown to the extractor and dropped a batch at a time.

What grows with the number of samples is their features alone: 50,000 of 2,048 numbers are 0.8 GB, where as many images
of 512 x 512 pixels would be 39 GB.
"""

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from scm.base import weights
from scm.base.distributed import Ranks
from scm.evaluation.reference import Reference
from scm.generation.generate import count_bad, require_finite


def sampled_features(
    drawn: Iterable[tuple[slice, Tensor, float]],
    count: int,
    decode: Callable[[Tensor], Tensor],
    reference: Reference,
    ranks: Ranks,
) -> tuple[Tensor, float]:
    """Features of samples, in the order of their seeds whatever the number of processes, which all receive all of them.

    Every row is computed by one process and added to the zeros of the others, which is exact.

    Args:
        drawn: this process's part of `batches`.
        count: N, over all processes.
        decode: samples to uint8 images [B, C, H, W].
        reference: on the device of `ranks`.

    Returns:
        float64 [N, F], and the seconds that sampling took: of the slowest process.

    Raises:
        UserError: a sample is not finite; raised by every process.
    """
    features = torch.zeros(count, reference.extractor.num_features, dtype=torch.float64, device=ranks.device)
    bad, seconds = 0, torch.zeros(ranks.world, dtype=torch.float64, device=ranks.device)
    for rows, samples, taken in drawn:
        bad += count_bad(samples)
        features[rows] = reference.features_of(decode(samples))
        seconds[ranks.rank] += taken
    require_finite(int(ranks.total(torch.tensor(bad, device=ranks.device))), count)
    return ranks.total(features), float(ranks.total(seconds).max())


def kept_features(file: Path, measure: Callable[[], tuple[Tensor, float]], ranks: Ranks) -> tuple[Tensor, float]:
    """Features and seconds of a set of samples, which an interrupted evaluation may have left in `file`.

    The first of several processes has the file and says whether it is there; what the others return is not read.

    Args:
        measure: computes them where they are not there, as `sampled_features` does; they are then kept in `file`.
    """
    if ranks.any(ranks.rank == 0 and file.exists()):
        if ranks.rank:
            return torch.zeros(0), 0.0
        kept, header = weights.load(file, ranks.device)
        return kept["features"], header["seconds"]
    features, seconds = measure()
    if ranks.rank == 0:
        weights.save(file, {"features": features}, {"seconds": seconds})
    return features, seconds


def figures_of(
    sets: Iterable[tuple[Tensor, float]], labels: Tensor, reference: Reference, neighbours: int
) -> dict[str, float]:
    """All figures of the set of samples with the smallest Frechet distance, which is the one that papers quote.

    Args:
        sets: features [N, F] of samples that differ in their seeds alone, and the seconds that they took; two of the
            sets are held at a time.
        labels: int64 [N], the classes that were asked for, in each set.
        neighbours: k of `precision_recall`.

    Returns:
        "fd" and what `Reference.further` returns, of one set, and "images_per_second" of all; of several sets also
        "fd_mean", "fd_std" (dividing by their number less 1) and each one's "fd_0", "fd_1", ...
    """
    distances: list[float] = []
    best, images, seconds = None, 0, 0.0
    for features, taken in sets:
        images, seconds = images + len(features), seconds + taken
        distances.append(reference.distance_of(features))
        if best is None or distances[-1] < min(distances[:-1]):
            best = features
    if best is None:
        raise ValueError("no samples to measure")
    figures = {"fd": min(distances), **reference.further(best, labels, neighbours)}
    figures["images_per_second"] = images / seconds
    if len(distances) > 1:
        figures |= {"fd_mean": statistics.mean(distances), "fd_std": statistics.stdev(distances)}
        figures |= {f"fd_{index}": distance for index, distance in enumerate(distances)}
    return figures
