"""Variational score distillation with adaptive weighting, which VSD, sCD + VSD, rCM and DMD share (app. C).

The generator g_theta(z) = f_theta(z, t_max) is the student's first sampling step. Its samples move along the
difference between two scores: the teacher's, and that of the generator's own samples, which a second network, the fake
score F_phi, learns at the same time.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from scm import trigflow
from scm.networks import Model
from scm.networks.model import evaluating
from scm.objectives.consistency import Function, Inputs
from scm.objectives.diffusion import diffused, drop_labels, velocity_loss
from scm.objectives.distillation import guidance_inputs, teacher_output
from scm.objectives.protocol import Batch, Losses, Network, Objective, length_of_each, norm_of_each


class FakeScore(nn.Module):
    """The modules trained beside the generator.

    Args:
        network: F_phi with its own w(t), initialised from the teacher.
        log_weight_head: w(t) of the generator's loss.
    """

    def __init__(self, network: Model, log_weight_head: nn.Module) -> None:
        super().__init__()
        self.network, self.log_weight_head = network, log_weight_head


def score_distillation_loss(output: Tensor, difference: Tensor, log_weight: Tensor, sigma_d: float) -> Tensor:
    """exp(w) / D ||sigma_d F - sg[sigma_d F] + difference||^2 - w (app. C), [B].

    Its gradient moves the generator's sample, -sigma_d F at t_max, along `difference`: towards the teacher's data, and
    away from the generator's own distribution.

    Args:
        output: F_theta(z, t_max) with its graph, [B, C, H, W].
        difference: F_phi - F_teacher at the diffused sample, without graph.
        log_weight: w(t), [B].
    """
    change = sigma_d * (output - output.detach()) + difference
    return log_weight.exp() * change.flatten(1).square().mean(dim=1) - log_weight


@dataclass(frozen=True, kw_only=True)
class ScoreDistillation:
    """L_sCM + weight L_VSD + the fake score's diffusion loss.

    No gradient of the student's two losses reaches the fake score, and the fake score's loss sends none to the student.
    With `updates` > 1 the student rests in the other steps. Such a step has only the fake score's loss, which is
    recorded as a part; the figure `loss` is the sum of all parts, at the times of the first.

    Attributes:
        t_max: radians, the generator's time.
        weight: lambda of L_VSD.
        p_mean: P_mean of the times at which the scores are compared.
        p_std: P_std of these times.
        fake: the fake score, which the loop's optimiser trains.
        fake_p_mean: P_mean of the times at which the fake score is trained.
        fake_p_std: P_std of these times.
        updates: steps of the fake score for each step of the generator.
        consistency: L_sCM; None = VSD alone.
    """

    sigma_d: float
    t_max: float
    weight: float
    p_mean: float
    p_std: float
    teacher: Network
    fake: FakeScore
    fake_p_mean: float
    fake_p_std: float
    updates: int = 1
    guidance: tuple[float, float] | None = None
    label_dropout: float = 0.0
    adaptive_weighting: bool = True
    consistency: Objective | None = None

    def __call__(self, model: Network, batch: Batch, images_seen: int) -> Losses:
        step = images_seen // batch.size
        learns = (step + 1) % self.updates == 0
        parts: dict[str, Losses] = {}
        if self.consistency is not None and learns:
            parts["scm"] = self.consistency(model, batch, images_seen)
        # Draw the generator's samples, with a graph only if it learns from them.
        labels, inputs = drop_labels(batch, self.label_dropout), guidance_inputs(batch, self.guidance)
        z = batch.normal(*batch.x_0.shape[1:]) * self.sigma_d
        t_max = torch.full_like(z[:, 0, 0, 0], self.t_max)
        with torch.set_grad_enabled(learns):
            output, sample = self.generate(lambda x, t: model(x, t, labels, **inputs), batch, z, t_max, step)
        if learns:
            parts["vsd"] = self.generator_loss(batch, output, sample, labels, inputs)
        parts["fake"] = self.fake_loss(batch, sample, labels, inputs)
        # Sum the parts; the first one gives the times and figures of the whole.
        factors = {"scm": 1.0, "vsd": self.weight, "fake": 1.0}
        value = torch.stack([factors[name] * part.value for name, part in parts.items()]).sum(dim=0)
        main = parts.pop("scm", None)
        if main is not None:
            return Losses(value, main.t, main.figures, parts, left_out=main.left_out)
        figures = {} if self.consistency is not None else {"output_norm": norm_of_each(output)}
        return Losses(value, t_max, figures, parts, recorded=learns)

    def generate(self, function: Function, batch: Batch, z: Tensor, t_max: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """F of the generator, with a graph where the sample depends on it by -sigma_d sin t_max F, and its sample.

        Args:
            z: noise at `t_max`, [B, C, H, W].
            step: number of the training's step.
        """
        output = function(z / self.sigma_d, t_max)
        return output, trigflow.denoise(z, t_max, output, self.sigma_d).detach()

    def generator_loss(self, batch: Batch, output: Tensor, sample: Tensor, labels: Tensor, inputs: Inputs) -> Losses:
        """L_VSD: compares the teacher's and the fake score at the generator's diffused sample."""
        t, x_t, _ = self._diffused_sample(batch, sample, self.p_mean, self.p_std)
        with evaluating(self.fake.network), torch.no_grad():
            fake = self.fake.network(x_t / self.sigma_d, t, labels, **inputs)
        difference = fake - teacher_output(self.teacher, x_t / self.sigma_d, t, labels, inputs)
        log_weight = self.fake.log_weight_head(t) if self.adaptive_weighting else torch.zeros_like(t)
        value = score_distillation_loss(output, difference, log_weight, self.sigma_d)
        figures = {"difference": length_of_each(difference), "log_weight": log_weight.detach()}
        return Losses(value, t, figures)

    def fake_loss(self, batch: Batch, sample: Tensor, labels: Tensor, inputs: Inputs) -> Losses:
        """The fake score's diffusion loss (eq. 4) on the generator's samples."""
        t, x_t, v_t = self._diffused_sample(batch, sample, self.fake_p_mean, self.fake_p_std)
        network = self.fake.network
        output = network(x_t / self.sigma_d, t, labels, **inputs)
        losses = velocity_loss(output, v_t, t, network.log_weight(t), self.sigma_d)
        return replace(losses, figures={**losses.figures, "sample_norm": norm_of_each(sample)})

    def _diffused_sample(self, batch: Batch, sample: Tensor, p_mean: float, p_std: float) -> tuple[Tensor, ...]:
        """Diffuses the generator's sample with fresh noise: t, x_t and v_t."""
        t = trigflow.propose_times(batch.normal(), p_mean, p_std, self.sigma_d)
        return t, *diffused(replace(batch, x_0=sample), t, self.sigma_d)


@dataclass(frozen=True, kw_only=True)
class SeveralSteps(ScoreDistillation):
    """Score distillation of samples that the student draws in 1 to `steps` steps, which rCM and DMD share.

    The samples that the scores are compared at are drawn as the student is sampled: in each further step the sample
    gets fresh noise up to a random time, no later than the step before, and is denoised again. The last step alone has
    a graph.

    Attributes:
        steps: the most steps of a sample; the numbers take turns. The times of further steps have the distribution of
            those at which the scores are compared.
    """

    steps: int

    def generate(self, function: Function, batch: Batch, z: Tensor, t_max: Tensor, step: int) -> tuple[Tensor, Tensor]:
        x_t, t = z, t_max
        for _ in range(self.further(step)):
            with torch.no_grad():
                x_0 = trigflow.denoise(x_t, t, function(x_t / self.sigma_d, t), self.sigma_d)
            t = torch.minimum(trigflow.propose_times(batch.normal(), self.p_mean, self.p_std, self.sigma_d), t)
            x_t = trigflow.interpolate(x_0, batch.normal(*z.shape[1:]) * self.sigma_d, t)
        output, sample = super().generate(function, batch, x_t, t, step)
        # The sample moves by -sigma_d sin t F, and at t_max by -sigma_d sin t_max F.
        return output * trigflow.per_sample(torch.sin(t) / torch.sin(t_max), output), sample

    def further(self, step: int) -> int:
        """Steps without a graph: 0 to `steps` - 1 in turn, among the steps in which the student learns as well."""
        return sum(divmod(step, self.updates)) % self.steps
