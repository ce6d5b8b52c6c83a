"""Networks: EDM2's U-Net with the paper's changes (sec. 4.1), pure in its forward."""

from scm.networks.model import Model, NetworkSettings
from scm.networks.unet import UNet

__all__ = ["Model", "NetworkSettings", "UNet"]
