"""Read pickles of EDM and EDM2 as data: containers, tensors, arrays, and records in place of class instances.

A tensor is stored in such a file as the bytes of a nested torch.save in the oldest format: five small pickles (a magic
number, a version, sizes of types, a reference to the storage, its key), then the count and the raw numbers. The same
machine reads them, with other known names.
"""

import io
import math
import mmap
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scm.errors import UserError
from scm.pickles.arrays import NumpyArray, NumpyType, numpy_scalar
from scm.pickles.machine import Known, Machine, Name, Record, Refused

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
"""How torch.save's oldest format begins."""
TORCH_SAVE = "written by torch.save, which is not what EDM and EDM2 publish: save its state dict as .safetensors"
STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
STORAGE_OPERATIONS = 200
"""Most operations in each of the five pickles; real ones have at most 30."""


def read_pickle(path: Path) -> Any:
    """Reads a pickle; a file that is missing, damaged or no pickle is a UserError, and so is what was refused in it."""
    try:
        with path.open("rb") as handle:
            begin = handle.read(4)
            if begin.startswith(b"PK"):
                raise Refused(TORCH_SAVE)
            if begin[:1] != b"\x80":
                raise Refused("neither a pickle (of protocol 2 or later) nor a .safetensors file")
            with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as stream:
                content = Machine(stream, known(len(stream))).run()  # type: ignore[arg-type]
        if type(content) is int and content == MAGIC:
            raise Refused(TORCH_SAVE)
        return content
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the path") from None
    except Refused as error:
        raise UserError(f"{path}: {error}") from None


@dataclass(eq=False)
class Storage:
    """The numbers of a nested torch.save."""

    dtype: torch.dtype
    count: int
    data: bytearray


def _dictionary() -> dict[str, Any]:
    """An empty dictionary; `dict` itself would take a file's arguments."""
    return {}


def _persistent_object(meta: Any) -> Record:
    """Name and state of an object whose class's source the file carries. The source is not even kept."""
    match meta:
        case {"type": "class", "class_name": str(name), "state": dict(state)}:
            return Record(name, state)
    raise Refused("refused: a persistent object of an unknown form")


def _parameter(data: Any, requires_grad: Any, hooks: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise Refused("refused: a parameter that is no tensor")
    return data


def known(size: int) -> Known:
    """The names that a network's pickle of `size` bytes may use; its tensors may hold at most `size` numbers."""
    left = {"bytes": size, "numbers": size}

    def spend(what: str, amount: int) -> None:
        left[what] -= amount
        if left[what] < 0:
            raise Refused("refused: tensors with more numbers than the file")

    def storage(data: Any) -> Storage:
        if not isinstance(data, bytes):
            raise Refused("refused: a tensor's storage that is no bytes")
        spend("bytes", len(data))
        return read_storage(data)

    def tensor(storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, *further: Any) -> Tensor:
        last = _last_index(offset, size, stride)
        if not isinstance(storage, Storage) or last >= storage.count:
            raise Refused("refused: a tensor that reaches beyond its storage")
        spend("numbers", math.prod(size))
        return torch.frombuffer(storage.data, dtype=storage.dtype).as_strided(size, stride, offset)

    functions: dict[str, Callable[..., Any]] = {
        "collections.OrderedDict": _dictionary,
        "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
        "torch._utils._rebuild_parameter": _parameter,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch.storage._load_from_bytes": storage,
        "numpy.dtype": NumpyType,
        "numpy.core.multiarray._reconstruct": NumpyArray,
        "numpy._core.multiarray._reconstruct": NumpyArray,
        "numpy.core.multiarray.scalar": numpy_scalar,
        "numpy._core.multiarray.scalar": numpy_scalar,
    }
    module_dict = {"torch.nn.modules.container.ModuleDict": lambda: Record("ModuleDict")}
    return Known(functions, {"dnnlib.util.EasyDict": _dictionary, **module_dict}, frozenset({"numpy.ndarray"}))


def _last_index(offset: Any, size: Any, stride: Any) -> int:
    """Index of the last number of a storage that a view reads."""
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride) or len(size) > 8:
        raise Refused("refused: a tensor of an unknown form")
    if not all(type(value) is int and 0 <= value < 2**48 for value in (offset, *size, *stride)) or 0 in size:
        raise Refused("refused: a tensor with an impossible or empty shape")
    return offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))


def read_storage(data: bytes) -> Storage:
    stream = io.BytesIO(data)

    def part(known: Known = Known()) -> Any:  # noqa: B008  (frozen)
        return Machine(stream, known, STORAGE_OPERATIONS).run()

    magic, version, system = part(), part(), part()
    little = system.get("little_endian") if isinstance(system, dict) else None
    if magic != MAGIC or version != VERSION or little is not (sys.byteorder == "little"):
        raise Refused("refused: a tensor that torch.save did not write, or not on a machine of this kind")
    described, keys = part(Known(names=frozenset(STORAGES), persistent=_described)), part()
    if not isinstance(described, tuple) or keys != [described[1]]:
        raise Refused("refused: a tensor with another content than one storage")
    dtype, _, count = described
    written, numbers = int.from_bytes(stream.read(8), "little"), stream.read()
    if written != count or len(numbers) != count * dtype.itemsize:
        raise Refused("truncated or damaged (a tensor with less or more numbers than it says)")
    return Storage(dtype, count, bytearray(numbers))


def _described(reference: Any) -> tuple[torch.dtype, str, int]:
    """Type, key and length of the storage that a persistent id names."""
    match reference:
        case ("storage", Name(text), str(key), str(), int(count), None):
            return STORAGES[text], key, count
    raise Refused("refused: a persistent id that names no storage")
