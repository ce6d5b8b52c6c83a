"""Autoencoders, read from published files, and kept in data/codec.

Weight files are untrusted: safetensors, or state dicts of plain tensors that are read without running their code.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scm.base import weights
from scm.base.documents import DAMAGED_RESULT, MISSING_RESULT, read_json
from scm.base.files import replacing_folder, sha256, write_json
from scm.base.precision import DTYPES
from scm.data.latents import autoencoder_kl, autoencoder_tiny
from scm.data.latents.codec import LATENT_REDUCTION, RANDOM, Codec, CodecHeader
from scm.errors import UserError

HEADER, WEIGHTS, CONFIG = "header.json", "autoencoder.safetensors", "config.json"
KL_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
ZERO_TO_ONE = ("edm2_sd_vae", "tae")
"""Codecs whose autoencoder takes pixels in [0, 1]; the others take [-1, 1]."""


@dataclass(frozen=True)
class Weights:
    """An autoencoder's tensors and configuration.

    Attributes:
        tensors: under the names of its module, as the file has them.
        config: of an AutoencoderKL; empty for others.
        hashes: SHA-256 of the files, in the order of their names.
        source: for messages.
    """

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    hashes: list[str]
    source: str


class Pretrained:
    """An autoencoder with weights, on a device, in a precision (scm.data.latents.codec.Autoencoder)."""

    def __init__(self, name: str, content: Weights, precision: str, device: torch.device | str) -> None:
        if name in RANDOM:
            module = autoencoder_kl.kl_autoencoder(content.tensors, content.config, content.source)
        else:
            module = autoencoder_tiny.tiny_autoencoder(content.tensors, content.source)
        self.channels, self.reduction = module.channels, module.reduction
        for parameter in module.parameters():  # convolutions are 1.3 times as fast on a CPU
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self._module = module.to(device=device, dtype=DTYPES[precision]).eval().requires_grad_(False)
        self._device, self._dtype, self._zero_to_one = device, DTYPES[precision], name in ZERO_TO_ONE

    @torch.no_grad()
    def store(self, images: Tensor) -> Tensor:
        pixels = images.to(self._device).float() / 255
        pixels = pixels if self._zero_to_one else 2 * pixels - 1
        return self._module.encode(pixels.to(self._dtype)).float().cpu()

    @torch.no_grad()
    def pixels(self, latents: Tensor) -> Tensor:
        pixels = self._module.decode(latents.to(self._device, self._dtype)).float()
        return 2 * pixels - 1 if self._zero_to_one else pixels


def codec_path(path: str | None, root: Path) -> Path:
    """The path that `codec.path` names, relative to the project's folder; null is a UserError."""
    if path is None:
        remedy = "write where its weights lie; docs/latents.md says where to get them"
        raise UserError(f"params.yaml: codec.path = null: an autoencoder is needed; {remedy}")
    return root / Path(path).expanduser()


def weight_files(name: str, path: Path) -> list[Path]:
    """The weight files at `codec.path`, in the order of their names; missing ones are a UserError."""
    if not path.exists():
        remedy = "see docs/latents.md for where to get weights"
        raise UserError(f"codec.path = {path}: there is no such file or folder; {remedy}")
    if name in RANDOM:
        found = [path / file for file in KL_FILES if (path / file).is_file()][:1]
        if not found or not (path / CONFIG).is_file():
            raise UserError(f"codec.path = {path}: must be a folder with {CONFIG} and {' or '.join(KL_FILES)}")
        return found
    if path.is_file():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    halves = [sum(half in file.name for file in files) for half in ("encoder", "decoder")]
    if len(files) != 1 and not (len(files) == 2 and halves == [1, 1]):
        raise UserError(
            f"codec.path = {path}: {len(files)} weight files; there must be one, or two of which one is called "
            f"*encoder* and one *decoder* ({', '.join(SUFFIXES)})"
        )
    return files


def read_autoencoder(name: str, path: Path, expected: tuple[str, ...] | None) -> Weights:
    """Reads the autoencoder at `codec.path`; `expected` is `codec.sha256`, None = any.

    Raises:
        UserError: files are missing or damaged, or their hashes are not the expected ones.
    """
    files = weight_files(name, path)
    hashes = [sha256(file) for file in files]
    if expected is not None and list(expected) != hashes:
        found = ", ".join(f"{file.name} {digest}" for file, digest in zip(files, hashes, strict=True))
        raise UserError(
            f"codec.sha256 = [{', '.join(expected)}]: {path} has {found}: get the right files, or write these hashes"
        )
    parts = {file.name: _tensors(file) for file in files}
    if name not in RANDOM:
        return Weights(autoencoder_tiny.canonical(parts), {}, hashes, str(path))
    fetch = "get the one that belongs to the weights"
    config = read_json(path / CONFIG, dict[str, Any], fetch, fetch)
    plain = {key: value for key, value in config.items() if not key.startswith("_")}
    return Weights(autoencoder_kl.canonical(parts[files[0].name]), plain, hashes, str(path))


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return weights.load_any(path, "get it again", "get it again")[0]
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError):
        tensors = None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{path}: damaged, or not a plain state dict, and nothing else is read: get it as safetensors")
    return tensors


def check_fits(autoencoder: Pretrained, channels: int, source: str) -> None:
    """Refuses an autoencoder whose latents have another shape than params.yaml says; the network follows from it."""
    if autoencoder.channels != channels:
        problem = f"{source} makes latents of {autoencoder.channels} channels"
        raise UserError(f"params.yaml: codec.channels = {channels}: {problem}; write {autoencoder.channels}")
    if autoencoder.reduction != LATENT_REDUCTION:
        problem = f"{source} makes latents {autoencoder.reduction} times smaller than the image"
        raise UserError(f"codec.path: {problem}; use one that makes them {LATENT_REDUCTION} times smaller")


def description(content: Weights, precision: str) -> dict[str, Any]:
    """The entry `autoencoder` of a codec's header."""
    return {"sha256": content.hashes, "config": content.config, "precision": precision}


def save_codec(folder: Path, header: dict[str, Any], content: Weights | None) -> None:
    """Writes data/codec, which is all that decoding needs: the header, and weights unless the codec is identity."""
    with replacing_folder(folder) as temporary:
        write_json(temporary / HEADER, header)
        if content is not None:
            weights.save(temporary / WEIGHTS, content.tensors, {"sha256": content.hashes})


def read_header(folder: Path, missing: str = MISSING_RESULT, damaged: str = DAMAGED_RESULT) -> dict[str, Any]:
    """The header of data/codec; `missing` and `damaged` are remedies."""
    return read_json(folder / HEADER, CodecHeader, missing, damaged)


def load_codec(
    folder: Path, device: torch.device | str = "cpu", missing: str = MISSING_RESULT, damaged: str = DAMAGED_RESULT
) -> Codec:
    """The codec of data/codec, ready to decode; `missing` and `damaged` are remedies.

    Raises:
        UserError: the folder is missing or damaged, or its files belong to two codecs.
    """
    header = read_header(folder, missing, damaged)
    about = header["autoencoder"]
    if about is None:
        return Codec(header)
    tensors, own = weights.load(folder / WEIGHTS, missing=missing, damaged=damaged)
    if own.get("sha256") != about["sha256"]:
        raise UserError(f"{folder / WEIGHTS} is not the autoencoder of {HEADER}: {damaged}")
    content = Weights(tensors, about["config"], about["sha256"], str(folder))
    return Codec(header, Pretrained(header["name"], content, about["precision"], device))
