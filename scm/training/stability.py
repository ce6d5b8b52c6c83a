"""How much the consistency function of a diffusion model changes along its own trajectory (fig. 4).

df/dt has two terms, which a student's tangent consists of: the change of x_t along the ODE, and that of t alone. The
paper shows on diffusion models which times and embeddings keep both small. Each snapshot of a teacher is measured at
the centres of the bins of t; the draws are named, so training is bit-equal with and without it. torch's own jvp is
fast enough for that, and a change of scm.jvp leaves the teacher alone.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from scm import trigflow
from scm.base.randomness import generator
from scm.networks import Model
from scm.networks.model import evaluating
from scm.objectives.protocol import length_of_each
from scm.training.ahead import Data
from scm.training.health import BINS

IMAGES = 8
"""Training samples in each bin."""


def terms_of_change(
    function: Callable[[Tensor, Tensor], Tensor], x_t: Tensor, t: Tensor, sigma_d: float
) -> tuple[Tensor, Tensor]:
    """The terms of df/dt along the model's own ODE, dx_t/dt = sigma_d F, for f = cos t x_t - sin t sigma_d F.

    Args:
        function: F(x / sigma_d, t).
        t: radians, [B].

    Returns:
        grad_x f dx_t/dt and the derivative of f by t at a fixed x_t; both [B, C, H, W], without graph.
    """
    x = x_t / sigma_d
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # the other kernels have no forward derivative
        output = function(x, t)
        by_time = jvp(lambda time: function(x, time), (t,), (torch.ones_like(t),))[1]
        along_path = jvp(lambda place: function(place, t), (x,), (output,))[1]  # d(x_t / sigma_d)/dt = F
    cos, sin = (trigflow.per_sample(each, x_t) for each in (torch.cos(t), torch.sin(t)))
    return sigma_d * (cos * output - sin * along_path), -sin * (x_t + sigma_d * by_time) - cos * sigma_d * output


class Stability:
    """Measures both terms on the run's first samples, of this process.

    Args:
        data: the run's data.
        seed: names the noise.
        sigma_d: standard deviation of the data.
    """

    def __init__(self, data: Data, seed: int, sigma_d: float) -> None:
        self.x_0, self.labels = (values[:IMAGES] for values in data.batch_at(0))
        self.seed, self.sigma_d = seed, sigma_d

    def __call__(self, model: Model, weights: Mapping[str, Tensor]) -> dict[str, float]:
        """Mean norms of both terms: `path_term/<k>` and `time_term/<k>` for each bin k of t.

        Args:
            model: keeps its own weights and mode.
            weights: an average, by the names of the model's parameters.
        """
        device, count = next(iter(weights.values())).device, len(self.x_0)
        x_0, labels = (values.to(device).repeat(BINS, *[1] * (values.dim() - 1)) for values in (self.x_0, self.labels))
        noise = torch.randn(x_0.shape, generator=generator(self.seed, "stability")).to(x_0) * self.sigma_d
        t = (torch.arange(BINS, device=device).repeat_interleave(count) + 0.5) * (math.pi / 2 / BINS)

        def function(x: Tensor, t: Tensor) -> Tensor:
            return functional_call(model, dict(weights), (x, t, labels))

        with evaluating(model), torch.compiler.set_stance("force_eager"):
            terms = terms_of_change(function, trigflow.interpolate(x_0, noise, t), t, self.sigma_d)
        means = (length_of_each(term).reshape(BINS, count).mean(dim=1).tolist() for term in terms)
        named = zip(("path_term", "time_term"), means, strict=True)
        return {f"{name}/{k}": mean for name, values in named for k, mean in enumerate(values)}
