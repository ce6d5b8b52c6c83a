"""Where along t a student loses: its distance by time beside the teacher's."""

import math
from dataclasses import dataclass

from scm.base.noise import jackknife
from scm.base.project import TEACHER
from scm.report.findings import Findings
from scm.report.verdict import DEVIATIONS
from scm.results.reading import WITHOUT

WORSE, LOST = 1.05, 1.5
"""A student clearly loses at t if its distance is above the first multiple of the teacher's, and above the second one
once the floor is taken off both. On digits-plain sCD loses up to 1.3 times as much as its teacher, and sCT, which is
trained for a third of the images, 1.5 to 1.8 times."""


@dataclass(frozen=True)
class Loss:
    """Where a student loses.

    Attributes:
        start: radians; between here and `end` the gap to the teacher's curve widens most.
        end: radians.
        distance: the student's distance at `end`.
        teacher: the teacher's.
        floor: that of as many real images.
    """

    start: float
    end: float
    distance: float
    teacher: float
    floor: float

    def p_mean(self, sigma_d: float) -> float:
        """The P_mean whose median time lies halfway between start and end."""
        return math.log(sigma_d * math.tan((self.start + self.end) / 2))


def loss_of(findings: Findings, model: str) -> Loss | None:
    """Where a student loses; None if it is not clearly worse than the teacher at any time."""
    floor, teacher = findings.by_time[model][0]["fd"], {row["t"]: row for row in findings.by_time[TEACHER]}
    rows = [row for row in findings.by_time[model] if row["t"] in teacher]
    worse = [place for place, row in enumerate(rows) if _clearly_worse(row, teacher[row["t"]], floor)]
    if not worse:
        return None
    # A student learns f at t from f just below, so what it loses at some t it lacks from there on: up to where it is
    # worst, the training is short where the gap widens.
    starts = [0.0, *(row["t"] for row in rows)]
    gaps = [0.0, *(row["fd"] - teacher[row["t"]]["fd"] for row in rows)]
    worst = max(worse, key=lambda place: gaps[place + 1])
    place = max(range(worst + 1), key=lambda place: gaps[place + 1] - gaps[place])
    row = rows[place]
    return Loss(starts[place], row["t"], row["fd"], teacher[row["t"]]["fd"], floor)


def _clearly_worse(row: dict[str, float], teacher: dict[str, float], floor: float) -> bool:
    """True if luck does not explain the gap, which is judged on the same images and noise; False without its noise."""
    gap, far = row["fd"] - teacher["fd"], row["fd"] - floor > LOST * max(teacher["fd"] - floor, 0.0)
    noise = jackknife([row[name] - teacher[name] for name in row if name.startswith(WITHOUT) and name in teacher])
    return far and row["fd"] > WORSE * teacher["fd"] and gap > DEVIATIONS * noise
