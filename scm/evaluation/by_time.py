"""The Frechet distance by time: real images are noised to t, and a model brings them back.

A student brings them back as it draws, in one jump from t to 0, or in one jump for each segment below t. A teacher is
sampled from t by Heun's method. What comes out is compared with the real images, and its distance grows with t.

All models get the same images and the same noise, so the gap between two curves is less noisy than the curves. The
distances without each block of images tell how noisy it is. At t = 0 nothing is lost yet: that distance is the floor.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scm import trigflow
from scm.base.project import TEACHER
from scm.base.randomness import generator
from scm.data.shards.loader import LatentLoader
from scm.evaluation.candidates import Figures
from scm.evaluation.frechet import FEWEST_SAMPLES
from scm.evaluation.jackknife import blocks_of
from scm.evaluation.selection import Header, Selection, State
from scm.generation.generate import conditioned
from scm.generation.sampler import Sampler, consistency_sampler
from scm.generation.trained import model_of, own_steps
from scm.results.reading import WITHOUT
from scm.samplers import SampleNoise, heun, jumps

TIMES = (0.3, 0.5, 0.8, 1.1, 1.45)
"""Times that images are noised to, in radians; t_max follows."""
STEPS = (0.1, 0.3, 0.5, 0.8, 1.1, 1.3, 1.45, 1.53)
"""Times through which a teacher goes down from t. On the digits, these 17 evaluations from t_max reach a distance of
9.7, the 35 at the levels of its own sampler 9.5, and 17 at such levels 15."""
SHARE, FEATURES = 4, 2
"""A quarter of the samples that decide a selection are drawn at each time: about 5% of a student's selection. There are
twice as many as features at least, if the selection has them: covariances of fewer images tell little."""


class Noised(SampleNoise):
    """Real images that are noised to t, in place of the noise that a sampler starts from.

    Args:
        x_0: the images, [B, C, H, W].
        t: radians.
        sigma_d: standard deviation of the data.
        seeds: of the noise, one for each image.
    """

    def __init__(self, x_0: Tensor, t: float, sigma_d: float, seeds: Sequence[int]) -> None:
        super().__init__(seeds, x_0.shape[1:], x_0.device)
        self._x_0, self._t = x_0 / sigma_d, torch.full(x_0.shape[:1], t, device=x_0.device)

    def draw(self) -> Tensor:
        """x_t / sigma_d, [B, C, H, W]."""
        return trigflow.interpolate(self._x_0, super().draw(), self._t)


def times_of(header: Mapping[str, Any], t_max: float) -> list[float]:
    """The times that a model can bring images back from; a one-step generator, such as VSD's, knows t_max alone."""
    several = header["model"] == TEACHER or header.keys() & {"segments", "any_steps"} or len(own_steps(header)) > 1
    return [*(t for t in TIMES if several and t < t_max), t_max]


def way_back(header: Mapping[str, Any], t: float) -> Sampler:
    """The sampler that brings `Noised` images back from t, which lies above 0."""
    sigma_d = header["sigma_d"]
    if header["model"] == TEACHER:
        times = [t, *(each for each in reversed(STEPS) if each < t)]
        sigmas = [*(trigflow.sigma_of_time(each, sigma_d) for each in times), 0.0]
        # Heun's method starts from x_t / cos t, which is sigma times x_t / (sigma_d sin t).
        return Sampler(2 * len(times) - 1, lambda function, x: heun(function, x.draw() / math.sin(t), sigmas, sigma_d))
    if "segments" in header:
        length = header["t_max"] / header["segments"]
        starts = [k * length for k in reversed(range(header["segments"])) if k * length < t]
        return Sampler(len(starts), lambda function, x: jumps(function, x, [t, *starts], sigma_d))
    return consistency_sampler([t], sigma_d)


def distances_by_time(
    selection: Selection, latents: Path, state: State, header: Header, t_max: float
) -> Iterator[Figures]:
    """Yields the distance at each time, from the floor at t = 0 on, and those without each block of images.

    Args:
        selection: measures the distances, and keeps them if it is interrupted.
        latents: data/latents, from which images are drawn with replacement.
        state: the weights that were chosen.
        header: their header, with `sampling`; the guidance scale is that of the fewest steps.
        t_max: radians, where sampling starts.
    """
    codec, ranks, features = selection.codec, selection.ranks, selection.reference.extractor.num_features
    count = samples_of(selection.samples, features)
    loader, model = LatentLoader(latents, 0, 1), model_of(state, header, ranks.device)
    codec.check(loader.codec_header, str(latents))
    chosen = torch.randint(loader.count, (count,), generator=generator(0, "by time")).numpy()
    scale = header["sampling"][own_steps(header)[0]]["guidance_scale"]

    def brought_back(t: float) -> Iterator[tuple[slice, Tensor, float]]:
        sampler = way_back(header, t) if t else None
        for start in range(ranks.rank * selection.batch, count, ranks.world * selection.batch):
            rows = slice(start, min(start + selection.batch, count))
            stored, labels = loader.at(chosen[rows])
            named = [generator(0, "latents by time", place) for place in range(rows.start, rows.stop)]
            x_0 = codec.serve(stored, named.__getitem__).to(ranks.device)
            noised = Noised(x_0, t, header["sigma_d"], range(rows.start, rows.stop))
            function = conditioned(model, labels.to(ranks.device), scale)
            yield rows, sampler.run(function, noised) if sampler else x_0, 0.0

    blocks = blocks_of(count)
    for t in (0.0, *times_of(header, t_max)):
        whole, *without = selection.distances(
            header, f"guidance {scale}, {count} images from t {t}", lambda t=t: brought_back(t), count, blocks
        )
        selection.say(f"{count} images noised to t {t:.4g} and brought back: fd {whole:.4g}")
        yield {"t": t, "fd": whole, **{f"{WITHOUT}{block}": each for block, each in enumerate(without)}}


def samples_of(samples: int, features: int) -> int:
    """The number of images at each time, for a selection that draws so many samples."""
    return max(FEWEST_SAMPLES, samples // SHARE, min(samples, FEATURES * features))
