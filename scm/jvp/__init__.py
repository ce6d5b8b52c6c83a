"""Tangents of networks along a direction, at the price of one extra forward pass."""

from scm.jvp.dual import Dual, output_and_tangent

__all__ = ["Dual", "output_and_tangent"]
