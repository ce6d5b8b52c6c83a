"""The tangent in each type against float64, on a small network of each family: benchmarks/precision.py."""

import pytest

from benchmarks.precision import NETWORKS, errors

BOUNDS = {"fp32": 5e-6, "fp16": 6e-3, "bf16": 5e-2}
"""Stated in ARCHITECTURE.md. The types have 24, 11 and 8 bits."""


@pytest.mark.parametrize("flavour", NETWORKS)
def test_the_relative_error_of_f_its_tangent_and_g_is_bounded(flavour):
    table = errors(flavour)
    for precision, bound in BOUNDS.items():
        for quantity, error in table[precision].items():
            assert error < bound, (precision, quantity)
    assert table["fp32"]["tangent"] < table["fp16"]["tangent"] < table["bf16"]["tangent"]
