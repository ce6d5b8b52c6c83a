"""Networks: F and w_phi, pure in their forward; each architecture of F is a file of `scm.networks.architectures`."""

from scm.networks.architectures import flavoured
from scm.networks.model import Model
from scm.networks.settings import NetworkSettings

__all__ = ["Model", "NetworkSettings", "flavoured"]
