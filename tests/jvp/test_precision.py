"""The tangent in each type against float64, on a small network of each flavour: benchmarks/precision.py."""

import pytest

from benchmarks.precision import errors
from tests.support.models import FLAVOURS

BOUNDS = {"fp32": 5e-6, "fp16": 6e-3, "bf16": 5e-2}
"""Stated in ARCHITECTURE.md. The types have 24, 11 and 8 bits."""


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_relative_error_of_f_its_tangent_and_g_is_bounded(flavour):
    table = errors(flavour, batch=16, resolution=8)
    for precision, bound in BOUNDS.items():
        for quantity, error in table[precision].items():
            assert error < bound, (precision, quantity)
    assert table["fp32"]["tangent"] < table["fp16"]["tangent"] < table["bf16"]["tangent"]
