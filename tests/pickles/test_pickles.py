"""An enemy's tensors and numbers, and files that are no pickles of a network."""

import builtins
import io
import os
import pickle
import re
import struct
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scm.errors import UserError
from scm.interop.teachers import read_teacher
from scm.pickles import arrays, edm, machine
from scm.pickles.arrays import NumpyArray
from tests.pickles.conftest import MARKER, Evil, outcome, small_network, storage_bytes
from tests.support import originals


@pytest.mark.parametrize("dtype", edm.STORAGES.values(), ids=str)
def test_storages_of_every_type(dtype):
    values = (torch.arange(6) % 2 if dtype == torch.bool else torch.arange(6)).to(dtype)
    storage = edm.read_storage(storage_bytes(values))
    assert storage.dtype == dtype
    assert torch.equal(torch.frombuffer(storage.data, dtype=storage.dtype), values)


def test_an_enemy_in_the_bytes_of_a_tensor(refused):
    good = storage_bytes(torch.ones(3))
    for evil in (
        pickle.dumps(Evil(os.system, f"touch {MARKER}"), 2),
        good.replace(b"ctorch\nFloatStorage\n", b"cposix\nsystem\n"),
        good.replace(b"ctorch\nFloatStorage\n", b"ctorch\nload\n"),
        pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(Evil(eval, "1"), 2),
    ):
        content = pickle.dumps({"ema": Evil(torch.storage._load_from_bytes, evil)}, 4)
        assert refused(content).startswith("refused ")


@pytest.mark.parametrize(
    "change",
    [
        lambda good: good[:-1],
        lambda good: good + b"\0",
        lambda good: good[:40],
        lambda good: b"",
        lambda good: good.replace(b"\x03\0\0\0\0\0\0\0", b"\xff" * 8),
        lambda good: good.replace(b"storage", b"stOrage"),
        lambda good: good.replace(b"FloatStorage", b"DoubleStorage"),
        lambda good: good.replace(b"little_endian", b"little_Endian"),
        lambda good: good.replace(struct.pack("<H", 1001), struct.pack("<H", 1002)),
        lambda good: b"\x80\x02" + b"]" * 300 + b".",
        lambda good: b"\x80\x02K\x01." * 5,
    ],
)
def test_damaged_storages_are_refused(refused, change):
    damaged = change(storage_bytes(torch.ones(3)))
    content = pickle.dumps(Evil(torch.storage._load_from_bytes, damaged), 4)
    assert re.match("refused|truncated", refused(content))


STORAGE = edm.Storage(torch.float32, 6, bytearray(24))
TENSOR, PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
OBJECT, BYTES = "torch_utils.persistence._reconstruct_persistent_obj", "torch.storage._load_from_bytes"
DTYPE = arrays.NumpyType("f4")


def test_a_view_of_a_storage():
    made = edm.known(100).functions[TENSOR](STORAGE, 1, (2, 2), (1, 3), False, {})
    assert made.shape == (2, 2) and made.stride() == (1, 3) and made.storage_offset() == 1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (TENSOR, (STORAGE, 0, (7,), (1,), False, {})),
        (TENSOR, (STORAGE, 4, (2, 2), (1, 3), False, {})),
        (TENSOR, (STORAGE, 0, (2**40,), (0,), False, {})),
        (TENSOR, (STORAGE, 0, (2**30, 2**30), (0, 0), False, {})),
        (TENSOR, (STORAGE, 0, (0,), (1,), False, {})),
        (TENSOR, (STORAGE, -1, (2,), (1,), False, {})),
        (TENSOR, (STORAGE, 0, (2,), (-1,), False, {})),
        (TENSOR, (STORAGE, 0, (2,), (1, 1), False, {})),
        (TENSOR, (STORAGE, 0, [2], [1], False, {})),
        (TENSOR, (STORAGE, 0, (True,), (1,), False, {})),
        (TENSOR, (STORAGE, 0, (2.0,), (1,), False, {})),
        (TENSOR, (STORAGE, 0, (1,) * 9, (1,) * 9, False, {})),
        (TENSOR, (b"storage", 0, (2,), (1,), False, {})),
        (PARAMETER, ("data", False, {})),
        (BYTES, ("text",)),
        (BYTES, (bytes(101),)),
        (OBJECT, ({"type": "class", "class_name": "A"},)),
        (OBJECT, ({"type": "function", "class_name": "A", "state": {}},)),
        (OBJECT, ({"type": "class", "class_name": 1, "state": {}},)),
        (OBJECT, (["type"],)),
        ("numpy.dtype", ("O8", False, True)),
        ("numpy.dtype", (1, False, True)),
        ("numpy.core.multiarray.scalar", (DTYPE, "text")),
        ("numpy.core.multiarray.scalar", ("f4", b"1234")),
    ],
)
def test_arguments_are_looked_at(name, arguments):
    with pytest.raises(machine.Refused):
        edm.known(100).functions[name](*arguments)


def test_numpy_numbers_and_arrays(tmp_path):
    value = {
        "array": np.float32([[1, 2], [3, 4]]),
        "column": np.asfortranarray([[1, 2], [3, 4]]),
        "number": np.sqrt(0.5),
    }
    read = edm.read_pickle(originals.dump(value, tmp_path / "a.pkl"))
    assert isinstance(read["array"], NumpyArray) and np.array_equal(read["array"].value, value["array"])
    assert np.array_equal(read["column"].value, value["column"])
    assert read["number"] == value["number"] and type(read["number"]) is float


@pytest.mark.parametrize(
    "state",
    [
        (1, (2,), DTYPE, False, b"1234"),
        (1, (1,), DTYPE, False, [1.0]),
        (1, ("1",), DTYPE, False, b"1234"),
        (1, (1,), "f4", False, b"1234"),
        None,
    ],
)
def test_damaged_arrays_are_refused(state):
    with pytest.raises((machine.Refused, ValueError)):  # the machine takes a ValueError as damage
        NumpyArray(None, None, None).build(state)


def test_other_orders_of_bytes_are_refused(tmp_path):
    with pytest.raises(UserError, match="another order of bytes"):
        edm.read_pickle(originals.dump(np.array([1.0], dtype=">f4"), tmp_path / "a.pkl"))
    with pytest.raises(UserError, match="a numpy type that is no number"):
        edm.read_pickle(originals.dump(np.array([Evil(os.system, "x")]), tmp_path / "a.pkl"))


def test_one_tensor_taken_up_again_and_again(refused):
    """Few bytes that would be many numbers: the same storage or the same bytes, over and over."""
    payload, shared = storage_bytes(torch.ones(1000)), SharedStorage()
    for value in (
        {"ema": [Evil(torch.storage._load_from_bytes, payload) for _ in range(3)]},
        [Evil(torch._utils._rebuild_tensor_v2, shared, 0, (1000,), (1,), False, {}) for _ in range(30)],
    ):
        assert "more numbers than the file" in refused(pickle.dumps(value, 4))


class SharedStorage:
    """The storage of 1,000 numbers, pickled once."""

    def __reduce__(self) -> tuple[Any, ...]:
        return torch.storage._load_from_bytes, (storage_bytes(torch.ones(1000)),)


def test_modules_that_contain_each_other(tmp_path):
    network, loop = small_network(), nn.ModuleDict()
    loop._modules["again"] = loop
    network.get_submodule("unet.enc").add_module("4x4_loop", loop)
    with pytest.raises(UserError, match="modules contain each other"):
        read_teacher(originals.edm2_file(tmp_path / "a.pkl", network))


def test_what_is_no_pickle(tmp_path, refused):
    assert refused(b"") == "neither a pickle (of protocol 2 or later) nor a .safetensors file"
    assert refused(b"<!DOCTYPE html>") == "neither a pickle (of protocol 2 or later) nor a .safetensors file"
    assert refused(pickle.dumps([1], 0)) == "neither a pickle (of protocol 2 or later) nor a .safetensors file"
    assert "damaged" in refused(b"\xff\0\0\0\0\0\0\0{")
    for path in (tmp_path, tmp_path / "none.pkl"):
        with pytest.raises(UserError, match=r"cannot be read \(.+\): check the path"):
            read_teacher(path)


def test_a_file_of_torch_save(refused):
    stream = io.BytesIO()
    torch.save(nn.Linear(1, 1), stream)
    assert refused(stream.getvalue()).startswith("written by torch.save")
    stream = io.BytesIO()
    torch.save(nn.Linear(1, 1), stream, _use_new_zipfile_serialization=False)
    assert refused(stream.getvalue()).startswith("written by torch.save")


def test_the_source_in_a_pickle_is_not_run(tmp_path, monkeypatch):
    path = originals.edm2_file(tmp_path / "a.pkl", small_network())
    assert b"the source in the pickle was run" in path.read_bytes()
    assert outcome(path) == ""  # whatever reading imports is imported now: an import compiles
    monkeypatch.setattr(builtins, "exec", lambda *_, **__: pytest.fail("exec"))
    monkeypatch.setattr(builtins, "compile", lambda *_, **__: pytest.fail("compile"))
    told = outcome(path)
    monkeypatch.undo()
    assert told == ""
