"""The gate decides, from plain data alone, if a candidate becomes the champion.

A Frechet distance of finitely many samples is noisy, so a single distance decides nothing. Each side has the distances
of several ranges of seeds, and the candidate must be better by more than the standard error of the difference of the
two means, computed with each side's own variance (Welch). This noise is that of measuring: it does not include how much
the model would differ if it were trained again with another seed.

A model that has learnt its training images by heart has a small distance from them. So an improvement counts only if
it shows on images that no training has seen as well (fd_held_out@N), and if the candidate copies no more than the
champion (copies@N, a share of the samples).
"""

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from scm.base.count import Count
from scm.base.noise import welch
from scm.publishing.entry import FEWEST_RANGES, Entry
from scm.results.reading import distance_ranges

HELD_OUT, COPIES = "fd_held_out", "copies"
"""Figures that exist where images are held out of all trainings."""
MOST_LOOKED_AT = 10_000
"""Samples in which copies are looked for, at most."""
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
        figures: candidate_mean, champion_mean, improvement, standard_error and needed, as far as they were computed;
            held_out_improvement and held_out_needed, copied_more and copied_more_allowed likewise.
    """

    kind: Kind
    reasons: tuple[str, ...]
    figures: Mapping[str, float] = field(default_factory=dict)


def decide(candidate: Entry, champion: Entry | None, rules: Rules) -> Verdict:
    """Compares a candidate with the champion; None = there is no champion yet.

    The first rule that applies decides, in this order: nothing new, a broken candidate, no champion, the champion's own
    weights, another protocol, rolled-back weights, the test of the distances, and that of memory.
    """
    if champion is not None and _same(candidate, champion):
        return Verdict("unchanged", (f"the champion, version {champion.version}, has these weights and figures",))
    broken = _broken(candidate)
    if broken:
        return Verdict("refused", broken)
    if champion is None:
        return Verdict("first", ("there is no champion yet", *_of_unknown_noise(candidate)))
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
    verdict = _compared(candidate, champion, rules)
    return _remembered(verdict, candidate, champion, rules) if verdict.kind == "promoted" else verdict


def _same(candidate: Entry, champion: Entry) -> bool:
    """True if the candidate has nothing new."""
    measured = candidate.protocol == champion.protocol and candidate.distances == champion.distances
    return candidate.key == champion.key or (candidate.weights == champion.weights and measured)


def _broken(candidate: Entry) -> tuple[str, ...]:
    """Reasons to refuse the candidate whatever the champion is."""
    figures = [(name, value) for name, value in sorted(candidate.figures.items()) if not math.isfinite(value)]
    reasons = [f"{name} is {value}, not a finite number: look at the training's curves" for name, value in figures]
    return (*reasons, *(f"failed health check of the training: {line}" for line in candidate.health))


def _of_unknown_noise(first: Entry) -> tuple[str, ...]:
    """What a first champion with too few ranges of seeds means for its successors."""
    number = first.evaluations
    ranges = len(first.distances[number])
    if ranges >= FEWEST_RANGES:
        return ()
    what = (
        f"the noise of fd@{number} is not known from {ranges} range of seeds, so the next model cannot replace this one"
    )
    remedy = "write evaluate.repeats: 3, measure this one so and publish it again before the next"
    return (f"{what}: {remedy} (docs/retraining.md)",)


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


def _remembered(verdict: Verdict, candidate: Entry, champion: Entry, rules: Rules) -> Verdict:
    """The verdict on a candidate whose distance would promote it, unless it owes that to its memory."""
    against, unknown, figures = list[str](), list[str](), dict(verdict.figures)
    for name, judge in ((HELD_OUT, _on_held_out), (COPIES, _by_copies)):
        judged = judge(candidate, champion, rules)
        if judged is None:
            unknown.append(f"{name}@{candidate.evaluations}")
            continue
        reason, found = judged
        figures |= found
        against += [reason] if reason else []
    missing = "it was not judged if the candidate remembers its training images, for want of"
    remedy = "set data.held_out and measure both models so"
    reasons = [*verdict.reasons, *against, *([f"{missing} {' and '.join(unknown)}: {remedy}"] if unknown else [])]
    return Verdict("challenger" if against else verdict.kind, tuple(reasons), figures)


def _on_held_out(candidate: Entry, champion: Entry, rules: Rules) -> tuple[str, dict[str, float]] | None:
    """The test of the distances, repeated with images that no training has seen; None if they were not measured.

    Returns:
        what speaks against the candidate, "" if nothing does, and the figures of the verdict.
    """
    number = candidate.evaluations
    ours, theirs = (distance_ranges(each.figures, number, HELD_OUT) for each in (candidate, champion))
    if min(len(ours), len(theirs)) < FEWEST_RANGES:
        return None
    improvement, error = welch(theirs, ours)
    mean, noise = statistics.fmean(theirs), rules.deviations * error
    figures = {"held_out_improvement": improvement, "held_out_needed": noise - rules.allowed * mean}
    if improvement > figures["held_out_needed"]:
        return "", figures
    what = f"{HELD_OUT}@{number} is {statistics.fmean(ours):.4g}, the champion's {mean:.4g}"
    return f"but on the training images alone: {what}; {rules.deviations:g} standard errors are {noise:.2g}", figures


def _by_copies(candidate: Entry, champion: Entry, rules: Rules) -> tuple[str, dict[str, float]] | None:
    """Compares the shares of copies, whose noise is that of counting; returns what `_on_held_out` does."""
    key, samples = f"{COPIES}@{candidate.evaluations}", candidate.parts.get("evaluate.samples")
    if samples is None or key not in candidate.figures or key not in champion.figures:
        return None
    shares = ours, theirs = candidate.figures[key], champion.figures[key]
    looked_at = min(int(Count(json.loads(samples))), MOST_LOOKED_AT)
    noise = rules.deviations * math.sqrt(sum(share * (1 - share) / looked_at for share in shares))
    figures = {"copied_more": ours - theirs, "copied_more_allowed": noise}
    if ours - theirs <= noise:
        return "", figures
    what = f"{key} is {ours:.4g}, the champion's {theirs:.4g}"
    return f"but it copies more training images: {what}; {rules.deviations:g} standard errors are {noise:.2g}", figures
