"""The TAESD family of tiny autoencoders (github.com/madebyollin/taesd): deterministic, RGB in [0, 1], latents f8.

The module is made from the tensors of a published file: the number of its layers, its width and the channels of its
latents are read from them. Layers are named as in the files: `encoder.N.` and `decoder.N.`, N the place in the row.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from scm.errors import UserError

BOUND = 3.0
"""The decoder takes latents as 3 tanh(z / 3)."""
POOL_GROUPS = 4
"""Groups of the group norm in a block with a second branch, as in files of the FLUX.2 generation."""
BRANCHES = ("conv.0.", "conv.2.", "conv.4.")


class ResidualBlock(nn.Module):
    """ReLU(x' + three 3x3 convolutions of x'), x' = x, or x plus a branch of 1x1 convolutions around a group norm."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(_convolution(tensors, name) for name in BRANCHES)
        self.pool = None
        if "pool.0.weight" in tensors:
            norm = nn.GroupNorm(POOL_GROUPS, len(tensors["pool.1.weight"]))
            norm.load_state_dict({key: tensors[f"pool.1.{key}"] for key in ("weight", "bias")})
            ends = (_convolution(tensors, "pool.0."), _convolution(tensors, "pool.3."))
            self.pool = nn.Sequential(ends[0], norm, nn.ReLU(), ends[1])

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.pool is None else x + self.pool(x)
        first, second, third = self.convolutions
        return torch.relu(x + third(torch.relu(second(torch.relu(first(x))))))


class Bounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return BOUND * torch.tanh(x / BOUND)


class TinyAutoencoder(nn.Module):
    """Encoder and decoder of latents with `channels` channels, each latent for `reduction` pixels on a side."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """Makes the layers from tensors under the names of `canonical`; fails as `tiny_autoencoder` expects."""
        super().__init__()
        self.encoder = nn.Sequential(*_encoder(_layers(tensors, "encoder.")))
        self.decoder = nn.Sequential(*_decoder(_layers(tensors, "decoder.")))
        used = sum(parameter.numel() for parameter in self.parameters())
        if used != sum(tensor.numel() for tensor in tensors.values()):
            raise ValueError("it has tensors that this family does not use")
        last, first = self.encoder[-1], self.decoder[1]
        assert isinstance(last, nn.Conv2d) and isinstance(first, nn.Conv2d)
        if last.out_channels != first.in_channels:
            raise ValueError(f"the encoder makes {last.out_channels} channels, the decoder takes {first.in_channels}")
        self.channels = last.out_channels
        halvings = sum(isinstance(layer, nn.Conv2d) and layer.stride == (2, 2) for layer in self.encoder)
        doublings = sum(isinstance(layer, nn.Upsample) for layer in self.decoder)
        if halvings != doublings:
            raise ValueError(f"the encoder halves {halvings} times, the decoder doubles {doublings} times")
        self.reduction = 2**halvings

    def encode(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] to latents [B, C, H / 8, W / 8]."""
        return self.encoder(pixels)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pixels, about [0, 1]."""
        return self.decoder(latents)


def canonical(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of one or two files under `encoder.N.` and `decoder.N.`.

    Args:
        parts: by file name. Two files are the encoder's and the decoder's, as their names say; one holds both, with
            the prefixes already there or as diffusers writes them (`encoder.layers.N`, without the decoder's first
            layer, which has no weights).
    """
    if len(parts) > 1:
        halves = {("encoder." if "encoder" in name else "decoder."): tensors for name, tensors in parts.items()}
        return {f"{half}{name}": tensor for half, tensors in halves.items() for name, tensor in tensors.items()}
    (tensors,) = parts.values()
    renamed = {}
    for name, tensor in tensors.items():
        half, *rest = name.split(".")
        if rest[:1] == ["layers"] and rest[1:2] and rest[1].isdecimal():
            rest = [str(int(rest[1]) + (half == "decoder")), *rest[2:]]
        renamed[".".join([half, *rest])] = tensor
    return renamed


def _layers(tensors: Mapping[str, Tensor], half: str) -> dict[int, dict[str, Tensor]]:
    layers: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(half):
            place, _, rest = name.removeprefix(half).partition(".")
            layers.setdefault(int(place), {})[rest] = tensor
    if not layers:
        raise ValueError(f"it has no tensors of the {half.removesuffix('.')}")
    return dict(sorted(layers.items()))


def _encoder(layers: Mapping[int, Mapping[str, Tensor]]) -> list[nn.Module]:
    """Convolutions without a bias halve the resolution."""
    if list(layers) != list(range(len(layers))):
        raise ValueError("layers of the encoder are missing")
    return [
        ResidualBlock(layer) if "weight" not in layer else _convolution(layer, "", stride=1 if "bias" in layer else 2)
        for layer in layers.values()
    ]


def _decoder(layers: Mapping[int, Mapping[str, Tensor]]) -> list[nn.Module]:
    """Layers of the decoder, the bound at 0, a ReLU at 2, and a doubling before each convolution without a bias."""
    modules: list[nn.Module] = []
    for place in range(max(layers) + 1):
        layer, following = layers.get(place), layers.get(place + 1, {})
        if layer is not None:
            modules.append(_convolution(layer, "") if "weight" in layer else ResidualBlock(layer))
        elif place in (0, 2):
            modules.append(Bounded() if place == 0 else nn.ReLU())
        elif "weight" in following and "bias" not in following:
            modules.append(nn.Upsample(scale_factor=2))
        else:
            raise ValueError(f"layer {place} of the decoder is missing")
    return modules


def _convolution(tensors: Mapping[str, Tensor], name: str, stride: int = 1) -> nn.Conv2d:
    weight, bias = tensors[f"{name}weight"], tensors.get(f"{name}bias")
    out, into, size, _ = weight.shape
    layer = nn.Conv2d(into, out, size, stride=stride, padding=size // 2, bias=bias is not None)
    layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return layer


def tiny_autoencoder(tensors: Mapping[str, Tensor], source: str) -> TinyAutoencoder:
    """The module with these tensors; errors name their `source`."""
    try:
        return TinyAutoencoder(tensors)
    except (KeyError, ValueError, RuntimeError, IndexError) as error:
        what = f"no tiny autoencoder of the TAESD family ({str(error).strip().splitlines()[-1].strip()})"
        raise UserError(f"{source} is {what}: see docs/latents.md") from None
