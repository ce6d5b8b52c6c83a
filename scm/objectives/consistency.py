"""The loss of continuous-time consistency models (sec. 4, alg. 1), which sCD, sCT and their variants share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from scm import trigflow
from scm.jvp import output_and_tangent
from scm.objectives.diffusion import diffused, drop_labels
from scm.objectives.protocol import Batch, Losses, Network, length_of_each, norm_of_each

Limit = Literal["normalized", "clipped", "raw"]
Function = Callable[[Tensor, Tensor], Tensor]
"""F(x / sigma_d, t) with labels and further inputs filled in."""
Inputs = Mapping[str, Tensor]
"""What a student's network takes besides x, t and labels: guidance, segment; each [B]."""


@dataclass(frozen=True)
class Places:
    """Where a loss is taken: a point x_t of each sample's trajectory, and the trajectory's direction there.

    Attributes:
        x_t: [B, C, H, W].
        t: radians [B].
        labels: int64 [B], -1 = no label.
        inputs: further inputs of the student's network.
        direction: dx_t/dt, [B, C, H, W].
    """

    x_t: Tensor
    t: Tensor
    labels: Tensor
    inputs: Inputs
    direction: Tensor


@dataclass(frozen=True)
class Tangent:
    """alg. 1's g before it is limited, and its terms; all [B, C, H, W], and only `output` has a graph.

    Attributes:
        output: F_theta(x_t / sigma_d, t).
        g: -cos^2 a (sigma_d F - dx/dt) - r cos a sin a (x_t + sigma_d dF/dt); equals cos a df/dt at r = 1.
        first: the first term of g.
        second: the second term of g, which contains dF/dt and may become unstable.
        figures: further health figures, each [B].
    """

    output: Tensor
    g: Tensor
    first: Tensor
    second: Tensor
    figures: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


def consistency_tangent(
    function: Function, x_t: Tensor, t: Tensor, angle: Tensor, dx_dt: Tensor, sigma_d: float, r: float
) -> Tangent:
    """Computes F_theta and g in one pass (alg. 1, rearranged as in sec. 5.1).

    f(x_t, t) = cos a x_t - sin a sigma_d F. The angle a is t itself or, for a flow map, the time t - s of the jump.
    The network is differentiated along (cos a sin a dx/dt / sigma_d, cos a sin a), which yields
    cos a sin a dF/dt. The factor keeps the numbers small near t = pi/2, where dx_t/dt is large compared with the
    signal.

    Args:
        angle: a, [B], with da/dt = 1.
        dx_dt: sigma_d F_teacher (distillation) or v_t (training), [B, C, H, W].
        r: tangent warm-up, 0 to 1.
    """
    cos, sin = torch.cos(angle), torch.sin(angle)
    along_x = trigflow.per_sample(cos * sin, x_t) * dx_dt / sigma_d
    output, scaled = output_and_tangent(function, (x_t / sigma_d, t), (along_x, cos * sin))
    cos, sin = trigflow.per_sample(cos, x_t), trigflow.per_sample(sin, x_t)
    first = -(cos**2) * (sigma_d * output.detach() - dx_dt)
    second = -r * (cos * sin * x_t + sigma_d * scaled)
    return Tangent(output, first + second, first, second)


def diffusion_tangent(output: Tensor, dx_dt: Tensor, sigma_d: float) -> Tangent:
    """The tangent of a jump of no length, a = 0, which needs no derivative: g = dx/dt - sigma_d F.

    The loss's gradient -2 / D g dF is then that of the diffusion loss ||sigma_d F - dx/dt||^2 / D, over sigma_d.
    """
    g = dx_dt - sigma_d * output.detach()
    return Tangent(output, g, g, torch.zeros_like(g))


def normalized(g: Tensor, c: float) -> Tensor:
    """g / (||g|| + c), the norm taken over each sample's elements (sec. 4.2, tangent normalisation)."""
    return g / (trigflow.per_sample(length_of_each(g), g) + c)


def limited(g: Tensor, limit: Limit, c: float) -> Tensor:
    """The tangent as the loss uses it: normalised, clipped to [-1, 1], or raw (sec. 4.2, fig. 5a)."""
    if limit == "normalized":
        return normalized(g, c)
    return g.clamp(-1, 1) if limit == "clipped" else g


@dataclass(frozen=True, kw_only=True)
class ConsistencyLoss:
    """Alg. 1's loss. A method defines `direction`, and may override the times, the inputs and the tangent.

    An input `segment` makes the student a flow map: f_s(x_t, t) = cos(t - s) x_t - sin(t - s) sigma_d F jumps from t to
    s, the segment, and stays the same along the trajectory. So g is alg. 1's with t - s in every sine and cosine, and
    equals cos(t - s) df_s/dt.

    Attributes:
        p_mean: mean of tau in t = arctan(e^tau / sigma_d).
        p_std: its standard deviation.
        tangent: how g is limited (fig. 5a); the paper normalises it.
        tangent_norm_c: c of the tangent normalisation.
        tangent_warmup: images over which r grows linearly from 0 to 1 (H of alg. 1, in images).
        adaptive_weighting: True weights the loss by the learned exp(w_phi(t)) (fig. 5b), False by 1.
        label_dropout: fraction of samples trained without their label.
        leave_out_overflow: True leaves out samples whose tangent is not finite though their output is, which in float16
            says nothing of the weights. EDM2 zeroes what is not finite as well, but in the gradient.
    """

    sigma_d: float
    p_mean: float
    p_std: float
    tangent: Limit = "normalized"
    tangent_norm_c: float = 0.1
    tangent_warmup: int = 0
    adaptive_weighting: bool = True
    label_dropout: float = 0.0
    leave_out_overflow: bool = False

    def __call__(self, model: Network, batch: Batch, images_seen: int) -> Losses:
        return self.loss_at(model, self.places(batch), images_seen)

    def places(self, batch: Batch) -> Places:
        """Draws the places at which the loss of this batch is taken."""
        t, jump = self.jump(batch)
        x_t, v_t = diffused(batch, t, self.sigma_d)
        labels = drop_labels(batch, self.label_dropout)
        inputs = {**self.inputs(batch, t), **jump}
        return Places(x_t, t, labels, inputs, self.direction(x_t, t, labels, inputs, v_t))

    def loss_at(self, model: Network, places: Places, images_seen: int) -> Losses:
        """The loss by the tangent g, whose second term grows with r during the warm-up."""

        def function(x: Tensor, t: Tensor) -> Tensor:
            return model(x, t, places.labels, **places.inputs)

        r = min(1.0, images_seen / self.tangent_warmup) if self.tangent_warmup else 1.0
        tangent = self.tangent_of(function, places.x_t, places.t, places.inputs, places.direction, r)
        return self.loss_of(model, places.t, tangent)

    def loss_of(self, model: Network, t: Tensor, tangent: Tangent) -> Losses:
        """exp(w) / D ||F - F^- - g||^2 - w, with g limited and w = w_phi(t)."""
        g, left_out = limited(tangent.g, self.tangent, self.tangent_norm_c), None
        if self.leave_out_overflow:
            left_out = norm_of_each(tangent.output).isfinite() & ~length_of_each(g).isfinite()
            g = torch.where(trigflow.per_sample(left_out, g), 0, g)  # before the square: 0 times infinity is no number
        # The loss's gradient is proportional to -g^T dF.
        log_weight = model.log_weight(t) if self.adaptive_weighting else torch.zeros_like(t)
        difference = tangent.output - tangent.output.detach() - g
        squared = self.distance(difference)
        figures = {
            "tangent_norm": length_of_each(tangent.g),
            "tangent_term1": length_of_each(tangent.first),
            "tangent_term2": length_of_each(tangent.second),
            "output_norm": norm_of_each(tangent.output),
            "log_weight": log_weight.detach(),
            **tangent.figures,
        }
        value = log_weight.exp() * squared - log_weight
        if left_out is not None:
            value = torch.where(left_out, 0, value)
        return Losses(value, t, figures, left_out=left_out)

    def times(self, batch: Batch) -> Tensor:
        """t of each sample, radians [B]."""
        return trigflow.propose_times(batch.normal(), self.p_mean, self.p_std, self.sigma_d)

    def jump(self, batch: Batch) -> tuple[Tensor, Inputs]:
        """t of each sample, and its `segment` s <= t for a method that draws the two together."""
        return self.times(batch), {}

    def inputs(self, batch: Batch, t: Tensor) -> Inputs:
        """Further inputs of the student's network."""
        return {}

    def direction(self, x_t: Tensor, t: Tensor, labels: Tensor, inputs: Inputs, v_t: Tensor) -> Tensor:
        """dx_t/dt of the trajectory that the student follows, [B, C, H, W].

        Args:
            v_t: the sample's own velocity, cos t z - sin t x_0.
        """
        raise NotImplementedError(f"{type(self).__name__} follows no trajectory")

    def tangent_of(
        self, function: Function, x_t: Tensor, t: Tensor, inputs: Inputs, direction: Tensor, r: float
    ) -> Tangent:
        """F and g along the trajectory that `direction` defines."""
        angle = t - inputs["segment"] if "segment" in inputs else t
        return consistency_tangent(function, x_t, t, angle, direction, self.sigma_d, r)

    def distance(self, difference: Tensor) -> Tensor:
        """||F - F^- - g||^2 / D of each sample. [B, C, H, W] -> [B]."""
        return difference.flatten(1).square().mean(dim=1)
