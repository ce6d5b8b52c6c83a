"""rCM, score-regularised consistency (arXiv 2510.08431): sCD, and score distillation of samples of several steps.

sCD covers the data (forward divergence), score distillation seeks what is likely (reverse divergence). The samples
that the scores are compared at are drawn as the student is sampled: in each further step the sample gets fresh noise
up to a random time, no later than the step before, and is denoised again. The last step alone has a graph. Here the
difference of the scores is weighted by w_psi, as in sCD + VSD, and not by the teacher's distance from the sample.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from scm import trigflow
from scm.objectives.consistency import Function
from scm.objectives.distillation import Distillation
from scm.objectives.protocol import Batch
from scm.objectives.score_distillation import ScoreDistillation


@dataclass(frozen=True, kw_only=True)
class ScoreRegularizedConsistency(ScoreDistillation):
    """L_sCM + weight L_VSD with samples of 1 to `steps` steps; one step is sCD + VSD.

    Attributes:
        steps: the most steps of a sample; the numbers take turns. The times of further steps have the distribution of
            those at which the scores are compared.
        consistency: L_sCM, with the same teacher.
    """

    steps: int
    consistency: Distillation  # pyright: ignore[reportGeneralTypeIssues]: optional in the base, required here

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
