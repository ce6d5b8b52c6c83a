"""The noise of a measured figure: how far it differs between ranges of seeds, or without parts of the samples."""

import math
import statistics
from collections.abc import Sequence


def welch(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Difference of two means, first - second, and its standard error; the variances may differ."""
    error = math.sqrt(sum(statistics.variance(side) / len(side) for side in (first, second)))
    return statistics.fmean(first) - statistics.fmean(second), error


def jackknife(without: Sequence[float]) -> float:
    """Standard error of a figure from its values without each of several equal blocks of samples; nan without blocks.

    >>> jackknife([1.0, 2.0, 3.0])
    1.1547005383792515
    """
    if not without:
        return math.nan
    count, mean = len(without), math.fsum(without) / len(without)
    return math.sqrt((count - 1) / count * math.fsum((each - mean) ** 2 for each in without))
