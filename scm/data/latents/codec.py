"""Codecs: images to what the networks are trained on, latents or pixels of standard deviation sigma_d, and back.

A codec is an autoencoder (pixels <-> latents) and a normalisation per channel. Its header describes both in JSON and
travels with shards and models, so that mixing two codecs is detected. Serving x_0 needs the
header alone; the autoencoder's weights (scm.data.latents.autoencoders) are needed to encode and to decode.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol, TypedDict

import torch

from scm.base.forms import Positive, Rule, Whole, require
from scm.errors import UserError

NAMES = ("identity", "sd_vae", "edm2_sd_vae", "tae")
RANDOM = ("sd_vae", "edm2_sd_vae")
"""Codecs that encode an image as a distribution: a mean and a standard deviation for each latent number."""

PUBLISHED = {
    "sd_vae": ([1.56, -0.695, 0.483, 0.729], [5.27, 5.91, 4.21, 4.31]),
    "edm2_sd_vae": ([5.81, 3.25, 0.12, -2.15], [4.17, 4.62, 3.71, 3.28]),
}
"""Mean and standard deviation of each channel of sd-vae-ft-mse's latents of ImageNet 512, for pixels in [-1, 1]
(arXiv 2410.11081, app. G) and for pixels in [0, 1] (EDM2)."""
PLACE = "data/codec/header.json"
FITTING = "run `scm run`, or use the data and codec that it was trained with"
"""Remedy for a model of another codec."""
DECODED = 2**22
"""Pixels decoded at a time, at least one image; bounds the memory."""

SERVED = 2**16
"""Numbers of x_0 computed at a time, at least one image; they fit into a core's cache."""


class Pretrained(TypedDict):
    """The autoencoder of a header."""

    sha256: list[str]
    config: dict[str, Any]
    precision: Literal["fp32", "bf16", "fp16"]


class _Header(TypedDict):
    name: Literal["identity", "sd_vae", "edm2_sd_vae", "tae"]
    autoencoder: Pretrained | None
    normalize: Literal["none", "paper", "measured"]
    mean: list[float]
    std: list[Positive]
    sigma_d: Positive
    shape: tuple[Whole, Whole, Whole]


HEADER_KEYS = frozenset(_Header.__annotations__)
CodecHeader: Any = Annotated[
    _Header,
    Rule(lambda header: header.keys() == HEADER_KEYS, f"has other keys than {', '.join(sorted(HEADER_KEYS))}"),
    Rule(lambda header: len(header["mean"]) == len(header["std"]) == header["shape"][0], "has not one mean a channel"),
    Rule(lambda header: (header["name"] == "identity") == (header["autoencoder"] is None), "has the wrong autoencoder"),
]


class Autoencoder(Protocol):
    """An autoencoder of B images of C channels and their latents of L channels."""

    def store(self, images: torch.Tensor) -> torch.Tensor:
        """Encodes uint8 [B, C, H, W] to latents [B, L, h, w], or to their means and deviations [B, 2 L, h, w]."""
        ...

    def pixels(self, latents: torch.Tensor) -> torch.Tensor:
        """Decodes float32 [B, L, h, w] to float32 pixels in [-1, 1]."""
        ...


class Codec:
    """x_0 = (latents - mean) / std * sigma_d, and back. Make the header with `plain_header` and `normalized`.

    Args:
        autoencoder: encodes and decodes; None for identity, or if x_0 is only served.

    Raises:
        UserError: the name is unknown or the header incomplete.
    """

    def __init__(self, header: dict[str, Any], autoencoder: Autoencoder | None = None) -> None:
        self.header = require(header, CodecHeader, "codec header", "run `scm run encode` again")
        self._autoencoder = autoencoder
        self._mean = torch.tensor(header["mean"], dtype=torch.float32).view(-1, 1, 1)
        self._scale = (header["sigma_d"] / torch.tensor(header["std"], dtype=torch.float64)).float().view(-1, 1, 1)

    @property
    def _loaded(self) -> Autoencoder:
        if self._autoencoder is None:
            raise RuntimeError(f"a codec {self.header['name']} without weights can only serve: use load_codec")
        return self._autoencoder

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Encodes uint8 [B, C, H, W] to what is stored, [B, ...]: the pixels themselves, or float32."""
        return images if self.header["name"] == "identity" else self._loaded.store(images)

    def moments(self, stored: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mean and standard deviation (None = 0) of stored latents, float32 [B, C, H, W] each."""
        if self.header["name"] == "identity":
            return stored.float() / 127.5 - 1, None
        if self.header["name"] in RANDOM:
            mean, deviation = stored.float().chunk(2, dim=1)
            return mean, deviation
        return stored.float(), None

    def serve(self, stored: torch.Tensor, named: Callable[[int], torch.Generator] | None = None) -> torch.Tensor:
        """Turns what is stored into x_0, float32 [B, C, H, W].

        Args:
            named: returns the generator that draws the latents of the image at a place in the batch; needed if latents
                are distributions. Each image has its own, so that its latents do not depend on the batch.
        """
        shift, scale = self._mean.to(stored.device), self._scale.to(stored.device)
        if self.header["name"] not in RANDOM:
            latents, _ = self.moments(stored)
            return (latents - shift) * scale
        if named is None:
            raise ValueError(f"the codec {self.header['name']} draws its latents, and needs generators")
        draws = torch.empty(len(stored), stored.shape[1] // 2, *stored.shape[2:])
        for place, image in enumerate(draws):
            image.normal_(generator=named(place))
        x = draws.to(stored.device)
        # Part by part, in place: a part stays in the processor's cache from the first operation to the last.
        images = max(1, SERVED // max(1, x[:1].numel()))
        for part, kept in zip(x.split(images), stored.split(images), strict=True):
            mean, deviation = kept.float().chunk(2, dim=1)
            part.mul_(deviation).add_(mean).sub_(shift).mul_(scale)
        return x

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        """Decodes x_0 or samples, float [B, C, H, W], to uint8 images [B, C, H, W]; values out of range are clipped."""
        latents = x.float() / self._scale.to(x.device) + self._mean.to(x.device)
        if self.header["name"] == "identity":
            return _levels(latents)
        loaded, pixels = self._loaded, LATENT_REDUCTION**2 * latents.shape[-2] * latents.shape[-1]
        parts = latents.split(max(1, DECODED // pixels))
        return torch.cat([_levels(loaded.pixels(part)).to(x.device) for part in parts])

    def check(self, header: dict[str, Any], owner: str, place: str = PLACE, remedy: str = FITTING) -> None:
        """Refuses the model `owner` if it was trained with another codec, whose header is given.

        Args:
            place: of this codec's header.
        """
        different = [key for key in sorted(HEADER_KEYS) if header.get(key) != self.header[key]]
        if different:
            told = ", ".join(different)
            raise UserError(f"{owner} was made with another codec than {place} holds ({told} differ): {remedy}")


LATENT_REDUCTION = 8
"""Pixels on a side for one latent, in every autoencoder here."""


def _levels(pixels: torch.Tensor) -> torch.Tensor:
    """Rounds pixels in [-1, 1] to uint8."""
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def plain_header(
    name: str, sigma_d: float, shape: list[int], autoencoder: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The header of a codec that leaves the latents as they are (x_0 = latents).

    Args:
        shape: [C, H, W] of the latents.
        autoencoder: its `description`, i.e. hashes, configuration and precision; None = pixels.
    """
    channels = shape[0]
    return {
        "name": name,
        "autoencoder": autoencoder,
        "normalize": "none",
        "mean": [0.0] * channels,
        "std": [float(sigma_d)] * channels,
        "sigma_d": float(sigma_d),
        "shape": list(shape),
    }


@dataclass
class ChannelStatistics:
    """Mean and variance of each channel of the latents over all images, merged part by part in float64.

    Attributes:
        count: numbers of one channel so far.
        mean: [C].
        squares: sum of the squared deviations from the mean, and of the variances of the latents themselves, [C].
    """

    count: int = 0
    mean: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    squares: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def add(self, mean: torch.Tensor, deviation: torch.Tensor | None) -> None:
        """Adds images whose latents have these moments: Var[z] = Var[mean] + E[deviation^2]."""
        values = mean.double().movedim(1, 0).flatten(1)
        centre = values.mean(1)
        squares = (values - centre[:, None]).square().sum(1)
        if deviation is not None:
            squares = squares + deviation.double().square().movedim(1, 0).flatten(1).sum(1)
        self.merge(ChannelStatistics(values.shape[1], centre, squares))

    def merge(self, other: "ChannelStatistics") -> None:
        shift, total = other.mean - self.mean, self.count + other.count
        self.squares = self.squares + other.squares + shift.square() * (self.count * other.count / total)
        self.mean, self.count = self.mean + shift * (other.count / total), total

    @property
    def std(self) -> list[float]:
        return [math.sqrt(value / self.count) for value in self.squares.tolist()]

    def to_dict(self) -> dict[str, Any]:
        """Plain values that survive JSON exactly."""
        return {"count": self.count, "mean": self.mean.tolist(), "squares": self.squares.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ChannelStatistics":
        mean, squares = (torch.tensor(values[key], dtype=torch.float64) for key in ("mean", "squares"))
        return cls(values["count"], mean, squares)


def normalized(plain: dict[str, Any], normalize: str, measured: ChannelStatistics) -> dict[str, Any]:
    """The header of a codec that normalises each channel of x_0 to mean 0 and standard deviation sigma_d.

    Args:
        plain: what `plain_header` returned.
        normalize: `measured`, by the statistics of all images; `paper`, by the published constants; or `none`.

    Raises:
        UserError: a channel has the same value everywhere.
    """
    if normalize == "none":
        return plain
    if normalize == "paper":
        mean, std = PUBLISHED[plain["name"]]
        return {**plain, "normalize": "paper", "mean": list(mean), "std": list(std)}
    for channel, value in enumerate(measured.std):
        if value < 1e-6:
            raise UserError(
                f"channel {channel} is {measured.mean[channel]:.4g} in every image, so it has no scale to measure: "
                "set codec.normalize: none, or data.channels: 1"
            )
    return {**plain, "normalize": "measured", "mean": measured.mean.tolist(), "std": measured.std}
