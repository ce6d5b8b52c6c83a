"""Weights on disk: safetensors files, complete or absent, with a JSON header in their metadata; no pickles."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from scm.base.files import replacing
from scm.errors import UserError

FORMAT = 2


def save(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Writes tensors and header; the file appears under its name only when it is complete."""
    metadata = {"scm": json.dumps({"format": FORMAT, **header}, sort_keys=True)}
    with replacing(path) as temporary:
        safetensors.torch.save_file({key: value.contiguous() for key, value in tensors.items()}, temporary, metadata)


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
