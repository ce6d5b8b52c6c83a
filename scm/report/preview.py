"""A few samples of a model that is being trained, as small images: the same noise and classes at every snapshot.

They come from an average's weights, by the model's own few steps, and every draw is named. So a training has the same
bits with and without them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import functional_call

from scm import methods
from scm.base.project import TEACHER
from scm.base.randomness import seed_of
from scm.data.latents.autoencoders import load_codec
from scm.generation.generate import conditioned
from scm.generation.sampler import Sampler, consistency_sampler, ddim_sampler, multistep_sampler, t_max_of
from scm.networks import Model
from scm.networks.model import evaluating
from scm.params import Params
from scm.samplers import SampleNoise

IMAGES, COLUMNS = 16, 4
"""Samples of a grid, and how many of them stand side by side."""
TEACHER_STEPS = 6
"""DDIM steps of a teacher, of equal length in t: a sketch of what its full sampler draws."""
SIDE = 64
"""Larger images are averaged down to so many pixels on a side."""


class _Averaged:
    """A model that computes with an average's weights and keeps its own."""

    def __init__(self, model: Model, average: Mapping[str, Tensor]) -> None:
        self.settings, self._model, self._average = model.settings, model, dict(average)

    def __call__(self, *inputs: Any, **named: Any) -> Tensor:
        return functional_call(self._model, self._average, inputs, named)


@torch.no_grad()
def drawn(
    params: Params, codec: Path, header: Mapping[str, Any], model: Model, average: Mapping[str, Tensor]
) -> Tensor:
    """uint8 images [IMAGES, C, H, W] with at most SIDE pixels on a side, on the CPU; what is not finite is grey.

    Args:
        codec: data/codec, which decodes the samples.
        header: describes the model and how it is sampled.
        model: keeps its own weights and mode.
        average: by the names of the model's parameters.

    Raises:
        UserError: the codec is missing, or another one than the training's.
    """
    device = next(iter(average.values())).device
    labels = _labels(len(header["classes"])).to(device)
    seeds = [seed_of(params.seed, "progress page", index) for index in range(IMAGES)]
    noise = SampleNoise(seeds, header["codec"]["shape"], device)
    with evaluating(model), torch.compiler.set_stance("force_eager"):
        function = conditioned(cast(Model, _Averaged(model, average)), labels, _scale(header))
        samples = sampler_of(params, header)[0].run(function, noise).nan_to_num(posinf=0.0, neginf=0.0)
    decoder = load_codec(codec, device)
    decoder.check(dict(header["codec"]), "this training's data", str(codec))
    # One image at a time: an autoencoder may need more memory than the training has left.
    return torch.cat([_small(decoder.decode(sample[None])).cpu() for sample in samples])


def sampler_of(params: Params, header: Mapping[str, Any]) -> tuple[Sampler, str]:
    """The sampler of these samples, and what it does in words.

    A student takes its most steps; the time of a second step, which selection has yet to choose, is the middle one of
    its candidates.
    """
    sigma_d, name = header["sigma_d"], header["model"]
    t_max = t_max_of(params.sampler.sigma_max, sigma_d)
    guided = f", guidance {_scale(header):g}" if "guidance" in header else ""
    if name == TEACHER:
        times = [t_max * (1 - step / TEACHER_STEPS) for step in range(TEACHER_STEPS + 1)]
        return ddim_sampler(times, sigma_d), f"{TEACHER_STEPS} DDIM steps"
    jumps = max(params.evaluate.flow_map_steps) if "any_steps" in header else header.get("segments")
    if jumps is not None:
        return multistep_sampler(jumps, t_max, sigma_d), f"{jumps} step{'s' if jumps > 1 else ''}{guided}"
    if not methods.find(name).two_steps:
        return consistency_sampler([t_max], sigma_d), f"1 step{guided}"
    middle = sorted(params.select.t_mid)[len(params.select.t_mid) // 2]
    return consistency_sampler([t_max, middle], sigma_d), f"2 steps, t_mid {middle:g}{guided}"


def _scale(header: Mapping[str, Any]) -> float:
    """The smallest guidance scale that a student learns, at which its distance is probed as well."""
    return header.get("guidance", (1.0,))[0]


def _labels(classes: int) -> Tensor:
    """Classes in turn, or evenly chosen ones if there are more than images; -1 without classes. int64 [IMAGES]."""
    places = torch.arange(IMAGES)
    if not classes:
        return torch.full_like(places, -1)
    return places % classes if classes <= IMAGES else places * classes // IMAGES


def _small(images: Tensor) -> Tensor:
    """uint8 [N, C, H, W] with at most SIDE pixels on a side."""
    if images.shape[-1] <= SIDE:
        return images
    return torch.nn.functional.adaptive_avg_pool2d(images.float(), SIDE).round().to(torch.uint8)
