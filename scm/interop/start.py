"""Start a network from the weights of another one: what means the same in both is copied by its name.

The path of the image is the same in EDM2's and EDM's networks and in TrigFlow's (sec. 4.1). The path of the time is
not: its first layers fit another embedding, and the layers that modulate the blocks another modulation.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from scm.errors import UserError
from scm.interop.teachers import OWN, Teacher
from scm.networks import Model, NetworkSettings

SHAPE = ("architecture", "width", "multipliers", "blocks", "attention", "channels_per_head", "patch")
"""Settings that the path of the image follows from; both networks need the same."""
TIME = re.compile(r"network\.(emb_time|emb_noise|map_layer0|map_layer1|emb_layer0|emb_layer1)\.")
"""The layers between the time and the embedding."""
MODULATION = re.compile(
    r"network\.((encoder|decoder)\.\w+\.(emb_\w+|affine)|blocks\.\d+\.(affine_proj|\w+_gain)|out_affine_proj)\b"
)
"""The layers by which the embedding acts on a block."""


class Copied(NamedTuple):
    """Names of tensors: those that were copied, the network's own, and the file's that it has no use for."""

    copied: list[str]
    fresh: list[str]
    unused: list[str]

    def summary(self) -> list[str]:
        """Two lines or three for people."""
        lines = [f"{len(self.copied)} of {len(self.copied) + len(self.fresh)} tensors copied"]
        for names, meaning in ((self.fresh, "start afresh"), (self.unused, "of the file are left out")):
            if names:
                lines.append(f"{len(names)} tensors {meaning}: {_layers(names)}")
        return lines


def copy_weights(source: Teacher, model: Model, what: str) -> Copied:
    """Copies what fits into a new model.

    Args:
        what: begins the message of an error, e.g. "teacher.start = edm2.pkl".

    Raises:
        UserError: the networks differ in more than the path of the time.
    """
    _require_shape(source.settings, model.settings, what)
    state = model.state_dict()
    fitting = {name: value for name, value in source.state.items() if name in state and _fits(name, source, model)}
    model.load_state_dict({**state, **fitting})
    return Copied(sorted(fitting), sorted(state.keys() - fitting.keys()), sorted(source.state.keys() - fitting.keys()))


def _require_shape(theirs: NetworkSettings, ours: NetworkSettings, what: str) -> None:
    def shape(settings: NetworkSettings) -> dict[str, object]:
        values = {name: getattr(settings, name) for name in SHAPE}
        return {**values, "multipliers": list(values["multipliers"]), "attention": sorted(values["attention"])}

    own = shape(ours)
    wanted = [f"network.{name}: {value}" for name, value in shape(theirs).items() if value != own[name]]
    if wanted:
        raise UserError(f"{what} is a network of another shape: write {', '.join(wanted)} into params.yaml")


def _fits(name: str, source: Teacher, model: Model) -> bool:
    theirs, ours = source.settings, model.settings
    if name.startswith("log_weight_head."):  # a weight of the loss that this network is trained with
        return source.program == OWN and theirs.log_weight == ours.log_weight
    if TIME.match(name):
        return _time(theirs) == _time(ours)
    return not MODULATION.match(name) or theirs.modulation == ours.modulation


def _time(settings: NetworkSettings) -> tuple[object, ...]:
    """How the time enters the network."""
    return settings.c_noise, settings.embedding, settings.embedding == "fourier" and settings.fourier_scale


def _layers(names: Iterable[str]) -> str:
    """The layers' names and how many tensors each has."""
    layers = Counter(re.sub(r"\.(weight|bias|freqs|phases)$", "", name).rpartition(".")[2] for name in names)
    return ", ".join(f"{name} ({count})" if count > 1 else name for name, count in layers.items())
