"""The verdict on a run: good, weak or broken, in one sentence that also says how far luck could explain it.

The limits are rules of thumb from runs of this pipeline. Good students have 0.6 to 1.9 times their teacher's distance;
the teacher itself in two evaluations, which nobody would use, has 15 to 58 times. The leading student is judged beside
its teacher and, as the teacher may be bad itself, by its own figures. A bad teacher keeps the verdict from being good.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from scm.base.noise import welch
from scm.report.findings import Findings, Row, health_of
from scm.report.wording import a_distance, number

Level = Literal["good", "weak", "broken"]
LEVELS: tuple[Level, ...] = ("good", "weak", "broken")
"""From the best to the worst."""
GOOD_RATIO, BROKEN_RATIO = 2.0, 10.0
"""A student is good up to this multiple of its teacher's distance, and broken from that multiple on."""
FAR = 30.0
"""A model whose distance is above this multiple of the floor is weak. A multiple grows with the number of samples:
good teachers of the digits have 3 to 10, the weak one of three classes of CIFAR-10 has about 40."""
LOW, COLLAPSED = 0.4, 0.05
"""A model whose precision or recall is below these is weak, or broken."""
UNSURE, UNRECOGNISED = 0.8, 0.25
"""Limits of accuracy, on a scale from 0, pure chance, to 1, the classifier's accuracy on real images."""
REPEATED = 3.0
"""A model with more than this multiple of the expected copies repeats its training images, and is weak."""
DEVIATIONS = 2.0
"""A difference is more than luck if it exceeds so many of its standard errors."""


@dataclass(frozen=True)
class Verdict:
    """What a run has come to.

    Attributes:
        level: good, weak or broken.
        sentence: why, and how far luck could explain it; it names the model that is judged.
    """

    level: Level
    sentence: str


@dataclass(frozen=True)
class Fault:
    """Something that is bad in a model's own figures, whatever other models have; `words` tell it."""

    level: Level
    words: str


def verdict(findings: Findings) -> Verdict:
    """Judges the leading student, or the teacher if there are no students."""
    row, teacher = findings.leading_row, findings.best_teacher
    if row is None:
        own = worst_fault(findings, teacher)
        level: Level = own.level if own else "good"
        what = f"{teacher.title} has {a_distance(findings.distance)} of {number(teacher.distance)}"
        told = [what, f"and {own.words}" if own else f"where real images have {number(findings.floors.distance)}"]
    else:
        own, theirs = worst_fault(findings, row), worst_fault(findings, teacher)
        levels: list[Level] = [ratio_level(row.ratio), own.level if own else "good", "weak" if theirs else "good"]
        level = max(levels, key=LEVELS.index)
        told = [_beside(findings, row), f"and {own.words}" if own else ""]
        told += [f"but the teacher is {theirs.level} itself: {theirs.words}" if theirs else ""]
    return Verdict(level, f"{', '.join(filter(None, told))}; {_luck(row, teacher, level)}.")


def ratio_level(ratio: float) -> Level:
    """The level of a student whose distance is `ratio` times its teacher's."""
    if ratio <= GOOD_RATIO:
        return "good"
    return "weak" if ratio < BROKEN_RATIO else "broken"


def worst_fault(findings: Findings, row: Row) -> Fault | None:
    """The first of a model's worst faults; None if its own figures are good."""
    return max(faults(findings, row), key=lambda fault: LEVELS.index(fault.level), default=None)


def faults(findings: Findings, row: Row) -> Iterator[Fault]:
    """What is bad in the figures of one model."""
    if row.precision < LOW:
        yield Fault(_below(row.precision, COLLAPSED), f"only {row.precision:.0%} of its samples look real (precision)")
    if row.recall < LOW:
        yield Fault(_below(row.recall, COLLAPSED), f"it draws only {row.recall:.0%} of what is real (recall)")
    sure = _sureness(findings, row)
    if row.accuracy is not None and sure < UNSURE:
        yield Fault(_below(sure, UNRECOGNISED), f"only {row.accuracy:.0%} of its samples show the class asked for")
    if 0 < FAR * findings.floors.distance < row.distance:
        yield Fault("weak", f"its distance is {number(row.distance / findings.floors.distance)} × the floor")
    if row.unseen and row.unseen.copies > REPEATED * (findings.floors.copies or 0):
        yield Fault("weak", f"{row.unseen.copies:.0%} of its samples are copies of training images")
    if health_of(findings, row.model):
        yield Fault("weak", "its training had trouble")


def beyond_luck(first: Row, second: Row) -> bool | None:
    """True if two distances differ by more than luck, by their ranges of seeds, else by their standard errors.

    None if neither is known. Luck is that of drawing samples; another training could differ by more.
    """
    if min(len(first.ranges), len(second.ranges)) > 1:
        difference, error = welch(first.ranges, second.ranges)
    elif first.error is not None and second.error is not None:
        difference, error = first.distance - second.distance, math.hypot(first.error, second.error)
    else:
        return None
    return abs(difference) > DEVIATIONS * error


def _below(share: float, limit: float) -> Level:
    return "broken" if share < limit else "weak"


def _sureness(findings: Findings, row: Row) -> float:
    """Accuracy on a scale from 0, chance, to 1, real images; 1 if it says nothing."""
    real, classes = findings.held_out_accuracy, len(findings.data["classes"])
    if row.accuracy is None or real is None or real * classes <= 1:
        return 1.0
    return (row.accuracy - 1 / classes) / (real - 1 / classes)


def _beside(findings: Findings, row: Row) -> str:
    """The student beside its teacher, in words."""
    how = {"good": "comes close to", "weak": "falls behind", "broken": "is far from"}[ratio_level(row.ratio)]
    if row.ratio <= 1:
        how = "is no worse than"
    told = f"{row.title} {how} its teacher in {findings.best_teacher.evaluations}"
    return f"{told}: {findings.distance} {number(row.distance)}, {number(row.ratio)} × the teacher's"


def _luck(row: Row | None, teacher: Row, level: Level) -> str:
    """How far luck can explain the figures, in words."""
    told = None if row is None else beyond_luck(row, teacher)
    if row is None and len(teacher.ranges) > 1:
        least, most = min(teacher.ranges), max(teacher.ranges)
        return f"over {len(teacher.ranges)} ranges of seeds {number(least)} to {number(most)}"
    if row is None and teacher.error is not None:
        return f"± {number(teacher.error)} by the luck of the draw"
    if row is None or told is None:
        return f"one range of seeds, {'but this is no luck' if level == 'broken' else 'so luck is unknown'}"
    how = "which luck does not explain" if told else "which luck can explain"
    if row.error is not None and min(len(row.ranges), len(teacher.ranges)) < 2:
        return f"one range of seeds, ± {number(row.error)}, {how}"
    # Ranges of both models have the same seeds, so each has a ratio of its own.
    ratios = [ours / theirs for ours, theirs in zip(row.ranges, teacher.ranges, strict=False)]
    return f"over {len(ratios)} ranges of seeds {number(min(ratios))} to {number(max(ratios))} ×, {how}"
