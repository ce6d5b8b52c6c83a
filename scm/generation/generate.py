"""Draws samples from a model in batches, one for each seed and label."""

import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from scm.errors import UserError
from scm.generation.sampler import Sampler
from scm.networks import Model
from scm.samplers import SampleNoise, guided


def asked_labels(real: Tensor, count: int) -> Tensor:
    """Labels for `count` samples in the proportions of the real images' labels [N], in any order. int64 [count]."""
    return real.sort().values[torch.arange(count) * len(real) // count]


def conditioned(model: Model, labels: Tensor, guidance: float) -> Callable[..., Tensor]:
    """F(x, t[, segment]) for these labels: the guidance scale is an input of a student; a teacher is guided by it.

    A network that takes the segment is asked for the jump to the data, to time 0, if the sampler names no other.

    Args:
        labels: int64 [B], -1 = no label; or rows, float [B, classes].
    """
    scale = torch.full(labels.shape[:1], guidance, device=labels.device)

    def function(x: Tensor, t: Tensor, segment: Tensor | None = None) -> Tensor:
        if segment is None and model.settings.segments:
            segment = torch.zeros_like(t)
        if model.settings.guidance:
            return model(x, t, labels, guidance=scale, segment=segment)
        if guidance == 1:
            return model(x, t, labels, segment=segment)
        return guided(model, x, t, labels, scale)

    return function


def batches(
    model: Model,
    sampler: Sampler,
    seeds: Sequence[int],
    labels: Tensor,
    shape: Sequence[int],
    batch: int,
    device: torch.device | str,
    guidance: float = 1.0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[tuple[slice, Tensor, float]]:
    """Draws samples for N seeds and labels, one batch at a time; each of `world` processes draws every world-th batch.

    Args:
        seeds: N seeds.
        labels: int64 [N], -1 = no label.
        shape: shape of one sample, [C, H, W].
        guidance: scale s (see `conditioned`).
        rank: number of this process, from 0 to world - 1.

    Yields:
        The batch's slice of the N; samples [B, C, H, W] on the device with standard deviation sigma_d; the seconds
        that network and sampler took.
    """
    model.eval()
    for start in range(rank * batch, len(seeds), world * batch):
        rows, started = slice(start, start + batch), time.perf_counter()
        some = labels[rows].to(device)
        samples = sampler.run(conditioned(model, some, guidance), SampleNoise(seeds[rows], shape, device))
        if samples.is_cuda:  # the GPU computes asynchronously
            torch.cuda.synchronize(samples.device)
        yield rows, samples, time.perf_counter() - started


def require_finite(bad: int, count: int) -> None:
    """Raises a UserError if `bad` of `count` samples are not finite."""
    if bad:
        raise UserError(f"{bad} of {count} samples are not finite: the training diverged; see its curves, lower lr.max")


def count_bad(samples: Tensor) -> int:
    """The number of samples [N, C, H, W] that are not finite."""
    return int((~samples.flatten(1).isfinite().all(dim=1)).sum())


def generate(
    model: Model,
    sampler: Sampler,
    seeds: Sequence[int],
    labels: Tensor,
    shape: Sequence[int],
    batch: int,
    device: torch.device | str,
    guidance: float = 1.0,
) -> tuple[Tensor, float]:
    """Draws samples for N seeds and labels; each depends on its own seed and label, not on the batch.

    The arguments are those of `batches`.

    Returns:
        Samples [N, C, H, W] on the CPU with standard deviation sigma_d, and the seconds that it took.

    Raises:
        UserError: a sample is not finite.
    """
    parts, seconds = [], 0.0
    for _, some, taken in batches(model, sampler, seeds, labels, shape, batch, device, guidance):
        parts.append(some.cpu())
        seconds += taken
    samples = torch.cat(parts)
    require_finite(count_bad(samples), len(seeds))
    return samples, seconds
