"""DiT."""

from collections.abc import Iterator

from scm.params.faults import Fault
from scm.params.schema import NetworkSection

MODULATIONS = ("double_norm", "scale_shift")
AUGMENTED = True


def faults(network: NetworkSection) -> Iterator[Fault]:
    """Refuses what only U-Nets have, and a width that its parts cannot share."""
    if network.multipliers != (1,):
        yield Fault("network.multipliers", list(network.multipliers), "DiT has one width alone; write [1]")
    if network.attention:
        yield Fault("network.attention", list(network.attention), "all blocks of DiT have attention; write []")
    if network.width % 4:
        problem = "the positions need as many sines as cosines, of rows and of columns"
        yield Fault("network.width", network.width, f"{problem}; use a multiple of 4")


def divisor(network: NetworkSection) -> tuple[int, str, str]:
    """As in _unet.py."""
    return network.patch, "network.patch asks", " or a smaller patch" if network.patch > 1 else ""


def attention(network: NetworkSection, resolution: int) -> Iterator[Fault]:
    """Refuses heads that do not divide the width."""
    width, heads = network.width, network.channels_per_head
    if width % heads:
        problem = f"does not divide the {width} channels of network.width"
        yield Fault("network.channels_per_head", heads, f"{problem}; use a divisor of {width}")
