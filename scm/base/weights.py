"""Weights on disk: safetensors files, complete or absent, with a JSON header in their metadata; no pickles.

torch is imported where tensors are: a header is read without it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import safetensors

from scm.base.documents import DAMAGED_RESULT, parse_json
from scm.base.files import disk_fault, replacing
from scm.base.forms import require
from scm.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

FORMAT = 2
SEAL = "sha256"
"""Key in the header of a sealed file: a hash of its tensors and of the rest of the header."""
MISSING = "run `scm run` to make it"
ANYTHING: Any = Any
T = TypeVar("T")
M = TypeVar("M", bound="nn.Module")


def save(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Writes tensors and header; the file appears under its name only when it is complete.

    Raises:
        UserError: the disk is full.
    """
    write(path, tensors, {"scm": json.dumps({"format": FORMAT, **header}, sort_keys=True)})


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes any safetensors file as `save` does."""
    from safetensors.torch import save_file

    size = sum(value.numel() * value.element_size() for value in tensors.values())
    content = {key: value.contiguous() for key, value in tensors.items()}
    with replacing(path, size) as temporary:
        try:
            save_file(content, temporary, None if metadata is None else dict(metadata))
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
    import torch

    def hashed(name: str) -> str:
        value = tensors[name]
        content = hashlib.sha256(value.reshape(-1).view(torch.uint8).numpy().data)
        return f"{name} {value.dtype} {list(value.shape)} {content.hexdigest()}"

    with ThreadPoolExecutor() as pool:  # hashing leaves other threads their turn
        lines = [json.dumps(header, sort_keys=True), *pool.map(hashed, sorted(tensors))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_header(
    path: Path, form: Any = dict[str, Any], missing: str = MISSING, damaged: str = DAMAGED_RESULT
) -> dict[str, Any]:
    """Reads the JSON header alone.

    Args:
        form: what the header must be, see `scm.base.forms`.
        missing, damaged: remedies, which end the messages.

    Raises:
        UserError: the file is missing or damaged, its header has another form, or this version of scm did not write it.
        OSError: the disk fails, or this user may not read the file.
    """
    return _opened(path, missing, damaged, lambda file: _header(file, path, form, damaged), framework="numpy")


def _header(file: Any, path: Path, form: Any, damaged: str) -> dict[str, Any]:
    text = (file.metadata() or {}).get("scm", "null")
    header: Any = parse_json(text, ANYTHING, f"{path}: its header", damaged)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise UserError(f"{path} has no scm header of format {FORMAT}: it was not written by this version of scm")
    return require(header, form, f"{path}: its header", damaged)


def load(
    path: Path,
    device: torch.device | str = "cpu",
    form: Any = dict[str, Any],
    *,
    missing: str = MISSING,
    damaged: str = DAMAGED_RESULT,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads tensors and header of one file, even if another takes its place meanwhile; see `read_header`."""

    def read(file: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        header = _header(file, path, form, damaged)
        return _tensors(file), header

    return _opened(path, missing, damaged, read, device)


def load_any(path: Path, missing: str, damaged: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads the tensors and metadata of any safetensors file; `missing` and `damaged` are remedies."""
    return _opened(path, missing, damaged, lambda file: (_tensors(file), file.metadata() or {}))


def _tensors(file: Any) -> dict[str, Tensor]:
    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)


def filled(state: Mapping[str, Tensor], build: Callable[[], M], least: int) -> M:
    """The module that `build` makes from a file's settings, with the file's state.

    Args:
        least: numbers that such a module has at least; with fewer in the state nothing is built, so that absurd
            settings take no memory.

    Raises:
        ValueError: the state is not that of such a module; the message says why.
    """
    count = sum(value.numel() for value in state.values())
    if count < least:
        raise ValueError(f"it has {count:,} numbers, and its settings ask for {least:,} or more")
    try:
        module = build()
    except (RuntimeError, ZeroDivisionError, LookupError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    expected = module.state_dict()
    for name in sorted(expected.keys() | state.keys()):
        found, wanted = (tuple(each[name].shape) if name in each else "absent" for each in (state, expected))
        if found != wanted:
            raise ValueError(f"{name} is {found}, but should be {wanted}")
    module.load_state_dict(state)
    return module


def _opened(
    path: Path,
    missing: str,
    damaged: str,
    read: Callable[[Any], T],
    device: torch.device | str = "cpu",
    framework: str = "pt",
) -> T:
    try:
        path.open("rb").close()  # the library has one error for what is missing and for what may not be read
        with safetensors.safe_open(path, framework=framework, device=str(device)) as file:
            return read(file)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {missing}") from None
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        if isinstance(error, OSError) and disk_fault(error) is not None:
            raise
        raise UserError(f"{path} is damaged ({error}): {damaged}") from None
