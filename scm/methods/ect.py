"""ECT: easy consistency tuning, by differences along the data that shrink while the student learns."""

from typing import Annotated, Any

from pydantic import Field

from scm.base.sections import Finite, PositiveCount, Refusals, Scale
from scm.methods import Method, MethodBlock, Parts, StudentSettings, Trained

FINEST = 2.0**-16
"""The smallest part of the noise level by which a difference is taken: fp32 leaves it 7 bits."""


class EctBlock(MethodBlock):
    """The section `student.ect`.

    Attributes:
        q: factor by which each stage shrinks the differences
        k: how much larger the differences are at little noise
        b: how fast this ends as the noise grows
        doubling: images of a stage
        c: of the pseudo-Huber distance; 0 = the distance itself
    """

    q: Annotated[Finite, Field(gt=1)]
    k: Scale
    b: Scale
    doubling: PositiveCount
    c: Scale


def objective(settings: StudentSettings, parts: Parts) -> Trained:
    from scm.objectives.ect import EasyConsistencyTuning

    names, own = ("p_mean", "p_std", "label_dropout"), settings.own
    common = {name: getattr(settings, name) for name in names}
    return EasyConsistencyTuning(
        sigma_d=parts.sigma_d, q=own.q, k=own.k, b=own.b, doubling=own.doubling, c=own.c, **common
    ), None


def refusals(settings: StudentSettings) -> Refusals:
    own = settings.own
    if settings.precision != "fp32":
        problem = "differences between neighbouring noise levels are lost in its rounding"
        yield "precision", settings.precision, f"{problem}; write precision: fp32 in student.ect"
    stages = 1 + (settings.images - 1) // own.doubling
    if own.q**-stages < FINEST:
        problem = f"after {stages} stages the differences are 1/{own.q:g}^{stages} of the noise level, lost in rounding"
        yield "doubling", own.doubling.written, f"{problem}; use more images, or a smaller q"


def advice(settings: StudentSettings) -> dict[str, Any]:
    return {"stage": int(settings.own.doubling), "growth": settings.own.q}


METHOD = Method("ECT", EctBlock, objective, by_tangent=False, refusals=refusals, advice=advice)
