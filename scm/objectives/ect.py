"""ECT, easy consistency tuning (arXiv 2406.14548): consistency training by differences that shrink while it learns.

That paper writes x_sigma = x_0 + sigma eps and EDM's denoiser. In TrigFlow sigma = sigma_d tan t, x_t = cos t x_sigma,
and the same denoiser is f(x_t, t) = cos t x_t - sin t sigma_d F. Its alg. 1, with the paper's t and r as sigma and r:

    n(sigma) = 1 + k sigmoid(-b sigma)                           the mapping function
    r = sigma max(0, 1 - n(sigma) / q^a)                         a = 1 + images // doubling, the stage
    L = (sqrt(||f(x_t, t) - sg f(x_t', t')||^2 + c^2) - c) / (sigma - r)        r = sigma_d tan t'

x_t' has the sample and the noise of x_t. At r = 0 the target is x_0 itself, so the loss is a denoiser's; as r tends to
sigma its gradient gets the direction of sCT's.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from scm import trigflow
from scm.objectives.consistency import Function
from scm.objectives.diffusion import diffused, drop_labels
from scm.objectives.protocol import Batch, Losses, Network, length_of_each, norm_of_each


@dataclass(frozen=True, kw_only=True)
class EasyConsistencyTuning:
    """L of alg. 1, a sum over the sample's elements; no weight is learned.

    Attributes:
        p_mean: mean of ln sigma.
        p_std: its standard deviation.
        q: factor by which a stage shrinks the differences.
        k: how much larger they are at small sigma: 1 + k / 2 times as large at sigma = 0.
        b: how fast this ends with sigma.
        doubling: images of a stage.
        c: of the pseudo-Huber distance; 0 = the distance itself.
        label_dropout: fraction of samples trained without their label.
    """

    sigma_d: float
    p_mean: float
    p_std: float
    q: float
    k: float
    b: float
    doubling: int
    c: float
    label_dropout: float = 0.0

    def __call__(self, model: Network, batch: Batch, images_seen: int) -> Losses:
        t = trigflow.propose_times(batch.normal(), self.p_mean, self.p_std, self.sigma_d)
        x_t, v_t = diffused(batch, t, self.sigma_d)
        labels = drop_labels(batch, self.label_dropout)
        sigma = self.sigma_d * torch.tan(t)
        step = sigma * self.fraction(sigma, images_seen)
        earlier = torch.atan((sigma - step) / self.sigma_d)
        output, difference = self.difference(lambda x, time: model(x, time, labels), x_t, t, earlier, v_t)
        distance = length_of_each(functional.pad(difference.flatten(1), (0, 1), value=self.c)) - self.c
        figures = {
            "squared_error": norm_of_each(difference) ** 2 / self.sigma_d**2,
            "output_norm": norm_of_each(output),
        }
        return Losses(distance / step, t, figures)

    def fraction(self, sigma: Tensor, images_seen: int) -> Tensor:
        """(sigma - r) / sigma at this stage of the training, at most 1; [B] -> [B]."""
        stage = 1 + images_seen // self.doubling
        return ((1 + self.k * torch.sigmoid(-self.b * sigma)) / self.q**stage).clamp(max=1)

    def difference(
        self, function: Function, x_t: Tensor, t: Tensor, earlier: Tensor, v_t: Tensor
    ) -> tuple[Tensor, Tensor]:
        """F at x_t, and f(x_t, t) - sg f(x_t', t'); dropout drops the same units in both evaluations.

        Args:
            earlier: t' < t, [B].
            v_t: the sample's velocity, along which x_t turns to x_t'.
        """
        turn = trigflow.per_sample(t - earlier, x_t)
        x_earlier = torch.cos(turn) * x_t - torch.sin(turn) * v_t
        asked = torch.where(earlier > 0, earlier, t)  # sin t' = 0 cancels the output; ln tan 0 is infinite
        with torch.random.fork_rng(devices=[]), torch.no_grad():  # pyright: ignore[reportUnknownMemberType]
            output_earlier = function(x_earlier / self.sigma_d, asked)
        output = function(x_t / self.sigma_d, t)
        target = trigflow.denoise(x_earlier, earlier, output_earlier, self.sigma_d)
        return output, trigflow.denoise(x_t, t, output, self.sigma_d) - target
