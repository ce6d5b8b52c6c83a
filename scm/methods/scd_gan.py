"""sCD + GAN: consistency distillation with an adversary on the teacher's features (as in SANA-Sprint)."""

from typing import TYPE_CHECKING, Any

from scm.base.sections import Finite, Positive, Section, Whole
from scm.errors import UserError
from scm.methods import GuidedBlock, Method, Parts, StudentSettings, Trained, distillation_settings

if TYPE_CHECKING:
    from scm.networks import Model


class GanSettings(Section):
    """The section `student.scd_gan.gan`.

    Attributes:
        weight: of the adversary's loss
        p_mean: times at which samples are judged: ln(sigma_d tan t) ~ N(p_mean, p_std^2)
        p_std: see p_mean
        heads: blocks of the teacher that have a head which judges
        width: channels of a head
        lr_max: the largest learning rate of the heads
    """

    weight: Positive
    p_mean: Finite
    p_std: Positive
    heads: Whole
    width: Whole
    lr_max: Positive


class GanBlock(GuidedBlock):
    gan: GanSettings


def objective(settings: StudentSettings, parts: Parts) -> Trained:
    from scm.base.randomness import global_draws, seed_of
    from scm.objectives.distillation import Distillation
    from scm.objectives.scd_gan import BlockFeatures, ConsistencyAndAdversary, Discriminator
    from scm.training.settings import Auxiliary

    gan, distillation = settings.own.gan, distillation_settings(settings, parts)
    channels = channels_of_blocks(parts.teacher, gan.heads)
    with global_draws(seed_of(parts.seed, "discriminator")):
        discriminator = Discriminator(channels, gan.width)
    made = ConsistencyAndAdversary(
        **{name: getattr(gan, name) for name in ("weight", "p_mean", "p_std")},
        **{name: distillation[name] for name in ("sigma_d", "guidance", "label_dropout")},
        t_max=parts.t_max,
        features=BlockFeatures(parts.teacher, gan.heads),
        discriminator=discriminator,
        consistency=Distillation(**distillation),
    )
    return made, Auxiliary(discriminator, gan.lr_max / settings.lr.max)


def channels_of_blocks(teacher: "Model", heads: int) -> list[int]:
    """Channels of the blocks that the heads look at, from a network without data.

    Raises:
        UserError: there are more heads than blocks.
    """
    import torch

    from scm.networks import Model
    from scm.objectives.scd_gan import BlockFeatures

    settings = teacher.settings
    with torch.device("meta"):
        x = torch.zeros(1, settings.channels, settings.resolution, settings.resolution)
        try:
            features = BlockFeatures(Model(settings).eval(), heads)(x, torch.zeros(1), None)
        except ValueError as error:
            raise UserError(f"student.scd_gan.gan.heads = {heads}: {error}; use no more heads than these") from None
    return [each.shape[1] for each in features]


def advice(settings: StudentSettings) -> dict[str, Any]:
    return {"gan_weight": settings.own.gan.weight, "discriminator_lr_max": settings.own.gan.lr_max}


METHOD = Method("sCD + GAN", GanBlock, objective, advice=advice)
