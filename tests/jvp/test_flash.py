"""The Triton kernel in Triton's interpreter against float64, its compilation for sm_90, and when a tangent takes it."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from scm.jvp import attention, output_and_tangent, rules

ROOT = Path(__file__).parents[2]
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs the extra triton: pip install '.[triton]'")


def tried(what: str, cache: Path, **variables: str) -> dict:
    """What tests/support/flash_kernel.py prints; in a process of its own, as Triton reads its variables once."""
    places = os.pathsep.join([str(ROOT), *sys.path])
    env = {**os.environ, "PYTHONPATH": places, "TRITON_CACHE_DIR": str(cache), **variables}
    command = [sys.executable, "-m", "tests.support.flash_kernel", what]
    return json.loads(subprocess.run(command, env=env, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


@needs_triton
@pytest.mark.long
@pytest.mark.slow
def test_the_interpreted_kernel_agrees_with_float64(tmp_path):
    found = tried("interpret", tmp_path, TRITON_INTERPRET="1")
    assert len(found["errors"]) == 8
    for case, errors in found["errors"].items():
        assert max(errors) < (1e-5 if case.startswith("fp32") else 1e-2), case
    assert found["gradients"] < 1e-4


@needs_triton
@pytest.mark.long
@pytest.mark.slow
def test_the_kernel_compiles_for_hopper_within_the_shared_memory_of_smaller_gpus(tmp_path):
    found = tried("compile", tmp_path)
    assert len(found) == 9 and max(found.values()) <= 99 * 2**10


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({}, True),
        ({"device": "cpu"}, False),
        ({"tokens": attention.LONG - 1}, False),
        ({"channels": 40}, False),
        ({"dtype": torch.float64}, False),
        ({"shared": 1}, False),
    ],
)
def test_the_kernel_is_taken_for_long_sequences_on_cuda(monkeypatch, changes, taken):
    case = {"device": "cuda", "tokens": attention.LONG, "channels": 64, "dtype": torch.float16, "shared": 2, **changes}
    monkeypatch.setattr(attention, "HAS_TRITON", True)
    with FakeTensorMode():
        q, k = (
            torch.empty(1, heads, case["tokens"], case["channels"], device=case["device"], dtype=case["dtype"])
            for heads in (2, case["shared"])
        )
        assert attention.has_kernel((q, k, k)) is taken
    monkeypatch.setattr(attention, "HAS_TRITON", False)
    assert attention.has_kernel((q, k, k)) is False


def test_a_tangent_takes_what_the_kernel_gives_unless_there_is_a_mask(monkeypatch):
    x = torch.ones(1, 1, 4, 16)
    fused = SimpleNamespace(output_and_tangent=lambda scale, *values: (values[0] * scale, values[3]))
    monkeypatch.setitem(sys.modules, "scm.jvp.flash", fused)
    monkeypatch.setattr(rules, "has_kernel", lambda primals: True)
    output, tangent = output_and_tangent(lambda q: functional.scaled_dot_product_attention(q, x, x), (x,), (3 * x,))
    assert torch.equal(output, x / 4) and torch.equal(tangent, 3 * x)
    causal = output_and_tangent(lambda q: functional.scaled_dot_product_attention(q, x, x, is_causal=True), (x,), (x,))
    assert not torch.equal(causal[0], x / 4)
