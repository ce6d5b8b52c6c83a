"""Continuous-time consistency models: sCD and sCT (sec. 4, alg. 1)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scm import trigflow
from scm.jvp import output_and_tangent
from scm.objectives.diffusion import diffused, drop_labels
from scm.objectives.protocol import Batch, Losses, Network, length_of_each, norm_of_each


@dataclass(frozen=True)
class Tangent:
    """alg. 1's g before normalisation, and what it is made of; all without graph, [B, C, H, W] except r.

    Attributes:
        output: F_theta(x_t / sigma_d, t) with its graph.
        g: -cos^2 t (sigma_d F - dx/dt) - r cos t sin t (x_t + sigma_d dF/dt); equals cos t df/dt at r = 1.
        first: the first term of g.
        second: the second term of g, which carries dF/dt and is the one that goes unstable.
    """

    output: Tensor
    g: Tensor
    first: Tensor
    second: Tensor


def consistency_tangent(
    model: Network, x_t: Tensor, t: Tensor, labels: Tensor, dx_dt: Tensor, sigma_d: float, r: float
) -> Tangent:
    """Computes F_theta and g in one pass (alg. 1, rearranged as in sec. 5.1).

    The network is differentiated along (cos t sin t dx/dt / sigma_d, cos t sin t), which yields cos t sin t dF/dt: the
    factor keeps the tangent's numbers small where t approaches pi/2 and dx_t/dt is large compared with the signal.

    Args:
        dx_dt: sigma_d F_teacher (sCD) or v_t (sCT), [B, C, H, W].
        r: tangent warm-up, 0 to 1.
    """
    cos, sin = torch.cos(t), torch.sin(t)
    along_x = trigflow.per_sample(cos * sin, x_t) * dx_dt / sigma_d
    output, scaled = output_and_tangent(
        lambda x, time: model(x, time, labels), (x_t / sigma_d, t), (along_x, cos * sin)
    )
    cos, sin = trigflow.per_sample(cos, x_t), trigflow.per_sample(sin, x_t)
    first = -(cos**2) * (sigma_d * output.detach() - dx_dt)
    second = -r * (cos * sin * x_t + sigma_d * scaled)
    return Tangent(output, first + second, first, second)


def normalized(g: Tensor, c: float) -> Tensor:
    """g / (||g|| + c), the norm taken over each sample's elements (sec. 4.2, tangent normalisation)."""
    return g / (trigflow.per_sample(length_of_each(g), g) + c)


@dataclass(frozen=True)
class ConsistencyTraining:
    """sCT: the ODE's direction is the sample's own velocity v_t, an unbiased estimate (alg. 1, consistency training).

    Attributes:
        p_mean: mean of tau in t = arctan(e^tau / sigma_d).
        p_std: its standard deviation.
        tangent_norm_c: c of the tangent normalisation.
        tangent_warmup: images over which r grows linearly from 0 to 1 (H of alg. 1, in images).
        label_dropout: fraction of samples trained without label.
    """

    sigma_d: float
    p_mean: float
    p_std: float
    tangent_norm_c: float
    tangent_warmup: int
    label_dropout: float = 0.0

    def __call__(self, model: Network, batch: Batch, images_seen: int) -> Losses:
        x_t, v_t, t = diffused(batch, self.p_mean, self.p_std, self.sigma_d)
        labels = drop_labels(batch, self.label_dropout)
        direction = self.direction(x_t, t, labels, v_t)
        r = min(1.0, images_seen / self.tangent_warmup) if self.tangent_warmup else 1.0
        tangent = consistency_tangent(model, x_t, t, labels, direction, self.sigma_d, r)
        g = normalized(tangent.g, self.tangent_norm_c)
        log_weight = model.log_weight(t)
        difference = tangent.output - tangent.output.detach() - g
        squared = difference.flatten(1).square().mean(dim=1)  # ||.||^2 / D
        figures = {
            "tangent_norm": length_of_each(tangent.g),
            "tangent_term1": length_of_each(tangent.first),
            "tangent_term2": length_of_each(tangent.second),
            "output_norm": norm_of_each(tangent.output),
            "log_weight": log_weight.detach(),
        }
        return Losses(log_weight.exp() * squared - log_weight, t, figures)

    def direction(self, x_t: Tensor, t: Tensor, labels: Tensor, v_t: Tensor) -> Tensor:
        """dx_t/dt of the trajectory that the student follows, [B, C, H, W]."""
        return v_t


@dataclass(frozen=True, kw_only=True)
class ConsistencyDistillation(ConsistencyTraining):
    """sCD: the ODE's direction is the teacher's, sigma_d F_teacher (alg. 1, consistency distillation).

    Attributes:
        teacher: the pretrained network with its averaged weights, in eval mode.
    """

    teacher: Network

    def direction(self, x_t: Tensor, t: Tensor, labels: Tensor, v_t: Tensor) -> Tensor:
        with torch.no_grad():
            return self.sigma_d * self.teacher(x_t / self.sigma_d, t, labels)
