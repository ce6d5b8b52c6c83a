"""EDM2's U-Net."""

from collections.abc import Iterator

from scm.params.architectures._unet import attention, divisor, no_patches
from scm.params.faults import Fault
from scm.params.schema import NetworkSection

__all__ = ["MODULATIONS", "attention", "divisor", "faults"]

MODULATIONS = ("double_norm", "gain")
AUGMENTED = True


def faults(network: NetworkSection) -> Iterator[Fault]:
    """Refuses patches alone: EDM2's layers normalise over all channels at once, so any even width fits."""
    return no_patches(network)
