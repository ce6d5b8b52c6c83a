"""What KD and DMD share: how the teacher's trajectories are solved and used."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from scm.base.sections import Section, Share, Whole
from scm.methods import Parts, StudentSettings

if TYPE_CHECKING:
    from scm.objectives.kd import TrajectoryDistillation


class TrajectorySettings(Section):
    """The section `student.NAME.trajectories`.

    Attributes:
        steps: Heun steps in which the teacher solves a trajectory
        kept: batches of trajectories that are kept and take turns
        uses: images that are trained on from one trajectory
        from_noise: share of the images that are taken at t_max, from pure noise
    """

    steps: Annotated[int, Field(ge=2)]
    kept: Whole
    uses: Whole
    from_noise: Share


def trajectory_distillation(
    name: str, settings: StudentSettings, parts: Parts, every: int = 1
) -> "TrajectoryDistillation":
    """The regression of the method `name` onto trajectories of its own, in one of `every` steps of the training."""
    from scm.base.randomness import seed_of
    from scm.objectives.kd import TrajectoryDistillation
    from scm.samplers.ode import edm_sigmas

    own = settings.own.trajectories
    keys = ("p_mean", "p_std", "guidance", "label_dropout", "adaptive_weighting")
    return TrajectoryDistillation(
        **{key: getattr(settings, key) for key in keys},
        sigma_d=parts.sigma_d,
        teacher=parts.teacher,
        sigmas=tuple(edm_sigmas(own.steps, *parts.noise)),
        classes=parts.teacher.settings.classes,
        kept=own.kept,
        uses=own.uses,
        from_noise=own.from_noise,
        seed=seed_of(parts.seed, name),
        every=every,
    )
