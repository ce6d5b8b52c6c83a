"""The architectures: one file each, found by its name (`network.architecture: edm2` is edm2.py). No list is kept.

A file holds what `Architecture` says. What params.yaml may ask of it stands in scm/params/architectures, which needs no
torch.
"""

import importlib
import pkgutil
from typing import Any, Protocol, cast

from torch import nn

from scm.errors import UserError
from scm.networks.settings import NetworkSettings


class Network(Protocol):
    """The constructor of F's network; the result is a module.

    Its forward takes (x, c_noise, one-hot labels or None, guidance or None, segment or None, dropout's seeds or
    None) and returns F. If its settings may have `augment`, it also takes `augment`, None by default; the layer of that
    input is called *_augment and starts at zero.
    """

    def __call__(self, settings: NetworkSettings, dropout: float, dropout_max_resolution: int) -> nn.Module: ...


class Architecture(Protocol):
    """What the file of an architecture holds.

    Attributes:
        NETWORK: the class of its network.
        ORIGINAL: fields of NetworkSettings with which the network is its authors' own. The settings' defaults make
            it the paper's (sec. 4.1).
    """

    NETWORK: Network
    ORIGINAL: dict[str, Any]


def names() -> tuple[str, ...]:
    """Names of all architectures, sorted; a file with a leading underscore is none."""
    found = (module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)
    return tuple(sorted(name for name in found if not name.startswith("_")))


def architecture(name: str) -> Architecture:
    """The architecture of this name.

    Raises:
        UserError: no file has the name.
    """
    if name not in names():
        raise UserError(f"network.architecture {name!r}: scm has {', '.join(names())}; use one of them")
    return cast(Architecture, importlib.import_module(f"{__name__}.{name}"))


def flavoured(name: str) -> dict[str, Any]:
    """Fields of a network as its authors wrote it (`edm2`), or as the paper changes it (`edm2-trigflow`)."""
    found, _, changed = name.partition("-")
    return {"architecture": found} if changed else {"architecture": found, **architecture(found).ORIGINAL}
