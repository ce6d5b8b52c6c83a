"""The gate decides, from plain data alone, if a candidate becomes the champion.

A Frechet distance of finitely many samples is noisy, so a single distance decides nothing. Each side has the distances
of several ranges of seeds, and the candidate must be better by more than the standard error of the difference of the
two means, computed with each side's own variance (Welch). This noise is that of measuring: it does not include how much
the model would differ if it were trained again with another seed.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from scm.publishing.entry import FEWEST_RANGES, Entry

Kind = Literal["first", "promoted", "challenger", "refused", "unchanged"]

MOST_DIFFERENCES = 6
"""Differences between two protocols that a reason names at most."""


@dataclass(frozen=True)
class Rules:
    """The block `publish` of params.yaml.

    Attributes:
        allowed: how much worse than the champion, as a fraction, still counts as not worse.
        deviations: standard errors of the difference that an improvement must exceed.
    """

    allowed: float
    deviations: float


@dataclass(frozen=True)
class Verdict:
    """The decision about a candidate.

    Attributes:
        kind: first, promoted: it becomes the champion. challenger: it is registered beside the champion. refused: it
            is not registered. unchanged: it is the champion already.
        reasons: sentences.
        figures: candidate_mean, champion_mean, improvement, standard_error and needed, as far as they were computed.
    """

    kind: Kind
    reasons: tuple[str, ...]
    figures: Mapping[str, float] = field(default_factory=dict)


def decide(candidate: Entry, champion: Entry | None, rules: Rules) -> Verdict:
    """Compares a candidate with the champion; None = there is no champion yet.

    The first rule that applies decides, in this order: nothing new, a broken candidate, no champion, the champion's own
    weights, another protocol, rolled-back weights, and the test of the distances.
    """
    if champion is not None and _same(candidate, champion):
        return Verdict("unchanged", (f"the champion, version {champion.version}, has these weights and figures",))
    broken = _broken(candidate)
    if broken:
        return Verdict("refused", broken)
    if champion is None:
        return Verdict("first", ("there is no champion yet",))
    if candidate.weights == champion.weights:
        reason = "the champion's own weights, measured anew: their new figures take the place of the old ones"
        return Verdict("promoted", (reason,))
    incomparable = _incomparable(candidate, champion)
    if incomparable:
        return Verdict("refused", incomparable)
    if candidate.rolled_back:
        remedy = f"`scm rollback --to {candidate.rolled_back}` makes it the champion again"
        what = f"version {candidate.rolled_back} with these weights was rolled back, so they are not promoted"
        return Verdict("challenger", (f"{what}: {remedy}",))
    return _compared(candidate, champion, rules)


def welch(first: tuple[float, ...], second: tuple[float, ...]) -> tuple[float, float]:
    """Difference of two means, first - second, and its standard error; the variances may differ."""
    error = math.sqrt(sum(statistics.variance(side) / len(side) for side in (first, second)))
    return statistics.fmean(first) - statistics.fmean(second), error


def _same(candidate: Entry, champion: Entry) -> bool:
    """True if the candidate has nothing new."""
    measured = candidate.protocol == champion.protocol and candidate.distances == champion.distances
    return candidate.key == champion.key or (candidate.weights == champion.weights and measured)


def _broken(candidate: Entry) -> tuple[str, ...]:
    """Reasons to refuse the candidate whatever the champion is."""
    figures = [(name, value) for name, value in sorted(candidate.figures.items()) if not math.isfinite(value)]
    reasons = [f"{name} is {value}, not a finite number: look at the training's curves" for name, value in figures]
    return (*reasons, *(f"failed health check of the training: {line}" for line in candidate.health))


def _incomparable(candidate: Entry, champion: Entry) -> tuple[str, ...]:
    """Reasons why the two distances cannot be compared, each with its remedy."""
    if candidate.protocol != champion.protocol:
        names = sorted({*candidate.parts, *champion.parts})
        pairs = [(name, champion.parts.get(name, "-"), candidate.parts.get(name, "-")) for name in names]
        differences = [f"{name} {old} -> {new}" for name, old, new in pairs if old != new]
        shown = differences[:MOST_DIFFERENCES]
        if len(differences) > len(shown):
            shown.append(f"{len(differences) - len(shown)} more")
        what = "; ".join(shown) or f"eval.protocol {champion.protocol[:12]} -> {candidate.protocol[:12]}"
        remedy = 'measure the champion in the same way and publish that first (docs/retraining.md, "Another ruler")'
        return (f"not comparable: the champion was measured in another way ({what}): {remedy}",)
    number = candidate.evaluations
    if number not in champion.distances:
        known = ", ".join(f"fd@{each}" for each in sorted(champion.distances))
        remedy = "write one of them into publish.evaluations"
        return (f"not comparable: the champion has no fd@{number}, only {known}: {remedy}",)
    ranges = min(len(candidate.distances[number]), len(champion.distances[number]))
    if ranges < FEWEST_RANGES:
        remedy = "write evaluate.repeats: 3, measure the champion so and publish that first"
        return (f"the noise of fd@{number} is not known from {ranges} range of seeds: {remedy} (docs/retraining.md)",)
    return ()


def _compared(candidate: Entry, champion: Entry, rules: Rules) -> Verdict:
    """Tests if the candidate's mean lies below the champion's, plus what is allowed, by more than the noise."""
    number = candidate.evaluations
    ours, theirs = candidate.distances[number], champion.distances[number]
    improvement, error = welch(theirs, ours)
    mean, needed = statistics.fmean(theirs), rules.deviations * error
    figures = {
        "candidate_mean": statistics.fmean(ours),
        "champion_mean": mean,
        "improvement": improvement,
        "standard_error": error,
        "needed": needed - rules.allowed * mean,
    }
    what = f"fd@{number} is {figures['candidate_mean']:.4g}, the champion's {mean:.4g}"
    noise = f"{rules.deviations:g} standard errors of the difference are {needed:.2g}"
    if improvement > figures["needed"]:
        kind, how = "promoted", "better by more than the noise"
        if improvement <= needed:
            how = f"not worse than publish.allowed: {rules.allowed:g} lets it be"
    else:
        kind = "challenger"
        how = "worse by more than the noise" if improvement < -needed else "no better than the noise lets one tell"
    return Verdict(kind, (f"{how}: {what}; {noise}",), figures)
