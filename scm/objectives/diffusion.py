"""TrigFlow's diffusion objective (sec. 3), which trains the teacher."""

from dataclasses import dataclass

import torch

from scm import trigflow
from scm.objectives.augmentation import augmented
from scm.objectives.protocol import Batch, Losses, Network, norm_of_each


@dataclass(frozen=True)
class Diffusion:
    """E exp(w_phi(t)) / D ||sigma_d F(x_t / sigma_d, t) - v_t||^2 - w_phi(t) (eq. 4, weighted as in sec. 4.2).

    Attributes:
        p_mean: mean of tau in t = arctan(e^tau / sigma_d).
        p_std: its standard deviation.
        label_dropout: fraction of samples trained without their label.
        augment: probability of each distortion of EDM's augmentation, which F is told; 0 = no augmentation.
    """

    sigma_d: float
    p_mean: float
    p_std: float
    label_dropout: float = 0.0
    augment: float = 0.0

    def __call__(self, model: Network, batch: Batch, images_seen: int) -> Losses:
        sigma_d, told = self.sigma_d, dict[str, torch.Tensor]()
        if self.augment:
            batch, told["augment"] = augmented(batch, self.augment)
        t = trigflow.propose_times(batch.normal(), self.p_mean, self.p_std, sigma_d)
        x_t, v_t = diffused(batch, t, sigma_d)
        output = model(x_t / sigma_d, t, drop_labels(batch, self.label_dropout), **told)
        return velocity_loss(output, v_t, t, model.log_weight(t), sigma_d)


def velocity_loss(
    output: torch.Tensor, v_t: torch.Tensor, t: torch.Tensor, log_weight: torch.Tensor, sigma_d: float
) -> Losses:
    """exp(w) / D ||sigma_d F - v_t||^2 - w of each sample (eq. 4, weighted as in sec. 4.2), with its figures.

    Args:
        output: F(x_t / sigma_d, t) with its graph, [B, C, H, W].
        log_weight: w(t), [B].
    """
    squared = (sigma_d * output - v_t).flatten(1).square().mean(dim=1)
    figures = {
        "squared_error": squared.detach() / sigma_d**2,
        "output_norm": norm_of_each(output),
        "log_weight": log_weight.detach(),
    }
    return Losses(log_weight.exp() * squared - log_weight, t, figures)


def diffused(batch: Batch, t: torch.Tensor, sigma_d: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Diffuses each sample to its time with fresh noise: x_t and v_t, [B, C, H, W]."""
    z = batch.normal(*batch.x_0.shape[1:]) * sigma_d
    return trigflow.interpolate(batch.x_0, z, t), trigflow.velocity(batch.x_0, z, t)


def drop_labels(batch: Batch, probability: float) -> torch.Tensor:
    """Replaces a fraction of the labels by -1; draws nothing if `probability` is 0."""
    if probability == 0:
        return batch.labels
    threshold = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(probability)).item()
    return torch.where(batch.normal() < threshold, -1, batch.labels)
