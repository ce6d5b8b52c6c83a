"""What to look at next: rules on the figures of a run, each of which names a fact and what can be done about it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from scm import methods
from scm.base.project import TEACHER
from scm.base.sections import MAX_SIGMA_REL
from scm.charts.axes import image_count
from scm.report.by_time import Loss, loss_of
from scm.report.findings import Findings, Row, health_of
from scm.report.verdict import beyond_luck, ratio_level, worst_fault
from scm.report.wording import display_name, joined, number

WORSE = 1.05
"""Without several ranges of seeds, a distance is worse than another one above this multiple of it."""
MOVED = 0.05
"""A distance still moves if it changed by more than this fraction."""
LOST = 0.05
"""A student has lost recall if it has less than the teacher by more than this."""
ERRORS = 2.0
"""Copies are more than expected if they exceed the expected share by so many of its standard errors."""
WITHIN = {"sigma_rel": (0.0, MAX_SIGMA_REL), "t_mid": (0.0, math.pi / 2), "guidance": (1.0, math.inf)}
"""What selection chooses, and between which values candidates may lie."""


@dataclass(frozen=True)
class Advice:
    """One thing to look at: a fact, and what can be done about it; both are sentences."""

    fact: str
    remedy: str


def advice(findings: Findings) -> list[Advice]:
    """What stands out in a run, the most important first."""
    return [each for rule in RULES for each in rule(findings)]


def unsound_trainings(findings: Findings) -> Iterator[Advice]:
    """Warnings that the trainings recorded."""
    for model in findings.models:
        for line in health_of(findings, model):
            yield Advice(f"{display_name(model)}: {line}.", "Its curves are under Training health.")


def bad_teacher(findings: Findings) -> Iterator[Advice]:
    """A teacher that is bad by its own figures, which students by distillation only copy."""
    fault = worst_fault(findings, findings.best_teacher)
    if fault and not health_of(findings, TEACHER):
        trained = any("health" in run for run in findings.runs if run["stage"] == "train_teacher")
        remedy = f"Train it longer: {_longer(findings, TEACHER)}." if trained else "Import a better one, or train one."
        yield Advice(f"The teacher is {fault.level}: {fault.words}.", remedy)


def broken_students(findings: Findings) -> Iterator[Advice]:
    """Students that are far from the teacher in each number of evaluations; the next rules say no more about these."""
    for model in findings.models:
        rows = [row for row in findings.rows if row.model == model != TEACHER]
        if rows and ratio_level(_best(rows).ratio) == "broken":
            fact = f"{_best(rows).name} is broken: at best {number(_best(rows).ratio)} × the teacher's distance."
            yield Advice(fact, "Look at its training curves, and lower its learning rate (student.common.lr.max).")


def worse_than_the_teacher(findings: Findings) -> Iterator[Advice]:
    """Students that are worse than the teacher's few-step sampler in equally many evaluations."""
    few = {row.evaluations: row for row in findings.rows if row.model == TEACHER and row != findings.best_teacher}
    for model, rows in _students(findings):
        for row in rows:
            other = few.get(row.evaluations)
            if other and _worse(row, other):
                fact = f"{row.title} is worse than the teacher in as many: {_both(findings, row, other)}."
                yield Advice(fact, f"Its training was of no use yet. Make it longer: {_longer(findings, model)}.")


def more_evaluations_are_worse(findings: Findings) -> Iterator[Advice]:
    """Students that are worse in their most evaluations than in fewer."""
    for model, rows in _students(findings):
        most, best = rows[0], _best(rows)
        if best.evaluations < most.evaluations and _worse(most, best):
            fact = f"{most.title} is worse than in {best.evaluations}: {_both(findings, most, best)}."
            tried = ", or try other times of the second step (select.t_mid)" if _has_middle(findings, model) else ""
            yield Advice(fact, f"Draw with {best.evaluations}{tried}.")


def still_moving(findings: Findings) -> Iterator[Advice]:
    """Distances that still fall at the end of a training, or that have risen since an earlier point of it."""
    for model in findings.models:
        *earlier, last = findings.progress[model]
        if not earlier:
            continue
        name, before, best = display_name(model), earlier[-1], min(earlier, key=lambda point: point["fd"])
        if last["fd"] < (1 - MOVED) * before["fd"]:
            part = 1 - before["images"] / last["images"]
            fell = f"{1 - last['fd'] / before['fd']:.0%} in the last {part:.0%} of its training"
            fact = f"{name}'s {findings.distance} still fell by {fell}."
            yield Advice(fact, f"Train it longer: {_longer(findings, model)}.")
        elif last["fd"] > (1 + MOVED) * best["fd"]:
            rose = f"from {number(best['fd'])} to {number(last['fd'])} since {image_count(best['images'])} images"
            fact = f"{name}'s {findings.distance} rose {rose}."
            yield Advice(fact, f"Lower its learning rate, or train it shorter ({_budget(model)}).")


def short_at_some_times(findings: Findings) -> Iterator[Advice]:
    """Students that lose more than the teacher at some times, and whether they are trained there already."""
    for model, _ in _students(findings):
        loss = loss_of(findings, model)
        if loss is None:
            continue
        start, end = (f"{round(t, 2):g}" for t in (loss.start, loss.end))
        where = f"{display_name(model)} loses most between t = {start} and {end}"
        losses = f"{findings.distance} {number(loss.distance)} at {end} against {number(loss.teacher)} of the teacher"
        fact = f"{where}: {losses}, and {number(loss.floor)} of real images."
        yield Advice(fact, _more_there(findings, model, loss))


def lost_recall(findings: Findings) -> Iterator[Advice]:
    """A leading student that draws less of what is real than its teacher."""
    row, teacher = findings.leading_row, findings.best_teacher
    if row and ratio_level(row.ratio) != "broken" and teacher.recall - row.recall > LOST:
        fact = f"{row.title} draws {row.recall:.0%} of what is real, the teacher {teacher.recall:.0%} (recall)."
        yield Advice(fact, "Look for classes or kinds of images that its samples lack.")


def copies(findings: Findings) -> Iterator[Advice]:
    """Models that repeat training images more often than chance would."""
    expected, held_out = findings.floors.copies, findings.data.get("held_out", 0)
    if expected is None or not held_out:
        return
    most = expected + ERRORS * math.sqrt(expected * (1 - expected) / held_out)
    for model in findings.models:
        rows = [row for row in findings.rows if row.model == model and row.unseen and row.unseen.copies > most]
        row = max(rows, key=lambda row: row.unseen.copies if row.unseen else 0, default=None)
        if row and row.unseen:
            fact = f"{row.unseen.copies:.1%} of what {row.title} draws are copies, where {expected:.1%} are expected."
            yield Advice(
                fact, f"Look at the nearest pairs; give it more images, or train it shorter ({_budget(model)})."
            )


def choices_at_the_edge(findings: Findings) -> Iterator[Advice]:
    """Choices of selection that are the first or the last of their candidates, with a value to add."""
    found: dict[tuple[str, float, float, str], list[str]] = {}
    for model in findings.models:
        choice = findings.choices[model]
        for name, values in edges(findings.selection[model], choice).items():
            added = _beyond(name, values, choice[name])
            kind = "" if name == "t_mid" else ".teacher" if model == TEACHER else ".student"
            if added is not None:
                which = "smallest" if choice[name] == values[0] else "largest"
                found.setdefault((f"select.{name}{kind}", choice[name], added, which), []).append(_named(model))
    for (key, chosen, added, which), names in found.items():
        yield Advice(f"{joined(names)} chose {chosen:g}, the {which} candidate of {key}.", f"Add {added:.2g} to it.")


def one_range_of_seeds(findings: Findings) -> Iterator[Advice]:
    """Figures of one range of seeds, by which `scm publish` cannot compare models."""
    if not any(row.ranges for row in findings.rows):
        fact = "One range of seeds was measured, and scm publish compares models by several."
        yield Advice(fact, "Write evaluate.repeats: 3, which measures again and trains nothing.")


RULES = (
    *(unsound_trainings, bad_teacher, broken_students, worse_than_the_teacher, more_evaluations_are_worse),
    *(still_moving, short_at_some_times, lost_recall, copies, choices_at_the_edge, one_range_of_seeds),
)
"""The rules, in the order in which their advice is shown."""


def edges(rows: list[dict[str, float]], choice: dict[str, float]) -> dict[str, list[float]]:
    """What was chosen at the edge of its candidates, with these candidates in ascending order.

    Args:
        rows: a model's candidates; those in the most steps count.
        choice: the chosen one.
    """
    steps = max(row.get("steps", 0) for row in rows)
    found = {}
    for name in WITHIN:
        values = sorted({row[name] for row in rows if name in row and row.get("steps", 0) == steps})
        if name in choice and len(values) > 1 and choice[name] in (values[0], values[-1]):
            found[name] = values
    return found


def _beyond(name: str, values: list[float], chosen: float) -> float | None:
    """The next value beyond the edge, in the same proportion; halfway to what is allowed, if that is beyond it too."""
    low, high = WITHIN[name]
    first = chosen == values[0]
    if chosen in (low, high):
        return None
    beyond = chosen**2 / values[1 if first else -2]
    return beyond if low < beyond < high else (chosen + (low if first else high)) / 2


def _students(findings: Findings) -> Iterator[tuple[str, list[Row]]]:
    """Each student that is not broken, with its rows from the most evaluations to the fewest."""
    for model in findings.models:
        rows = [row for row in findings.rows if row.model == model != TEACHER]
        if rows and ratio_level(_best(rows).ratio) != "broken":
            yield model, rows


def _has_middle(findings: Findings, model: str) -> bool:
    return "t_mid" in findings.choices[model]


def _named(model: str) -> str:
    return "The teacher" if model == TEACHER else display_name(model)


def _best(rows: list[Row]) -> Row:
    return min(rows, key=lambda row: (row.distance, row.evaluations))


def _worse(row: Row, other: Row) -> bool:
    """True if the first distance is larger by more than luck, or by 5% if luck is not known."""
    told = beyond_luck(row, other)
    return row.distance > other.distance and (row.distance > WORSE * other.distance if told is None else told)


def _both(findings: Findings, row: Row, other: Row) -> str:
    return f"{findings.distance} {number(row.distance)} against {number(other.distance)}"


def _budget(model: str) -> str:
    return "teacher.images" if model == TEACHER else f"student.{model}.images"


def _more_there(findings: Findings, model: str, loss: Loss) -> str:
    """How to train the times of a loss more: by half a standard deviation towards them, unless they are near."""
    chain = next((run["chain"] for run in findings.runs if (run["stage"], run.get("item")) == ("evaluate", model)), {})
    mean, deviation, sigma_d = (chain.get(key) for key in ("student.p_mean", "student.p_std", "network.sigma_d"))
    if not methods.find(model).common_times or not (
        isinstance(mean, float) and isinstance(deviation, float) and isinstance(sigma_d, float)
    ):
        return f"Train it longer: {_longer(findings, model)}."
    off = loss.p_mean(sigma_d) - mean
    if abs(off) <= deviation / 2:
        return f"It is trained there most already, so train it longer: {_longer(findings, model)}."
    moved = mean + math.copysign(deviation / 2, off)
    return f"Train these times more: student.{model}.p_mean: {moved:.2g}, now {mean:.2g}."


def _longer(findings: Findings, model: str) -> str:
    """A model's training budget, doubled."""
    images = findings.progress[model][-1]["images"]
    return f"{_budget(model)}: {image_count(2 * images)}, now {image_count(images)}"
