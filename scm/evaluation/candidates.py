"""Candidates of selection: ways to sample an average, their distances with the noise of a difference, and what is next.

All candidates have the same seeds, so what tells two of them apart is the noise of their difference, which is smaller
than that of the distances. The jackknife estimates it: the samples are divided into blocks, and the difference is
computed again without each of them.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from scm.base.noise import jackknife
from scm.generation.trained import Choice

Figures = dict[str, float]
DEVIATIONS = 2.0
"""A candidate is within the noise if it is no further behind the best one than so many standard errors."""


class Way(NamedTuple):
    """A way to sample an average."""

    steps: int
    guidance: float
    t_mid: float | None = None

    @classmethod
    def of(cls, steps: int, choice: Choice) -> "Way":
        return cls(steps, choice["guidance_scale"], choice.get("t_mid"))

    @property
    def choice(self) -> Choice:
        """The way as sampling.json has it."""
        choice: Choice = {"guidance_scale": self.guidance}
        return choice if self.t_mid is None else {**choice, "t_mid": self.t_mid}


class Candidate(NamedTuple):
    """An average and a way to sample it, with its distances.

    Attributes:
        row: its figures: sigma_rel, if it is known, steps, guidance, t_mid, if there is one, samples and fd.
        without: its distances without each block of samples; empty after a first look.
    """

    row: Figures
    way: Way
    without: Sequence[float]

    @property
    def distance(self) -> float:
        """The distance for sorting; NaN and infinity come last."""
        return _finite(self.row)


def _finite(row: Figures) -> float:
    return row["fd"] if math.isfinite(row["fd"]) else math.inf


def noise(first: Sequence[float], second: Sequence[float]) -> float:
    """Standard error of the difference of two distances on the same seeds, by the jackknife; nan without blocks.

    Args:
        first, second: the distances without each block.
    """
    return jackknife([one - other for one, other in zip(first, second, strict=True)])


def with_noise(found: Sequence[Candidate]) -> Iterator[Figures]:
    """Yields the candidates' rows, each with the `noise` of its difference from the best one, if that is known."""
    best = min(found, key=lambda each: each.distance)
    for each in found:
        deviation = noise(each.without, best.without)
        yield {**each.row, **({"noise": deviation} if math.isfinite(deviation) else {})}


def better_half(found: Sequence[Candidate]) -> list[Candidate]:
    """The half of the candidates with the smaller distances, rounded up, at least two; all on equally many samples."""
    return sorted(found, key=lambda each: each.distance)[: max(2, math.ceil(len(found) / 2))]


def telling(rows: Sequence[Figures]) -> list[Figures]:
    """The rows without the columns steps, guidance and samples if these are the same in every row."""
    same = [key for key in ("steps", "guidance", "samples") if len({row[key] for row in rows}) == 1]
    return [{key: value for key, value in row.items() if key not in same} for row in rows]


def chosen(rows: Sequence[Figures]) -> Figures:
    """The best of the rows of `Selection.best` on as many samples as the last one.

    Returns:
        the best row in the most steps, with `candidates`, the number of rows that it was compared with, itself
        included, and `within_noise`, how many of these are as good as it as far as the noise lets one tell. What was
        chosen in fewer steps follows under the names guidance_Nstep, t_mid_Nstep, fd_Nstep and so on.
    """
    compared = [row for row in rows if row.get("samples") == rows[-1].get("samples")]
    by_steps: dict[float, list[Figures]] = {}
    for row in compared:
        by_steps.setdefault(row.get("steps", 1), []).append(row)
    most, *fewer = sorted(by_steps, reverse=True)
    choice = _best(by_steps[most])
    for steps in fewer:
        own = {key: value for key, value in _best(by_steps[steps]).items() if key not in ("sigma_rel", "samples")}
        choice |= {f"{key}_{steps}step": value for key, value in own.items()}
    return choice


def _best(rows: Sequence[Figures]) -> Figures:
    best = min(rows, key=_finite)
    choice = {key: value for key, value in best.items() if key not in ("steps", "noise")}
    if len(rows) == 1 or "noise" not in best:
        return choice
    near = [row for row in rows if _finite(row) - best["fd"] <= DEVIATIONS * row.get("noise", 0.0)]
    return {**choice, "candidates": len(rows), "within_noise": len(near)}


def finer_lengths(rows: Sequence[Figures], best: Mapping[str, Any]) -> list[float]:
    """The next lengths: halfway (geometric mean) from the best average's to its neighbours.

    Args:
        rows: rows of all candidates so far; their distances are not read.
        best: header of the best average. One by half-life and an imported one have no neighbours.
    """
    if "halflife" in best or best["sigma_rel"] is None:
        return []
    return between([row["sigma_rel"] for row in rows], best["sigma_rel"], lambda a, b: math.sqrt(a * b), 4)


def finer_ways(ways: Sequence[Way], best: Way) -> list[Way]:
    """The next ways: halfway from the best one's guidance scale, or its t_mid, to the neighbours among `ways`."""
    scales = between([way.guidance for way in ways], best.guidance, _mean, 3)
    times = [way.t_mid for way in ways if way.t_mid is not None]
    middles = [] if best.t_mid is None else between(times, best.t_mid, _mean, 3)
    return [*(best._replace(guidance=each) for each in scales), *(best._replace(t_mid=each) for each in middles)]


def _mean(first: float, second: float) -> float:
    return (first + second) / 2


def between(tried: Sequence[float], best: float, middle: Callable[[float, float], float], digits: int) -> list[float]:
    """Values between the best one and its neighbours on either side, rounded, unless tried before."""
    smaller, larger = [value for value in tried if value < best], [value for value in tried if value > best]
    neighbours = sorted(smaller)[-1:] + sorted(larger)[:1]
    found = [round(middle(value, best), digits) for value in neighbours]
    return [value for value in found if value not in tried]
