"""Tangents of networks along a direction, at the price of one extra forward pass."""

from scm.jvp.dual import Dual, output_and_tangent
from scm.jvp.recompute import recomputed

__all__ = ["Dual", "output_and_tangent", "recomputed"]
