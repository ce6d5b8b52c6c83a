"""An enemy's opcodes: whatever they are, the answer is a line that says what was refused, and nothing happens."""

import os
import pickle
import random
import re
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.pickles.conftest import MARKER, PROTO, Evil, named, outcome, small_network, text
from tests.support import originals


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("evil", "name"),
    [
        (Evil(os.system, f"touch {MARKER}"), f"{os.name}.system"),
        (Evil(eval, f"open({MARKER!r}, 'w')"), "eval"),
        (Evil(exec, f"open({MARKER!r}, 'w')"), "exec"),
        (Evil(open, MARKER, "w"), "open"),
        (Evil(getattr, os, "system"), "getattr"),
        (Evil(__import__, "antigravity"), "__import__"),
        (Evil(torch.load, MARKER), "torch.serialization.load"),
        (Evil(torch.hub.load, "x"), "torch.hub.load"),
        (Evil(pickle.loads, b"x"), "loads"),
        (Evil(np.load, MARKER), "load"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_calls_are_refused_by_name(refused, protocol, evil, name):
    for content in (evil, {"ema": evil}, originals.EasyDict(ema=[evil]), {"loss": ({"x": evil},), "ema": 1}):
        if name == "getattr":  # a module is no object that pickle writes; the call's name comes first anyway
            evil.call = getattr, (1, "real")
        path = Path("evil.pkl")
        originals.dump(content, path, protocol)
        assert re.match(rf"refused [\w.]*{re.escape(name)}: it is no part of a network", refused(path.read_bytes()))


def test_a_name_imports_nothing(refused):
    assert "this" not in sys.modules
    assert refused(PROTO + named("this", "s") + b".").startswith("refused this.s")
    assert "this" not in sys.modules


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("collections", "OrderedDict.__init__.__globals__"),
        ("collections", "OrderedDict.fromkeys"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("numpy", "dtype.__class__"),
        ("numpy.core.multiarray", "scalar.__self__"),
        ("posix", "system"),
        ("os.path", "os.system"),
        ("torch", "os.system"),
        ("scm.pickles.machine", "Record"),
        ("", ""),
        ("\x1b[2J\n", "x\r\n"),
    ],
)
def test_dotted_and_odd_names_are_refused(refused, module, name):
    for content in (named(module, name) + b")R.", named(module, name) + b")\x81.", named(module, name) + b"."):
        assert refused(PROTO + content).startswith("refused ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"(S'x'\nios\nsystem\n.", "opcode STRING"),
        (b"(ios\nsystem\n.", "opcode INST"),
        (b"(cos\nsystem\no.", "refused os.system"),
        (b"cos\nsystem\n.", "refused os.system"),
        (b"c__builtin__\neval\n.", "refused __builtin__.eval"),
        (b"\x82\x01.", "opcode EXT1"),
        (b"P1\n.", "opcode PERSID"),
        (text("x") + b"Q.", "a persistent id"),
        (b"\x97.", "opcode NEXT_BUFFER"),
        (named("dnnlib.util", "EasyDict") + b")}\x92.", "opcode NEWOBJ_EX"),
        (named("collections", "OrderedDict") + b")\x81.", "a call of collections.OrderedDict"),
        (named("dnnlib.util", "EasyDict") + b")R.", "a call of dnnlib.util.EasyDict"),
        (named("dnnlib.util", "EasyDict") + b"NN\x86\x85\x85\x81.", "a call of dnnlib.util.EasyDict with 1 arguments"),
        (
            named("dnnlib.util", "EasyDict") + b")" + b"\x85" * 500_000 + b"N\x86\x85\x85\x81.",
            "EasyDict with 1 arguments",
        ),
        (b"Vno \\q escape\n.", "opcode UNICODE"),
        (b"ccollections", "a line without an end"),
        (named("collections", "OrderedDict") + b"K\x01\x85R.", "a call of collections.OrderedDict with 1 arguments"),
        (named("collections", "OrderedDict") + b"}R.", "a call of collections.OrderedDict"),
        (text("os.system") + b")R.", "a call of str"),
        (b"})R.", "a call of dict"),
        (b"}}b.", "a state for a dict"),
        (named("collections", "OrderedDict") + b"}b.", "a state for a Name"),
        (text("x") + b"}b.", "a state for a str"),
        (b")K\x01a.", "a change of a tuple as if it were a list"),
        (b"}K\x01a.", "a change of a dict as if it were a list"),
        (b"]K\x01K\x02s.", "a change of a list as if it were a dict"),
        (b"}K\x01K\x02s.", "a int as a key"),
        (b"})K\x02s.", "a tuple as a key"),
        (b"\x8f(K\x01\x90.", "a int as a key"),
        (b"K\x01K\x02\x93.", "a int as a key or a name"),
        (named("torch.nn.modules.container", "ModuleDict") + b")\x81K\x01b.", "a state of a ModuleDict"),
        (b"\x80\x04K\x01.", "a int instead of a Precond"),
        (b"}\x8c\x03emaNs.", "a NoneType instead of a Precond"),
    ],
)
def test_opcodes_reach_nothing(refused, content, message):
    assert message in refused(PROTO + content)


@pytest.mark.parametrize(
    "content",
    [
        b"]" * 100_000 + b"a" * 99_999 + b".",
        b"(" * 100_000 + b"t" * 100_000 + b".",
        b"(" * 1_000_000,
        b"N" * 20_000 + b".",
        b")" + b"\x85" * 1_200_000 + b".",
        b"]\x94" + b"]h\x00a\x940" * 3 + b".",
        b"r\xff\xff\xff\xffN.",
        b"Nr\xff\xff\xff\x7f.",
        b"\x8e" + b"\xff" * 7 + b"\x7f.",
        b"\x8e" + struct.pack("<Q", 2**40) + b"abc",
        b"\x95" + b"\xff" * 8 + b"N.",
        b"\x8b\xff\xff\xff\x7f.",
        b"t.",
        b"a.",
        b"h\x07.",
        b"(N)\x85u.",
        b"}(Nu.",
        b".",
        b"",
    ],
    ids=range(19),
)
def test_nothing_exhausts_the_process(refused, content):
    started = time.monotonic()
    assert refused(PROTO + content)
    assert time.monotonic() - started < 30


def test_deep_nesting_says_so(refused):
    assert "nests too deeply" in refused(PROTO + b"]" * 100_000 + b"a" * 99_999 + b".")
    nested = b")\x94" + b"h\x00\x85\x94" * 200_000  # a tuple in a tuple, each kept and taken up again
    assert "refused" in refused(PROTO + nested + b"K\x01s.")


def test_every_kind_of_prefix_is_refused(tmp_path):
    content = originals.edm2_file(tmp_path / "whole.pkl", small_network()).read_bytes()
    assert outcome(tmp_path / "whole.pkl") == ""
    path, draws = tmp_path / "cut.pkl", random.Random(0)
    for length in [*range(0, 120), *draws.sample(range(120, len(content)), 150), len(content) - 1]:
        path.write_bytes(content[:length])
        assert re.search("truncated|refused|neither a pickle", outcome(path)), length


def test_changed_bytes_never_end_in_a_traceback(tmp_path):
    content = originals.edm2_file(tmp_path / "whole.pkl", small_network()).read_bytes()
    path, draws = tmp_path / "changed.pkl", random.Random(1)
    for _ in range(400):
        changed = bytearray(content)
        for _ in range(draws.choice([1, 1, 2, 8])):
            changed[draws.randrange(len(changed))] = draws.randrange(256)
        path.write_bytes(changed)
        outcome(path)
