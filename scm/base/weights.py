"""Weights on disk: safetensors files, complete or absent, with a JSON header in their metadata; no pickles."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from scm.base.files import replacing
from scm.errors import UserError

FORMAT = 2
SEAL = "sha256"
"""Key in the header of a sealed file: a hash of its tensors and of the rest of the header."""


def save(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Writes tensors and header; the file appears under its name only when it is complete.

    Raises:
        UserError: the disk is full.
    """
    write(path, tensors, {"scm": json.dumps({"format": FORMAT, **header}, sort_keys=True)})


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes any safetensors file as `save` does."""
    size = sum(value.numel() * value.element_size() for value in tensors.values())
    content = {key: value.contiguous() for key, value in tensors.items()}
    with replacing(path, size) as temporary:
        try:
            safetensors.torch.save_file(content, temporary, None if metadata is None else dict(metadata))
        except safetensors.SafetensorError as error:
            # The library has one error for everything; the number is in its text.
            found = re.search(r"\(os error (\d+)\)", str(error))
            if found is None:
                raise
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from None


def save_sealed(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Writes what `load_sealed` can verify to the last bit."""
    kept = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    save(path, kept, {**header, SEAL: _seal(kept, header)})


def load_sealed(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Reads what `save_sealed` wrote, on the CPU; None if the file is missing or not what was written."""
    try:
        tensors, header = load(path)
    except UserError:
        return None
    header = {key: value for key, value in header.items() if key != "format"}
    seal = header.pop(SEAL, None)
    return (tensors, header) if seal == _seal(tensors, header) else None


def _seal(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """SHA-256 over the header and over each tensor's name, type, shape and bytes, in the order of their names."""

    def hashed(name: str) -> str:
        value = tensors[name]
        content = hashlib.sha256(value.reshape(-1).view(torch.uint8).numpy().data)
        return f"{name} {value.dtype} {list(value.shape)} {content.hexdigest()}"

    with ThreadPoolExecutor() as pool:  # hashing leaves other threads their turn
        lines = [json.dumps(header, sort_keys=True), *pool.map(hashed, sorted(tensors))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_header(path: Path) -> dict[str, Any]:
    """Reads the JSON header alone.

    Raises:
        UserError: the file is missing or damaged, or not written by this version of scm.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as handle:
            header = json.loads((handle.metadata() or {}).get("scm", "null"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run `dvc repro` to make it") from None
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it and run `dvc repro`") from None
    if not header or header.get("format") != FORMAT:
        raise UserError(f"{path} has no scm header of format {FORMAT}: it was not written by this version of scm")
    return header


def load(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads tensors and header; raises as `read_header` does."""
    header = read_header(path)
    return safetensors.torch.load_file(path, device=str(device)), header


def load_any(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads the tensors and metadata of any safetensors file."""
    try:
        with safetensors.safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
        return safetensors.torch.load_file(path), metadata
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}): download it again") from None
