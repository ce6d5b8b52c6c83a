"""Networks: EDM2's U-Net and DDPM++ with the paper's changes (sec. 4.1), pure in their forward."""

from scm.networks.model import Model
from scm.networks.settings import FLAVOURS, NetworkSettings

__all__ = ["FLAVOURS", "Model", "NetworkSettings"]
