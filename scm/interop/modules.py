"""A pickled network's modules as records: their tensors, and the attributes that its output depends on."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from scm.data.latents.codec import plain_header
from scm.networks import NetworkSettings
from scm.pickles.arrays import NumpyArray
from scm.pickles.machine import Record, Refused, short

CHANNELS_PER_HEAD = 64
"""EDM2's value if the file does not give one."""
FIXED = {
    "UNet": {"label_balance": 0.5, "concat_balance": 0.5},
    "Block": {"resample_filter": [1, 1], "res_balance": 0.3, "attn_balance": 0.3, "clip_act": 256},
}
"""Attributes that EDM2's classes can vary and scm's cannot; what EDM's classes can vary shows in their tensors."""
MAX_DEPTH, MAX_NUMBER = 16, 2**31
DIGITS = 6
"""Significant digits kept of an encoding's constants, which the file holds as float32 quotients."""


def modules_of(network: Record) -> dict[str, Record]:
    """All modules, by their names with a final dot; the network itself has the empty name."""
    found: dict[str, Record] = {}
    seen: set[int] = set()
    waiting = [("", network, 0)]
    while waiting:
        name, record, depth = waiting.pop()
        if depth > MAX_DEPTH or id(record) in seen:
            raise Refused("refused: a network whose modules contain each other")
        seen.add(id(record))
        found[name] = record
        for part, module in _entries(record, "_modules").items():
            if isinstance(module, Record):
                waiting.append((f"{name}{part}.", module, depth + 1))
    return found


def tensors_of(modules: Mapping[str, Record]) -> dict[str, Tensor]:
    """The tensors that the network's state_dict() would have."""
    return {
        f"{name}{part}": value
        for name, record in modules.items()
        for part, value in (_entries(record, "_parameters") | _entries(record, "_buffers")).items()
        if isinstance(value, Tensor)
    }


def _entries(record: Record, attribute: str) -> dict[str, Any]:
    values = record.state.get(attribute)
    return values if isinstance(values, dict) else {}


def number(record: Record, attribute: str) -> int | float:
    """The record's attribute of this name, which must be a number."""
    value = record.state.get(attribute)
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER:
        return value
    raise Refused(f"its {short(record.class_name)} has no number {attribute}")


def channels_per_head(modules: Mapping[str, Record]) -> int:
    """Channels of an attention head, which must be the same in all of EDM2's blocks."""
    blocks = [record for record in modules.values() if record.class_name == "Block"]
    attended = [(number(block, "out_channels"), number(block, "num_heads")) for block in blocks]
    attended = [(channels, heads) for channels, heads in attended if heads > 0]
    size = int(min((channels // heads for channels, heads in attended), default=CHANNELS_PER_HEAD))
    if size < 1 or any(channels // size != heads for channels, heads in attended):
        raise Refused("its blocks have attention heads of different sizes: scm's heads are all of one size")
    return size


def check_attributes(modules: Mapping[str, Record], settings: NetworkSettings) -> None:
    """Refuses a network that computes something else than scm's network with these settings."""
    network, shape = modules[""], (settings.resolution, settings.channels, settings.classes)
    for attribute, value in zip(("img_resolution", "img_channels", "label_dim"), shape, strict=True):
        if number(network, attribute) != value:
            raise Refused(f"its {attribute} is {number(network, attribute):g}, but its tensors have {value}")
    for name, record in modules.items():
        for attribute, value in FIXED.get(record.class_name, {}).items():
            if not _equal(record.state.get(attribute), value):
                raise Refused(f"its {short(name + attribute)} is not {value}, as it always is in scm's networks")


def _equal(found: Any, value: Any) -> bool:
    if isinstance(value, list):
        return isinstance(found, list) and len(found) == len(value) and all(map(_equal, found, value))
    return type(found) in (int, float) and found == value


def codec_of(encoder: Any, settings: NetworkSettings) -> dict[str, Any]:
    """Header of the codec whose output the network was trained on.

    EDM2's encoder of Stability's latents stores x_0 = scale latents + bias; scm expresses this by mean and std.
    """
    shape = [settings.channels, settings.resolution, settings.resolution]
    kind = encoder.class_name if isinstance(encoder, Record) else encoder
    if kind == "StandardRGBEncoder" or (kind is None and settings.channels in (1, 3)):
        return plain_header("identity", settings.sigma_d, shape)
    if kind == "StabilityVAEEncoder":
        scale, bias = (_channels(encoder.state.get(name), settings.channels) for name in ("scale", "bias"))
        mean = [_rounded(-b / s) for s, b in zip(scale, bias, strict=True)]
        std = [_rounded(settings.sigma_d / s) for s in scale]
        plain = plain_header("edm2_sd_vae", settings.sigma_d, shape)
        return {**plain, "normalize": "paper", "mean": mean, "std": std}
    if kind is None:
        raise Refused(f"images of {settings.channels} channels of an unknown encoding: import the program's pickle")
    found = short(kind) if isinstance(kind, str) else type(kind).__name__
    raise Refused(f"its encoder is a {found}: EDM2's StandardRGBEncoder and StabilityVAEEncoder are known")


def is_codec_of(header: Any, settings: NetworkSettings) -> bool:
    """True if this is the header of a codec, of any name and constants, that fits the network's input."""
    plain = plain_header("", settings.sigma_d, [settings.channels, settings.resolution, settings.resolution])
    if not isinstance(header, dict) or header.keys() != plain.keys():
        return False
    fits = isinstance(header["autoencoder"], dict | None) and header["shape"] == plain["shape"]
    alike = all(type(header[key]) is type(plain[key]) for key in plain if key != "autoencoder")
    return fits and alike and header["sigma_d"] == plain["sigma_d"]


def _channels(array: Any, count: int) -> list[float]:
    values = array.value.tolist() if isinstance(array, NumpyArray) and array.value.shape == (count,) else []
    if not values or not all(math.isfinite(value) and value for value in values):
        raise Refused("its encoder's constants are not one number a channel")
    return values


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
