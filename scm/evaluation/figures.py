"""Figures of a model's samples. Samples are drawn, turned into features and dropped a batch at a time.

Only the features grow with the number of samples: 50,000 of 2,048 numbers take 0.8 GB, while as many images of
512 x 512 pixels would take 39 GB.
"""

import math
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, NamedTuple, TypedDict

import torch
from torch import Tensor

from scm.base import weights
from scm.base.distributed import Ranks
from scm.base.forms import at_least
from scm.evaluation.held_out import Pair
from scm.evaluation.jackknife import distance_errors
from scm.evaluation.reference import Reference
from scm.generation.generate import count_bad, require_finite


class Seconds(TypedDict):
    """The header of kept features."""

    seconds: Annotated[float, at_least(0)]


def sampled_features(
    drawn: Iterable[tuple[slice, Tensor, float]],
    count: int,
    decode: Callable[[Tensor], Tensor],
    reference: Reference,
    ranks: Ranks,
) -> tuple[Tensor, float]:
    """Features of all samples, in the order of their seeds, on every process.

    Each row is computed by one process and added to zeros of the others, which is exact, so the number of processes
    does not matter.

    Args:
        drawn: this process's batches: their rows, the samples, and the seconds that they took.
        count: the number of samples N, over all processes.
        decode: turns samples into uint8 images [B, C, H, W].
        reference: the reference, on the device of `ranks`.

    Returns:
        Features float64 [N, F], and the seconds that the slowest process sampled.

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
    """Features and seconds of a set of samples, read from `file` if an interrupted evaluation has left them.

    Only rank 0 reads and writes the file; other ranks' return values are ignored.

    Args:
        measure: computes features and seconds, as `sampled_features` does, for a file that is missing or damaged.
    """
    kept = weights.load_sealed(file) if ranks.rank == 0 else None
    if ranks.any(kept is not None):
        if kept is None:
            return torch.zeros(0), 0.0
        tensors, header = kept
        return tensors["features"].to(ranks.device), header["seconds"]
    features, seconds = measure()
    if ranks.rank == 0:
        weights.save_sealed(file, {"features": features}, {"seconds": seconds})
    return features, seconds


class Measured(NamedTuple):
    """What was found about a model's samples.

    Attributes:
        figures: by name.
        best: number of the set that the figures are of.
        pairs: its samples that are nearest to a training image; empty if no images are held out.
    """

    figures: dict[str, float]
    best: int
    pairs: list[Pair]


def figures_of(sets: Iterable[tuple[Tensor, float]], labels: Tensor, reference: Reference, neighbours: int) -> Measured:
    """All figures of the set of samples with the smallest Frechet distance, as papers quote them.

    Args:
        sets: features [N, F] and seconds of each set of samples; sets differ in their seeds alone. At most two are held
            in memory.
        labels: int64 [N], the requested classes, the same in each set.
        neighbours: k of `precision_recall`.

    Returns:
        "fd", its standard error "fd_se", "fd_inf" and the figures of `Reference.further` for the best set, and
        "images_per_second" over all sets.
        Several sets also give "fd_mean", "fd_std" (dividing by their number less 1) and "fd_0", "fd_1", ... for each
        set. If images are held out, there are the figures of `HeldOut`, "fd_held_out_se" and "copies" for the best
        set, and "fd_held_out_0", ... for several.
    """
    distances, apart, held_out = list[float](), list[float](), reference.held_out
    best, images, seconds = None, 0, 0.0
    for features, taken in sets:
        images, seconds = images + len(features), seconds + taken
        distances.append(reference.distance_of(features))
        apart += [held_out.distance_of(features)] if held_out else []
        if best is None or distances[-1] < min(distances[:-1]):
            best = features
    if best is None:
        raise ValueError("no samples to measure")
    figures = {"fd": min(distances), **reference.without_bias(best, min(distances))}
    real = {"fd_se": reference.statistics, **({"fd_held_out_se": held_out.statistics} if held_out else {})}
    errors = zip(real, distance_errors(best, list(real.values())), strict=True)
    figures |= {name: error for name, error in errors if math.isfinite(error)}
    figures |= reference.further(best, labels, neighbours)
    pairs = list[Pair]()
    if held_out is not None:
        figures |= held_out.figures(best, neighbours)
        figures["copies"], pairs = held_out.copies(best)
    figures["images_per_second"] = images / seconds
    if len(distances) > 1:
        figures |= {"fd_mean": statistics.mean(distances), "fd_std": statistics.stdev(distances)}
        figures |= {f"fd_{index}": distance for index, distance in enumerate(distances)}
        figures |= {f"fd_held_out_{index}": distance for index, distance in enumerate(apart)}
    return Measured(figures, distances.index(min(distances)), pairs)
