"""Tangents of networks along a direction, at the price of one extra forward pass."""

from scm.jvp.dual import Dual, output_and_tangent
from scm.jvp.recompute import recomputed
from scm.jvp.rules import COMPOSED, RULES
from scm.jvp.values import Refused

__all__ = ["COMPOSED", "RULES", "Dual", "Refused", "output_and_tangent", "recomputed"]
