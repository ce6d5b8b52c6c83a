"""A model's whole way from noise to pixels as one module without control flow, which torch.export and ONNX take."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from scm.base.project import TEACHER
from scm.data.latents.autoencoders import ZERO_TO_ONE
from scm.data.latents.codec import Codec
from scm.errors import UserError
from scm.generation import trained
from scm.generation.generate import conditioned
from scm.generation.loaded import LoadedModel
from scm.networks import Model
from scm.networks.magnitude import fix_weights

CLASS = "class"


class Given:
    """Noise that is given, for a sampler that draws it (as `scm.samplers.SampleNoise` has it)."""

    def __init__(self, draws: Iterable[Tensor]) -> None:
        self._draws = iter(draws)

    def draw(self) -> Tensor:
        return next(self._draws)


class Decoder(nn.Module):
    """Samples [B, C, H, W] with standard deviation sigma_d to float32 pixels in [-1, 1], of any batch at once."""

    mean: Tensor
    scale: Tensor

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        header: dict[str, Any] = codec.header
        scale = (header["sigma_d"] / torch.tensor(header["std"], dtype=torch.float64)).float()
        self.register_buffer("mean", torch.tensor(header["mean"], dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("scale", scale.view(-1, 1, 1))
        self.zero_to_one = header["name"] in ZERO_TO_ONE
        self.autoencoder = autoencoder_of(codec)

    def forward(self, samples: Tensor) -> Tensor:
        latents = samples.float() / self.scale + self.mean
        if self.autoencoder is None:
            return latents
        pixels = self.autoencoder.decode(latents)
        return 2 * pixels - 1 if self.zero_to_one else pixels


def autoencoder_of(codec: Codec) -> Any:
    """A copy of the codec's autoencoder in float32, as a module with a method `decode`; None for pixels.

    The codec keeps it to itself; every training follows from the codec's files, so an export is no reason to open them.
    """
    autoencoder: Any = codec._autoencoder
    return None if autoencoder is None else copy.deepcopy(autoencoder._module).float()


def network_of(loaded: LoadedModel) -> Model:
    """A copy of a student's network that computes in float32, with its weights normalised once and for all."""
    if loaded.name == TEACHER:
        raise UserError("--model teacher: only a student's few steps are exported; `--to package` takes a teacher too")
    network = copy.deepcopy(loaded.network)
    network.precision = torch.float32
    fix_weights(network)
    return network


class Graph(nn.Module):
    """Noise and classes in, images out; the sampler's steps are unrolled.

    Args:
        loaded: a student on the CPU.
        steps: sampling steps.
        guidance: guidance scale; None = the one chosen for these steps.
        rounded: the images are uint8; else float32 pixels in [-1, 1], neither rounded nor clipped.

    Attributes:
        inputs: names of the inputs, in their order: the noise of each draw, and the class if the model has classes.
    """

    def __init__(self, loaded: LoadedModel, steps: int, guidance: float | None = None, rounded: bool = True) -> None:
        super().__init__()
        self.network, self.decoder, self.rounded = network_of(loaded), Decoder(loaded.codec), rounded
        self.sampler = trained.sampler_of(loaded.header, steps, loaded.levels)
        self.guidance = trained.scale_of(loaded.header, steps, guidance)
        self.steps, self.shape, self.conditional = steps, loaded.shape, bool(loaded.classes)
        draws = 1 if loaded.header.keys() & {"segments", "any_steps"} else steps
        noise = ["noise", *(f"noise_{number}" for number in range(2, draws + 1))]
        self.inputs = [*noise, CLASS] if self.conditional else noise

    def examples(self, count: int) -> tuple[Tensor, ...]:
        """Inputs of the right shapes: noise [count, C, H, W] for each draw, and classes, int64 [count]."""
        classes = torch.zeros(count, dtype=torch.int64)
        return tuple(classes if name == CLASS else torch.zeros(count, *self.shape) for name in self.inputs)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Images [B, C, H, W] for inputs in the order of `inputs`; noise is standard normal."""
        first = inputs[0]
        labels = inputs[-1] if self.conditional else torch.full(first.shape[:1], -1, device=first.device)
        noise: Any = Given(inputs)
        pixels = self.decoder(self.sampler.run(conditioned(self.network, labels, self.guidance), noise))
        return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8) if self.rounded else pixels
