"""DDPM++."""

from collections.abc import Iterator

from scm.params.architectures._unet import attention, divisor, no_patches
from scm.params.faults import Fault
from scm.params.schema import NetworkSection

__all__ = ["MODULATIONS", "attention", "divisor", "faults"]

MODULATIONS = ("double_norm", "scale_shift", "add")
AUGMENTED = True


def faults(network: NetworkSection) -> Iterator[Fault]:
    """Refuses patches, and a width that the group norms cannot divide into 32 groups, or fewer of four channels."""
    yield from no_patches(network)
    for channels in _group_normalized(network):
        groups = min(32, channels // 4)
        if not groups or channels % groups:
            problem = f"DDPM++ would divide {channels} channels into {groups} groups"
            yield Fault("network.width", network.width, f"{problem}; use a multiple of 32")
            return


def _group_normalized(network: NetworkSection) -> list[int]:
    """Numbers of channels that are group-normalised: each block's input with its skip connection, and its output."""
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
