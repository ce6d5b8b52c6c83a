"""sCD + GAN: consistency distillation with an adversary that looks at the frozen teacher's features.

The adversary is latent adversarial diffusion distillation's (LADD, arXiv 2403.12015), which SANA-Sprint adds to sCD
(arXiv 2503.09641). The generator g(z) = f_theta(z, t_max) is the student's first step. Its sample and a real one are
diffused to one time t, the teacher is evaluated on both, and small heads D_k on its blocks tell them apart:

    L_GAN = -mean_k D_k(generated)                                                   the student's
    L_D   = mean_k max(0, 1 - D_k(real)) + max(0, 1 + D_k(generated))                the heads'

SANA-Sprint sums over the heads, and generates from other times as well.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from scm import trigflow
from scm.networks import Model
from scm.objectives.diffusion import diffused, drop_labels
from scm.objectives.distillation import guidance_inputs
from scm.objectives.protocol import Batch, Losses, Network, Objective, norm_of_each

Features = Callable[[Tensor, Tensor, Tensor | None], Sequence[Tensor]]
"""The features of (x_t / sigma_d, t, labels), [B, C', H', W'] each."""


@contextmanager
def blocks_watched(model: Model) -> Generator[list[Tensor]]:
    """Collects what the blocks of the model's network return in the block, where the network runs uncompiled."""
    network, found = cast(Any, model.network), list[Tensor]()
    evaluate = network.evaluate

    def keep(block: Callable[..., Tensor], *inputs: Any) -> Tensor:
        found.append(evaluate(block, *inputs))
        return found[-1]

    network.evaluate = keep
    try:
        with torch.compiler.set_stance("force_eager"):
            yield found
    finally:
        network.evaluate = evaluate


@dataclass(frozen=True)
class BlockFeatures:
    """The outputs of `count` blocks of a frozen model, evenly spaced up to the last one; tokens are places in a line.

    Raises:
        ValueError: the network has fewer blocks.
    """

    model: Model
    count: int

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None) -> list[Tensor]:
        with blocks_watched(self.model) as found:
            self.model(x, t, labels)
        if self.count > len(found):
            raise ValueError(f"the network has {len(found)} blocks")
        chosen = (found[(index + 1) * len(found) // self.count - 1] for index in range(self.count))
        return [each if each.dim() == 4 else each.transpose(1, 2)[..., None] for each in chosen]


class Discriminator(nn.Module):
    """A head for each feature, of so many channels: two convolutions of 1 x 1, with `width` channels between them."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Conv2d(each, width, 1), nn.GroupNorm(1, width), nn.SiLU(), nn.Conv2d(width, 1, 1))
            for each in channels
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """D_k at each place of each feature, [B, 1, H', W'] each."""
        own = next(self.parameters()).dtype
        return [head(x.to(own)) for head, x in zip(self.heads, features, strict=True)]


def mean_of(judgements: Sequence[Tensor], function: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean of function(D_k) over each sample's places, and over the heads; [B]."""
    return torch.stack([function(each).flatten(1).mean(dim=1) for each in judgements]).mean(dim=0)


@dataclass(frozen=True, kw_only=True)
class ConsistencyAndAdversary:
    """L_sCM + weight L_GAN + L_D, of which the last reaches the heads alone, and the others the student alone.

    Attributes:
        t_max: radians, the generator's time.
        weight: lambda of L_GAN.
        p_mean: P_mean of the times at which samples are judged.
        p_std: P_std of these times.
        features: of the frozen teacher.
        discriminator: the heads, which the loop's optimiser trains: maps the features to one tensor for each head.
        consistency: L_sCM.
    """

    sigma_d: float
    t_max: float
    weight: float
    p_mean: float
    p_std: float
    features: Features
    discriminator: nn.Module
    consistency: Objective
    guidance: tuple[float, float] | None = None
    label_dropout: float = 0.0

    def __call__(self, model: Network, batch: Batch, images_seen: int) -> Losses:
        main = self.consistency(model, batch, images_seen)
        labels, inputs = drop_labels(batch, self.label_dropout), guidance_inputs(batch, self.guidance)
        z = batch.normal(*batch.x_0.shape[1:]) * self.sigma_d
        t_max = torch.full_like(z[:, 0, 0, 0], self.t_max)
        output = model(z / self.sigma_d, t_max, labels, **inputs)
        sample = trigflow.denoise(z, t_max, output, self.sigma_d)
        # A generated and a real sample of each label, at one time.
        t = trigflow.propose_times(batch.normal(), self.p_mean, self.p_std, self.sigma_d)
        x_t, _ = diffused(replace(batch, x_0=sample), t, self.sigma_d)
        generated = self.features(x_t / self.sigma_d, t, labels)
        with torch.no_grad():
            real = self.features(diffused(batch, t, self.sigma_d)[0] / self.sigma_d, t, labels)
        parts = {
            "gan": self.student_loss(generated, sample, t),
            "discriminator": self.discriminator_loss(real, [each.detach() for each in generated], t),
        }
        value = main.value + self.weight * parts["gan"].value + parts["discriminator"].value
        return Losses(value, main.t, main.figures, parts, left_out=main.left_out)

    def student_loss(self, generated: Sequence[Tensor], sample: Tensor, t: Tensor) -> Losses:
        """L_GAN; the heads are constants."""
        fixed = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        judged = torch.func.functional_call(self.discriminator, fixed, (generated,))
        return Losses(mean_of(judged, torch.neg), t, {"sample_norm": norm_of_each(sample)})

    def discriminator_loss(self, real: Sequence[Tensor], generated: Sequence[Tensor], t: Tensor) -> Losses:
        """L_D, the hinge loss."""
        of_real, of_generated = self.discriminator(real), self.discriminator(generated)
        value = mean_of(of_real, lambda logit: torch.relu(1 - logit))
        value = value + mean_of(of_generated, lambda logit: torch.relu(1 + logit))
        judged = {"real": of_real, "generated": of_generated}
        return Losses(value, t, {name: mean_of(each, Tensor.detach) for name, each in judged.items()})
