"""Judges a model against another one: better by more than the noise, or not, said in a sentence.

The noise of a distance is the standard error of its mean over ranges of seeds, or, of a single range, the jackknife's
(fd_se@N). That of a share, such as precision, is that of counting. As in the gate before the registry, a difference
counts if it exceeds `publish.deviations` standard errors of the difference (Welch's), and an improvement has to show on
held-out images as well. How much a second training with another seed would differ is not part of this noise.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scm.base.count import Count
from scm.base.project import TEACHER
from scm.comparison.sides import Side
from scm.errors import UserError
from scm.presets.changes import differences
from scm.publishing.candidate import BY_TEACHERS, MEASURED_BY, RULER, model_files
from scm.publishing.entry import FEWEST_RANGES
from scm.publishing.gate import COPIES, HELD_OUT, MOST_LOOKED_AT
from scm.report.wording import DISTANCES, display_name, number
from scm.results.fingerprint import RENEW
from scm.results.reading import distance_ranges, measured_evaluations

Kind = Literal["better", "worse", "unclear", "unchanged", "incomparable"]
LABELS: Mapping[Kind, str] = {
    "better": "better",
    "worse": "worse",
    "unclear": "no difference that can be told",
    "unchanged": "unchanged",
    "incomparable": "not comparable",
}
FIGURES = {
    "fd": "{distance}",
    HELD_OUT: "{distance} of held-out images",
    "precision": "precision",
    "recall": "recall",
    COPIES: "copies",
}
"""Figures that are shown, and what people call them."""
OF_DISTANCE = ("fd", HELD_OUT)
MOST_NAMED = 4
"""Changes that a sentence names at most."""
DATA = "data/shards"
Changed = tuple[str, str, str]
"""A key, its old and its new value."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its standard error, which is nan if it is not known."""

    value: float
    error: float

    @property
    def shown(self) -> str:
        return number(self.value) + (f" ± {self.error:.2g}" if math.isfinite(self.error) and self.error else "")


@dataclass(frozen=True)
class Change:
    """A figure of a model on both sides, and what people call it."""

    figure: str
    title: str
    then: Estimate
    now: Estimate

    @property
    def difference(self) -> float:
        return self.now.value - self.then.value

    @property
    def errors(self) -> float:
        """The difference in its standard errors; nan if these are not known or 0."""
        error = math.hypot(self.then.error, self.now.error)
        return self.difference / error if error else math.nan

    @property
    def cells(self) -> tuple[str, str, str, str]:
        noise = f" ({abs(self.errors):.1f} se)" if math.isfinite(self.errors) else ""
        sign = "−" if self.difference < 0 else "+"
        difference = f"{sign}{number(abs(self.difference))}{noise}" if self.difference else "0"
        return self.title, self.then.shown, self.now.shown, difference


@dataclass(frozen=True)
class Judged:
    """A model on both sides.

    Attributes:
        sentence: the verdict in words.
        decisive: the number of evaluations that decides, or the most where none does.
        changes: by number of evaluations, the decisive one first; empty if the figures cannot be compared.
    """

    model: str
    kind: Kind
    sentence: str
    decisive: int
    changes: Mapping[int, tuple[Change, ...]]

    @property
    def name(self) -> str:
        return display_name(self.model)

    @property
    def label(self) -> str:
        return LABELS[self.kind]

    def rows(self, evaluations: int) -> list[tuple[str, str, str, str]]:
        """Figure, value then, value now and difference, which figures of different kinds do not have."""
        cells = [change.cells for change in self.changes.get(evaluations, ())]
        return [(*each[:3], "–") for each in cells] if self.kind == "incomparable" else cells


def judged(then: Side, now: Side, model: str, deviations: float, asked: int | None = None) -> Judged:
    """Judges a model that both sides have.

    Args:
        deviations: standard errors of the difference that count.
        asked: the number of evaluations that decides; None = the most on both sides.
    """
    name, counts = display_name(model), [measured_evaluations(side.figures[model]) for side in (then, now)]
    shared = sorted(set(counts[0]) & set(counts[1]), reverse=True)
    decisive = asked if asked in shared else shared[0] if shared else max(counts[1], default=0)
    order = [decisive, *(each for each in shared if each != decisive)] if shared else []
    changes = {each: tuple(_changes(then, now, model, each)) for each in order}
    if ruler := another_ruler(then, now, model):
        named = [f"{key} {old} -> {new}" for key, old, new in ruler]
        rest = [f"{len(named) - MOST_NAMED} more"] if len(named) > MOST_NAMED else []
        what = f"the ruler changed ({'; '.join([*named[:MOST_NAMED], *rest])}), so the figures are of different kinds"
        return Judged(model, "incomparable", f"{name} cannot be compared: {what}.", decisive, changes)
    if not shared:
        told = " and ".join(", ".join(map(str, sorted(each))) or "none" for each in counts)
        what = f"the numbers of evaluations have none in common ({told})"
        return Judged(model, "incomparable", f"{name} cannot be compared: {what}.", decisive, changes)
    if same_weights(then, now, model):
        what = "has not changed: the same weights, sampled in the same way"
        return Judged(model, "unchanged", f"{name} {what}.", decisive, changes)
    distance = distance_name(now)
    kind, sentence = _verdict(name, distance, decisive, changes[decisive], deviations)
    further = _elsewhere(kind, distance, {each: changes[each] for each in order[1:]}, deviations)
    return Judged(model, kind, " ".join([sentence, *further]), decisive, changes)


def another_ruler(then: Side, now: Side, model: str) -> list[Changed]:
    """What differs of everything that the model's figures depend on besides the model; empty if nothing does."""
    names = (*MEASURED_BY, *BY_TEACHERS) if model == TEACHER else MEASURED_BY
    stage = f"evaluate@{model}"
    before, after = (
        {key: value for key, value in side.params(stage).items() if key.startswith(names)} for side in (then, now)
    )
    found = differences(before, after)
    rulers = [side.read(stage).get(RULER, "-") for side in (then, now)]
    if rulers[0] == rulers[1]:
        return found
    # The reference differs: because of its own parameters, of the data's, or of the images.
    found += differences(then.params("reference", "prepare"), now.params("reference", "prepare"))
    images = [side.read("reference").get(DATA, "-") for side in (then, now)]
    if images[0] != images[1] and not any(key.startswith("data.") for key, _, _ in found):
        found.append((f"images ({DATA})", images[0][:8], images[1][:8]))
    if then.preset != now.preset:
        found.insert(0, ("preset", then.preset, now.preset))
    return found or [(f"{RULER} (extractor and statistics of the real images)", rulers[0][:8], rulers[1][:8])]


def same_weights(then: Side, now: Side, model: str) -> bool:
    """True if both sides measured the same weights, sampled in the same way."""
    before, after = (side.read(f"evaluate@{model}") for side in (then, now))
    return all(path in before and before[path] == after.get(path) for path in model_files(model))


def distance_name(side: Side) -> str:
    """Name of the Fréchet distance in the features of the side's extractor."""
    return DISTANCES.get(str(side.params("reference").get("reference.extractor")), "FD")


def estimate(figures: Mapping[str, float], name: str, evaluations: int, samples: int) -> Estimate | None:
    """A figure with its noise; None if there is no such figure.

    Args:
        samples: the number of samples behind it.
    """
    key = f"{name}@{evaluations}"
    if key not in figures:
        return None
    value = figures[key]
    if name not in OF_DISTANCE:
        looked_at = min(samples, MOST_LOOKED_AT)
        known = 0 <= value <= 1 and looked_at > 0
        return Estimate(value, math.sqrt(value * (1 - value) / looked_at) if known else math.nan)
    ranges = distance_ranges(figures, evaluations, name)
    if len(ranges) < FEWEST_RANGES or not all(map(math.isfinite, ranges)):
        return Estimate(value, figures.get(f"{name}_se@{evaluations}", math.nan))
    return Estimate(statistics.fmean(ranges), statistics.stdev(ranges) / math.sqrt(len(ranges)))


def _changes(then: Side, now: Side, model: str, evaluations: int) -> Iterator[Change]:
    for name, title in FIGURES.items():
        before, after = (
            estimate(side.figures[model], name, evaluations, _samples(side, model)) for side in (then, now)
        )
        if before is not None and after is not None:
            yield Change(name, title.format(distance=distance_name(now)), before, after)


def _samples(side: Side, model: str) -> int:
    samples = side.params(f"evaluate@{model}").get("evaluate.samples", 0)
    try:
        return int(Count(samples))
    except (TypeError, ValueError):
        raise UserError(f"{side.name}: dvc.lock: evaluate.samples = {samples}: must be a count: {RENEW}") from None


def _verdict(
    name: str, distance: str, evaluations: int, changes: Sequence[Change], deviations: float
) -> tuple[Kind, str]:
    """The verdict on figures of one ruler."""
    change = changes[0]
    figure, values = f"{distance} in {_evaluations(evaluations)}", f"{change.then.shown} to {change.now.shown}"
    if not math.isfinite(change.now.value):
        return "worse", f"{name} is broken: its {figure} went from {values}."
    if not math.isfinite(change.then.value):
        return "better", f"{name} works again: its {figure} went from {values}."
    by = f"{abs(change.errors):.1f} standard errors of the difference"
    if math.isnan(change.errors) and change.difference:
        what = f"its {figure} went from {values}, and the noise is not known"
        remedy = "one side has neither fd_se nor several ranges of seeds (evaluate.repeats): measure it again"
        return "unclear", f"{name}: no difference that can be told: {what}, since {remedy}."
    if not abs(change.errors) > deviations:
        return "unclear", f"{name}: no difference that can be told: its {figure} went from {values}, {by}."
    if change.difference > 0:
        return "worse", f"{name} is worse: its {figure} rose from {values}, {by}."
    fell = f"its {figure} fell from {values}, {by}"
    if against := list(_memory(changes, deviations)):
        return "unclear", f"{name} may only remember its training images better: {fell}, but {' and '.join(against)}."
    return "better", f"{name} is better: {fell}."


def _memory(changes: Sequence[Change], deviations: float) -> Iterator[str]:
    """What speaks against an improvement of the distance from the training images."""
    of = {change.figure: change for change in changes}
    unseen, copies = of.get(HELD_OUT), of.get(COPIES)
    if unseen is not None and unseen.errors >= -deviations:
        what = f"{unseen.then.shown} to {unseen.now.shown}, {abs(unseen.errors):.1f} standard errors"
        yield f"that of held-out images went from {what}"
    if copies is not None and copies.errors > deviations:
        yield f"copies rose from {copies.then.shown} to {copies.now.shown}"


def _elsewhere(kind: Kind, distance: str, changes: Mapping[int, Sequence[Change]], deviations: float) -> Iterator[str]:
    """Sentences about other numbers of evaluations in which the distance tells something else than the verdict."""
    for evaluations, (change, *_) in changes.items():
        way = "worse" if change.errors > deviations else "better" if change.errors < -deviations else kind
        if way != kind:
            verb = "rose" if way == "worse" else "fell"
            values = f"{change.then.shown} to {change.now.shown}"
            yield f"In {_evaluations(evaluations)} its {distance} {verb} from {values}."


def _evaluations(count: int) -> str:
    return f"{count} evaluation{'s' if count > 1 else ''}"
