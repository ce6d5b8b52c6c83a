"""Draws samples between samples: at any fraction of the way from one seed and class to another."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scm.generation.generate import conditioned, count_bad, require_finite
from scm.generation.sampler import Sampler
from scm.networks import Model
from scm.samplers.interpolation import NoiseBetween, class_rows


@dataclass(frozen=True)
class Place:
    """A place on the way from one sample to another; at fraction 0 it is the first one itself."""

    seed: int
    label: int  # -1 = no label
    to_seed: int
    to_label: int
    fraction: float


def closed_path(seeds: Sequence[int], labels: Sequence[int], frames: int) -> list[Place]:
    """`frames` places from each sample to the next one, and from the last one back to the first."""
    ends = list(zip(seeds, labels, strict=True))
    return [
        Place(*start, *end, step / frames)
        for start, end in zip(ends, [*ends[1:], ends[0]], strict=True)
        for step in range(frames)
    ]


def generate_between(
    model: Model,
    sampler: Sampler,
    places: Sequence[Place],
    shape: Sequence[int],
    batch: int,
    device: torch.device | str,
    guidance: float = 1.0,
) -> Tensor:
    """Draws the samples at these places, [N, C, H, W] on the CPU; see `scm.generation.generate.generate`."""
    model.eval()
    parts = []
    for start in range(0, len(places), batch):
        some = places[start : start + batch]
        seeds, ends, fractions = zip(*((each.seed, each.to_seed, each.fraction) for each in some), strict=True)
        first, second = (torch.tensor(labels) for labels in zip(*((e.label, e.to_label) for e in some), strict=True))
        rows = class_rows(first, second, fractions, model.settings.classes).to(device)
        noise = NoiseBetween(seeds, ends, fractions, shape, device)
        parts.append(sampler.run(conditioned(model, rows, guidance), noise).cpu())
    samples = torch.cat(parts)
    require_finite(count_bad(samples), len(samples))
    return samples
