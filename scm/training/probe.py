"""A cheap, coarse distance between a student's samples and the data, measured during training.

A student's loss says nothing about its samples. So each snapshot turns the same noise into samples and takes their
Frechet distance to training data, in the network's space averaged down to a few pixels. The distance shows a run that
falls apart, not which of two good models is better. The probe names its own draws and uses the averaged weights, so
training is bit-equal with and without it.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from scm.base.frechet import frechet_distance
from scm.base.randomness import seed_of
from scm.networks import Model
from scm.networks.model import evaluating
from scm.samplers import SampleNoise, consistency, multistep
from scm.training.ahead import Data

SAMPLES = 256
REAL_SAMPLES = 2048
"""Training samples in the comparison; a smaller data set contributes some of them twice."""
SIDE = 4
"""Samples are averaged down to at most this many pixels on a side."""
BATCH = 64
"""Samples in one pass of the network."""


class Probe:
    """The probe of one run.

    Args:
        data: the run's data. Samples are compared with its first samples, and have labels in the same proportions.
        batch: images between two positions of the data.
        seed: names the noise.
        t_max: radians, where sampling starts.
        sigma_d: standard deviation of the data.
        segments: jumps of a student whose network takes the time that it jumps to; None = one step from t_max.
        guidance: guidance scale of a student that takes one.
    """

    def __init__(
        self,
        data: Data,
        batch: int,
        seed: int,
        t_max: float,
        sigma_d: float,
        segments: int | None = None,
        guidance: float | None = None,
    ) -> None:
        self.t_max, self.sigma_d, self.segments, self.guidance = t_max, sigma_d, segments, guidance
        x_0, labels = data.batch_at(0)
        self._shape, features, position = x_0.shape[1:], pooled(x_0), batch
        while len(features) < REAL_SAMPLES:
            x_0, more = data.batch_at(position)
            features, labels, position = torch.cat([features, pooled(x_0)]), torch.cat([labels, more]), position + batch
        self._real = statistics(features[:REAL_SAMPLES])
        self._labels = labels.sort().values[torch.arange(SAMPLES) * len(labels) // SAMPLES]
        self._seeds = [seed_of(seed, "probe", index) for index in range(SAMPLES)]

    @torch.no_grad()
    def __call__(self, model: Model, weights: Mapping[str, Tensor]) -> dict[str, float]:
        """`sample_fd`: the distance of the samples drawn with these weights; inf if a sample is not finite.

        Args:
            model: keeps its own weights and mode.
            weights: an average, by the names of the model's parameters.
        """
        device = next(iter(weights.values())).device
        with evaluating(model), torch.compiler.set_stance("force_eager"):
            starts = range(0, SAMPLES, BATCH)
            parts = [pooled(self._draw(model, weights, slice(start, start + BATCH), device)) for start in starts]
        samples = torch.cat(parts)
        finite = bool(samples.isfinite().all())
        return {"sample_fd": frechet_distance(*self._real, *statistics(samples)) if finite else math.inf}

    def _draw(self, model: Model, weights: Mapping[str, Tensor], part: slice, device: torch.device) -> Tensor:
        labels, noise = self._labels[part].to(device), SampleNoise(self._seeds[part], self._shape, device)
        inputs: dict[str, Any] = {}
        if self.guidance is not None:
            inputs["guidance"] = torch.full(labels.shape, self.guidance, device=device)

        def function(x: Tensor, t: Tensor, segment: Tensor | None = None) -> Tensor:
            return functional_call(model, dict(weights), (x, t, labels), {**inputs, "segment": segment})

        if self.segments is not None:
            return multistep(function, noise, self.segments, self.t_max, self.sigma_d)
        return consistency(function, noise, [self.t_max], self.sigma_d)


def pooled(x: Tensor) -> Tensor:
    """Each channel averaged down to at most SIDE x SIDE pixels. [B, C, H, W] -> float64 [B, features] on the CPU."""
    sides = (min(x.shape[2], SIDE), min(x.shape[3], SIDE))
    return torch.nn.functional.adaptive_avg_pool2d(x.cpu().double(), sides).flatten(1)


def statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [F] and unbiased covariance [F, F] of features [N, F]."""
    return features.mean(0), torch.cov(features.T).reshape(features.shape[1], features.shape[1])
