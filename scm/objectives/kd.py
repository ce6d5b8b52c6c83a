"""KD, knowledge distillation (Luhman and Luhman 2021, arXiv 2101.02388), from all points of the teacher's trajectories.

The teacher solves its ODE from noise to a sample x_0, and the student learns to jump there from each point x_t that the
solver has passed. f(x_t, t) = cos t x_t - sin t sigma_d F equals x_0 for

    sigma_d F* = (cos t x_t - x_0) / sin t
    L = exp(w(t)) / D ||sigma_d F - sigma_d F*||^2 - w(t)                       weighted as eq. 4 (sec. 4.2)

That paper's student learns from pure noise alone. No target contains the student's own output, so errors do not travel
from small t to large t as they do in consistency models; in return each trajectory costs many evaluations of the
teacher, and so is used several times.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from scm import trigflow
from scm.base.randomness import generator
from scm.objectives.diffusion import drop_labels, velocity_loss
from scm.objectives.distillation import guidance_inputs, teacher_output
from scm.objectives.protocol import Batch, Losses, Network, on_device
from scm.samplers.ode import heun_points


class Trajectories(NamedTuple):
    """A solved trajectory for each place of a batch.

    Attributes:
        times: of the solver's steps, radians, ascending, [N]; the end, t = 0, is not among them.
        points: x_t at each of the times, [N, B, C, H, W].
        end: x_0, [B, C, H, W].
        labels: int64 [B].
        inputs: further inputs of the student's network, each [B].
    """

    times: Tensor
    points: Tensor
    end: Tensor
    labels: Tensor
    inputs: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class TrajectoryDistillation:
    """L above, at points of trajectories that start from fresh noise; the data themselves are not used.

    Several batches of trajectories are kept, and take turns step by step. Each is replaced after `uses` turns, at
    different turns, so that one of `uses` steps solves a new batch. It follows from the seed, its number and its place
    in the batch. So neither the number of ranks nor an interruption changes it.

    Attributes:
        teacher: the pretrained network with its averaged weights, in eval mode.
        sigmas: noise levels of the solver's steps, descending, the last one 0 (`edm_sigmas`).
        classes: number of classes, which take turns; 0 = without labels.
        kept: batches of trajectories that are kept.
        uses: images that are trained on from one trajectory.
        from_noise: share of the images that are taken at the first time, from pure noise.
        p_mean: P_mean of the other images' times, which move up to the next time of the grid.
        p_std: P_std of these times.
        every: the student learns in one of so many steps of the training.
        guidance: (low, high): the teacher is guided with s ~ U[low, high], one for each trajectory, and s is an input
            of the student; None = no guidance.
        label_dropout: fraction of trajectories without a label.
        adaptive_weighting: True = w is learned; False = w is 0.
    """

    sigma_d: float
    teacher: Network
    sigmas: tuple[float, ...]
    classes: int
    kept: int
    uses: int
    from_noise: float
    p_mean: float
    p_std: float
    seed: int
    every: int = 1
    guidance: tuple[float, float] | None = None
    label_dropout: float = 0.0
    adaptive_weighting: bool = True
    solved: dict[tuple[int, int, int, int], tuple[int, Trajectories]] = field(
        default_factory=dict[tuple[int, int, int, int], tuple[int, Trajectories]], init=False, repr=False
    )

    def __call__(self, model: Network, batch: Batch, images_seen: int) -> Losses:
        x_t, x_0, t, labels, inputs = self.places(batch, images_seen)
        target = (trigflow.per_sample(torch.cos(t), x_t) * x_t - x_0) / trigflow.per_sample(torch.sin(t), x_t)
        log_weight = model.log_weight(t) if self.adaptive_weighting else torch.zeros_like(t)
        return velocity_loss(model(x_t / self.sigma_d, t, labels, **inputs), target, t, log_weight, self.sigma_d)

    def places(self, batch: Batch, images_seen: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Mapping[str, Tensor]]:
        """x_t, the end x_0 of its trajectory, t, labels and further inputs of each sample of the batch."""
        turn, slot = divmod(images_seen // batch.size // self.every, self.kept)
        own = self._trajectories(batch, slot, (turn + slot * self.uses // self.kept) // self.uses)
        last = len(own.times) - 1
        proposed = trigflow.propose_times(batch.normal(), self.p_mean, self.p_std, self.sigma_d)
        upper = torch.searchsorted(own.times, proposed.contiguous()).clamp(max=last)
        point = torch.where(batch.uniform() < self.from_noise, last, upper)
        x_t = own.points[point, torch.arange(len(point), device=point.device)]
        return x_t, own.end, own.times[point], own.labels, own.inputs

    def bytes_for_each(self, shape: torch.Size) -> int:
        """Bytes that the trajectories of each image of the batch take; `shape` is a sample's, [C, H, W]."""
        numbers = len(self.sigmas) * shape.numel() + (self.guidance is not None)
        return self.kept * (torch.float32.itemsize * numbers + torch.int64.itemsize)

    def _trajectories(self, batch: Batch, slot: int, generation: int) -> Trajectories:
        """This rank's part of a batch of trajectories, solved when it is first asked for."""
        key = batch.size, batch.world, batch.rank, slot
        if key not in self.solved or self.solved[key][0] != generation:
            for other in [each for each in self.solved if each[:2] != key[:2]]:  # of a batch in larger parts
                del self.solved[other]
            self.solved.pop(key, None)
            self.solved[key] = generation, self.solve(batch, slot, generation)
        return self.solved[key][1]

    @torch.no_grad()
    def solve(self, batch: Batch, slot: int, generation: int) -> Trajectories:
        """This rank's part of the batch of trajectories that is the `generation`th in the place `slot`, from 0 on."""
        x_0 = batch.x_0  # for its shape alone
        first = (generation * self.kept + slot) * batch.size + batch.rank * len(x_0)
        number = torch.arange(len(x_0), device=x_0.device) + first
        labels = number % self.classes if self.classes else torch.full_like(number, -1)
        draws = generator(self.seed, "trajectories", slot, generation, device=batch.generator.device)
        own = replace(batch, labels=labels, generator=draws)
        noise = own.normal(*x_0.shape[1:])
        labels, inputs = drop_labels(own, self.label_dropout), guidance_inputs(own, self.guidance)

        def function(x: Tensor, t: Tensor) -> Tensor:
            return teacher_output(self.teacher, x, t, labels, inputs)

        times = [trigflow.time_of_sigma(sigma, self.sigma_d) for sigma in reversed(self.sigmas[:-1])]
        points, end = x_0.new_empty(len(times), *x_0.shape), noise
        for place, end in enumerate(heun_points(function, noise, self.sigmas, self.sigma_d), 1):
            if place <= len(times):
                points[-place] = end * math.cos(times[-place])
        return Trajectories(on_device(tuple(times), x_0.dtype, x_0.device), points, end, labels, inputs)
