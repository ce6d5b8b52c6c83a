"""What VSD, sCD + VSD, rCM and DMD share: parameters, the fake score, and the settings that a diagnosis refers to."""

from typing import TYPE_CHECKING, Any

from scm.base.sections import Finite, Positive, Probability, Refusals, Section, Whole
from scm.methods import GuidedBlock, Parts, StudentSettings

if TYPE_CHECKING:
    from scm.training.settings import Auxiliary


class VsdSettings(Section):
    """The section `student.NAME.vsd`.

    Attributes:
        weight: of the score distillation's loss
        p_mean: times at which the scores are compared: ln(sigma_d tan t) ~ N(p_mean, p_std^2)
        p_std: see p_mean
    """

    weight: Positive
    p_mean: Finite
    p_std: Positive


class FakeScoreSettings(Section):
    """The section `student.NAME.fake_score`.

    Attributes:
        lr_max: the largest learning rate of the fake score
        dropout: of the fake score's network
        p_mean: times at which the fake score is trained: ln(sigma_d tan t) ~ N(p_mean, p_std^2)
        p_std: see p_mean
        updates: steps of the fake score for each step of the student
    """

    lr_max: Positive
    dropout: Probability
    p_mean: Finite
    p_std: Positive
    updates: Whole


class ScoreBlock(GuidedBlock):
    vsd: VsdSettings
    fake_score: FakeScoreSettings


def score_settings(settings: StudentSettings, parts: Parts) -> "tuple[dict[str, Any], Auxiliary]":
    """Arguments of score distillation, and the fake score, which is trained beside the student.

    The fake score starts from the teacher and takes the guidance scale as an input, as the student does.
    """
    from scm.base.randomness import global_draws, seed_of
    from scm.networks.model import LogWeight
    from scm.objectives.score_distillation import FakeScore
    from scm.training.settings import Auxiliary

    vsd, fake_score = settings.own.vsd, settings.own.fake_score
    network = parts.new_student(parts.teacher, settings.model_copy(update={"dropout": fake_score.dropout}))
    with global_draws(seed_of(parts.seed, "weight of score distillation")):
        fake = FakeScore(network, LogWeight())
    arguments = {
        "sigma_d": parts.sigma_d,
        "teacher": parts.teacher,
        "guidance": settings.guidance,
        "label_dropout": settings.label_dropout,
        "adaptive_weighting": settings.adaptive_weighting,
        "t_max": parts.t_max,
        **dict(vsd),  # weight, p_mean, p_std
        "fake": fake,
        "fake_p_mean": fake_score.p_mean,
        "fake_p_std": fake_score.p_std,
        "updates": fake_score.updates,
    }
    return arguments, Auxiliary(fake, fake_score.lr_max / settings.lr.max)


def refusals(settings: StudentSettings) -> Refusals:
    updates, steps = settings.own.fake_score.updates, settings.images // settings.batch
    if updates > steps:
        problem = f"more than the {steps} steps of the training (images / batch), so the student would never learn"
        yield "fake_score.updates", updates, f"{problem}; use less"


def advice(settings: StudentSettings) -> dict[str, Any]:
    return {"vsd_weight": settings.own.vsd.weight, "fake_lr_max": settings.own.fake_score.lr_max}
