"""What an enemy's file is made of, and how it must be answered."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scm.errors import UserError
from scm.interop.teachers import read_teacher
from tests.support import originals

MARKER = "marker"
PROTO = b"\x80\x04"


class Evil:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def named(module: str, name: str) -> bytes:
    """STACK_GLOBAL."""
    return text(module) + text(name) + b"\x93"


def storage_bytes(values: torch.Tensor) -> bytes:
    """What torch.save's oldest format makes of a storage, as a tensor's pickle holds it."""
    stream = io.BytesIO()
    torch.save(torch.storage.TypedStorage(wrap_storage=values.untyped_storage(), dtype=values.dtype, _internal=True),
               stream, _use_new_zipfile_serialization=False)  # fmt: skip
    return stream.getvalue()


def small_network() -> nn.Module:
    shapes = originals.edm2_shapes(
        resolution=4, channels=1, classes=2, width=8, multipliers=(1, 1), blocks=1, attention=2
    )
    return originals.edm2_network(originals.filled(shapes), channels_per_head=8)


def outcome(path: Path) -> str:
    """How reading ends: only with a network or a UserError of one line."""
    try:
        read_teacher(path)
    except UserError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Reads bytes as a teacher; returns the one line with which they are refused, once nothing has happened."""
    monkeypatch.chdir(tmp_path)

    def read(content: bytes) -> str:
        path = tmp_path / "evil.pkl"
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            read_teacher(path)
        message = str(error.value)
        assert message.startswith(str(path)) and "\n" not in message and len(message) < 400
        assert sorted(file.name for file in tmp_path.iterdir()) == ["evil.pkl"]
        return message.removeprefix(f"{path}: ")

    return read
