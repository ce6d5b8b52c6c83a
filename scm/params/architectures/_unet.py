"""What the U-Nets have in common: levels, each with half the resolution of the one before."""

from collections.abc import Iterator

from scm.params.faults import Fault
from scm.params.schema import NetworkSection


def no_patches(network: NetworkSection) -> Iterator[Fault]:
    if network.patch != 1:
        yield Fault("network.patch", network.patch, "a U-Net takes pixels; write 1, or network.architecture: dit")


def divisor(network: NetworkSection) -> tuple[int, str, str]:
    """A number that divides the resolution, what asks for it, and what else could be changed."""
    halvings = len(network.multipliers) - 1
    return 2**halvings, f"{halvings + 1} network.multipliers ask", " or fewer multipliers" if halvings else ""


def attention(network: NetworkSection, resolution: int) -> Iterator[Fault]:
    """Refuses attention at a resolution that no level has, or with heads that do not divide its channels."""
    levels = {resolution >> level: network.width * factor for level, factor in enumerate(network.multipliers)}
    lowest, heads = min(levels), network.channels_per_head
    if levels[lowest] % heads and lowest not in network.attention:
        channels = levels[lowest]
        problem = f"does not divide the {channels} channels of the lowest resolution, which always has attention"
        yield Fault("network.channels_per_head", heads, f"{problem}; use a divisor of {channels}")
    for attended in network.attention:
        if attended not in levels:
            known = ", ".join(map(str, levels))
            yield Fault("network.attention", attended, f"not a resolution of the U-Net; choose from {known}")
        elif levels[attended] % heads:
            problem = f"does not divide the {levels[attended]} channels at resolution {attended}, which has attention"
            yield Fault("network.channels_per_head", heads, f"{problem}; use a divisor of {levels[attended]}")
