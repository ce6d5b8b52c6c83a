"""DDPM++."""

from collections.abc import Iterator

from scm.params.faults import Fault
from scm.params.schema import Network

MODULATIONS = ("double_norm", "scale_shift", "add")


def faults(network: Network) -> Iterator[Fault]:
    """A width that the group norms cannot divide: 32 groups, but at least four channels in each."""
    for channels in _group_normalized(network):
        groups = min(32, channels // 4)
        if not groups or channels % groups:
            problem = f"DDPM++ would divide {channels} channels into {groups} groups"
            yield Fault("network.width", network.width, f"{problem}; use a multiple of 32")
            return


def _group_normalized(network: Network) -> list[int]:
    """Channels that the group norms see: each block's input, skip connection included, and its output."""
    out, skips, seen = network.width, [network.width], {network.width}
    for level, factor in enumerate(network.multipliers):
        skips += [out] if level else []
        out = network.width * factor
        skips += [out] * network.blocks
        seen.add(out)
    for factor in reversed(network.multipliers):
        for _ in range(network.blocks + 1):
            seen.add(out + skips.pop())
            out = network.width * factor
    return sorted(seen)
