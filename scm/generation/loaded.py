"""A finished model as Python programs use it: it draws images, and it denoises.

`scm.load` makes one, and `scm sample` draws with it, so both give the same images.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from scm import trigflow
from scm.data.latents.codec import LATENT_REDUCTION, Codec
from scm.errors import UserError
from scm.generation import trained
from scm.generation.classes import class_numbers
from scm.generation.generate import conditioned, generate
from scm.generation.grids import grid, scale_for
from scm.networks import Model

BATCH = 256
"""Images that are drawn at a time."""
MOST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Images:
    """Images as they were drawn, and how.

    Attributes:
        tensor: uint8 [N, C, H, W] on the CPU, C = 1 or 3.
        classes: the name of each image's class; empty for a model without classes.
        seeds: the seed of each image.
        steps: sampling steps.
        guidance: guidance scale.
        evaluations: network evaluations for each image.
        seconds: time that network and sampler took for all images.
    """

    tensor: Tensor
    classes: tuple[str, ...]
    seeds: range
    steps: int
    guidance: float
    evaluations: int
    seconds: float

    def __len__(self) -> int:
        return len(self.tensor)

    def pil(self) -> list[Image.Image]:
        """The images as PIL's, of mode L (grey) or RGB."""
        return [Image.fromarray(image.squeeze(2).numpy()) for image in self.tensor.permute(0, 2, 3, 1).contiguous()]

    def grid(self, columns: int | None = None) -> Image.Image:
        """One picture of all images, in rows; it is about square unless `columns` is given."""
        columns = columns or max(1, round(len(self) ** 0.5))
        return grid(self.tensor, min(columns, len(self)), scale_for(self.tensor.shape[-1]))


class LoadedModel:
    """A finished model on a device.

    Attributes:
        name: teacher, or a student's method such as scd.
        classes: names of the classes; empty for a model without classes.
        network: F(x / sigma_d, t, labels), in eval mode; its weights take no gradient.
        header: all that sampling depends on (`scm.generation.trained.ModelHeader`), with `sampling`.
        codec: decodes samples to pixels.
        levels: noise levels of a teacher's sampler.
        default_steps: steps for drawings that name no number.
        commit: commit of the run that chose the weights, or "unknown".
        card: the model's card in Markdown, if it came with one.
    """

    def __init__(
        self,
        network: Model,
        header: Mapping[str, Any],
        codec: Codec,
        levels: trained.NoiseLevels,
        default_steps: int,
        commit: str = "unknown",
        card: str = "",
    ) -> None:
        self.network, self.header, self.codec = network.requires_grad_(False), header, codec
        self.levels, self.default_steps, self.commit, self.card = levels, default_steps, commit, card
        self.name, self.classes = str(header["model"]), tuple(header["classes"])

    def __repr__(self) -> str:
        kind = f"{len(self.classes)} classes, {self.resolution} x {self.resolution} pixels"
        return f"<LoadedModel {self.name}: {kind}, steps {', '.join(map(str, self.steps))}, on {self.device}>"

    @property
    def steps(self) -> tuple[int, ...]:
        """Numbers of steps that selection has chosen a way to sample for, fewest first."""
        return trained.own_steps(self.header)

    @property
    def resolution(self) -> int:
        """Pixels on a side of an image."""
        pixels = int(self.codec.header["shape"][-1])
        return pixels if self.codec.header["autoencoder"] is None else pixels * LATENT_REDUCTION

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape [C, H, W] of a sample before it is decoded, which `denoise` takes."""
        return tuple(self.codec.header["shape"])

    @property
    def guidance(self) -> tuple[float, float] | None:
        """Smallest and largest guidance scale that the model takes; None = it takes none."""
        if limits := self.header.get("guidance"):
            return float(limits[0]), float(limits[1])
        return (0.0, math.inf) if trained.can_be_guided(self.header) else None

    @property
    def sigma_d(self) -> float:
        """Standard deviation of the data that `denoise` takes and gives."""
        return float(self.header["sigma_d"])

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def sample(
        self,
        classes: Sequence[int | str] | None = None,
        *,
        steps: int | None = None,
        seed: int = 0,
        count: int | None = None,
        guidance: float | None = None,
    ) -> Images:
        """Draws images, bit for bit those of `scm sample` for the same classes, steps, seed, count and guidance.

        Args:
            classes: names or numbers, which take turns; None = all of them.
            steps: sampling steps; None = a student's most, or those that a teacher was measured with.
            seed: seed of the first image; image i has seed + i.
            count: number of images; None = one for each class.
            guidance: guidance scale; None = the one chosen for these steps.

        Raises:
            UserError: the model cannot do that, or a sample is not finite.
        """
        steps = self.default_steps if steps is None else _whole("steps", steps, 1)
        labels = self._numbers(classes)
        count = len(labels) if count is None else _whole("count", count, 1)
        if not 0 <= _whole("seed", seed, 0) <= MOST_SEED - count:
            raise UserError(f"seed {seed}: must be between 0 and 2^63 - 1 less the number of images")
        sampler = trained.sampler_of(self.header, steps, self.levels, "steps")
        scale = self._scale(steps, guidance)
        chosen, seeds = [labels[i % len(labels)] for i in range(count)], range(seed, seed + count)
        shape, device = self.codec.header["shape"], self.device
        samples, seconds = generate(self.network, sampler, seeds, torch.tensor(chosen), shape, BATCH, device, scale)
        named = tuple(self.classes[label] for label in chosen if label >= 0)
        evaluations = sampler.nfe * trained.evaluations_per_call(self.header, scale)
        return Images(self.codec.decode(samples), named, seeds, steps, scale, evaluations, seconds)

    def denoise(
        self,
        x: Tensor,
        t: Tensor | float,
        classes: Sequence[int | str] | None = None,
        *,
        guidance: float | None = None,
    ) -> Tensor:
        """f(x_t, t) = cos t x_t - sin t sigma_d F(x_t / sigma_d, t) (eq. 5), which a gradient in x passes.

        A student's f is its consistency function, an image of one step; a teacher's is its denoiser, E[x_0 | x_t].

        Args:
            x: x_t = cos t x_0 + sin t z, [B, *shape], where x_0 and z have the standard deviation `sigma_d`.
            t: radians, above 0 (data) and up to pi / 2 (noise); one for all samples, or [B].
            classes: names or numbers, one for each sample or one for all; None = without label.
            guidance: guidance scale; None = the one chosen for the fewest steps.

        Returns:
            [B, *shape] in x's type, on the model's device.
        """
        x = x.to(self.device)
        if tuple(x.shape[1:]) != self.shape or x.ndim != 4 or not x.is_floating_point():
            raise UserError(f"x is {x.dtype} {list(x.shape)}: must be float [B, {', '.join(map(str, self.shape))}]")
        times = self._times(t, len(x)).to(x)
        function = conditioned(self.network, self._labels(classes, len(x)), self._scale(self.steps[0], guidance))
        return trigflow.denoise(x, times, function(x / self.sigma_d, times), self.sigma_d)

    def _numbers(self, classes: Sequence[int | str] | None) -> list[int]:
        """Numbers of classes, of all of them for None; [-1] for a model without classes."""
        if classes is not None and (isinstance(classes, str) or not classes):
            raise UserError(f"classes {classes!r}: must be a list of names or numbers, such as [3, 7]")
        asked = None if classes is None else list(map(self._named, classes))
        return class_numbers(asked, self.classes, "classes")

    def _named(self, asked: int | str) -> str:
        """The name of a class by its number; what is no number of a class stays as it is, to be found or refused."""
        return self.classes[asked] if isinstance(asked, int) and 0 <= asked < len(self.classes) else str(asked)

    def _scale(self, steps: int, asked: float | None) -> float:
        if asked is None:
            return trained.choice_of(self.header, steps)["guidance_scale"]
        trained.require_scale(self.header, asked, "guidance")
        return float(asked)

    def _times(self, t: Tensor | float, count: int) -> Tensor:
        times = torch.as_tensor(t, dtype=torch.float64)
        if times.ndim > 1 or (times.ndim == 1 and len(times) != count):
            raise UserError(f"t is {list(times.shape)}: must be a number, or one for each of {count} samples")
        # A student of several segments jumps to a segment's start, which is the data in the first one alone.
        segments = self.header.get("segments", 1)
        most = self.header["t_max"] / segments if segments > 1 else math.pi / 2
        bad = times[~((times > 0) & (times <= most + 1e-6))]
        if len(bad):
            known = f"{self.name} has its way to the data" if segments > 1 else "must lie"
            raise UserError(f"t {float(bad[0]):g}: {known} above 0 and up to {most:.4f}")
        return times.expand(count)

    def _labels(self, classes: Sequence[int | str] | None, count: int) -> Tensor:
        if classes is None:
            if self.classes and not self.header.get("label_dropout"):
                raise UserError(f"classes: {self.name} was not trained without labels; name one for each sample")
            return torch.full((count,), -1, device=self.device)
        numbers = self._numbers(classes)
        if len(numbers) not in (1, count):
            raise UserError(f"classes: {len(numbers)} for {count} samples; name one for each, or one for all")
        return torch.tensor(numbers, device=self.device).expand(count)


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name} {value!r}: must be a whole number from {least} on")
    return value
