"""What the networks are trained on: an autoencoder's latents, or the pixels, brought to standard deviation sigma_d.

A codec is an autoencoder (pixels <-> latents, one class for each name) and a normalisation per channel. Its header says
all of it in JSON and travels with shards and models, so that data and weights of two codecs are never mixed unseen.
"""

import math
from collections.abc import Iterable
from typing import Any, Protocol

import torch

from scm.errors import UserError

HEADER_KEYS = frozenset({"name", "normalize", "mean", "std", "sigma_d", "shape"})


class Autoencoder(Protocol):
    """Pixels to what is stored, what is stored to latents, latents to pixels. B images, C channels of latents."""

    def store(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B, C, H, W] to what the latent shards hold for each image."""
        ...

    def latents(self, stored: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """What was stored to float32 latents; a generator draws what the autoencoder leaves to chance."""
        ...

    def pixels(self, latents: torch.Tensor) -> torch.Tensor:
        """Float latents to float pixels in [-1, 1]."""
        ...


class Identity:
    """The pixels themselves; as latents they lie in [-1, 1]."""

    def store(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def latents(self, stored: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        return stored.float() / 127.5 - 1

    def pixels(self, latents: torch.Tensor) -> torch.Tensor:
        return latents


AUTOENCODERS: dict[str, type[Autoencoder]] = {"identity": Identity}


def require_built(name: str) -> None:
    """Refuses an autoencoder that presets name and nothing here makes."""
    if name not in AUTOENCODERS:
        built = " or ".join(AUTOENCODERS)
        raise UserError(f"params.yaml: codec.name = {name}: this autoencoder is not built yet; use {built}")


class Codec:
    """x_0 = (latents - mean) / std * sigma_d, and back. Make the header with `plain_header` and `measured_header`.

    Raises:
        UserError: the name is unknown or the header incomplete.
    """

    def __init__(self, header: dict[str, Any]) -> None:
        if set(header) != HEADER_KEYS:
            different = ", ".join(sorted(set(header) ^ HEADER_KEYS))
            raise UserError(f"codec header: {different} missing or unknown: run `dvc repro encode` again")
        if header["name"] not in AUTOENCODERS:
            raise UserError(f"codec.name: {header['name']} is unknown: use one of {', '.join(AUTOENCODERS)}")
        self.header = header
        self._autoencoder = AUTOENCODERS[header["name"]]()
        self._mean = torch.tensor(header["mean"], dtype=torch.float32).view(-1, 1, 1)
        self._scale = (header["sigma_d"] / torch.tensor(header["std"], dtype=torch.float64)).float().view(-1, 1, 1)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B, C, H, W] to what is stored, [B, ...]."""
        return self._autoencoder.store(images)

    def serve(self, stored: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """What is stored to x_0, float32 [B, C, H, W]; a codec without chance (identity) needs no generator."""
        latents = self._autoencoder.latents(stored, generator)
        return (latents - self._mean.to(latents.device)) * self._scale.to(latents.device)

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        """x_0 or samples, float [B, C, H, W], to uint8 images [B, C, H, W]; values outside are cut off."""
        latents = x.float() / self._scale.to(x.device) + self._mean.to(x.device)
        return ((self._autoencoder.pixels(latents) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def plain_header(name: str, sigma_d: float, shape: list[int]) -> dict[str, Any]:
    """The header of a codec that leaves the latents as they are (x_0 = latents). `shape`: [C, H, W] of the latents."""
    channels = shape[0]
    return {
        "name": name,
        "normalize": "none",
        "mean": [0.0] * channels,
        "std": [float(sigma_d)] * channels,
        "sigma_d": float(sigma_d),
        "shape": list(shape),
    }


def measured_header(plain: dict[str, Any], batches: Iterable[torch.Tensor]) -> dict[str, Any]:
    """The header of a codec that brings each channel of x_0 to mean 0 and standard deviation sigma_d over all images.

    Args:
        plain: what `plain_header` gave.
        batches: all images in order, uint8 [B, C, H, W]; sums are float64 and merged batch by batch.

    Raises:
        UserError: a channel has the same value everywhere.
    """
    codec = Codec(plain)
    count, mean, squares = 0, torch.zeros(plain["shape"][0], dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for images in batches:
        values = codec.serve(codec.encode(images)).double().movedim(1, 0).flatten(1)
        added, new_mean = values.shape[1], values.mean(1)
        shift, total = new_mean - mean, count + values.shape[1]
        squares = squares + (values - new_mean[:, None]).square().sum(1) + shift.square() * (count * added / total)
        mean, count = mean + shift * (added / total), total
    std = [math.sqrt(value / count) for value in squares.tolist()]
    for channel, value in enumerate(std):
        if value < 1e-6:
            raise UserError(
                f"channel {channel} is {mean[channel]:.4g} in every image, so it has no scale to measure: "
                "set codec.normalize: none, or data.channels: 1"
            )
    return {**plain, "normalize": "measured", "mean": mean.tolist(), "std": std}
