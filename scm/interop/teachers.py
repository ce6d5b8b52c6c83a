"""Read teachers of other programs as scm's: settings, weights, and the codec of their training data.

EDM and EDM2 train F_edm in D(x; sigma) = c_skip x + c_out F_edm(c_in x, ln(sigma) / 4). With sigma = sigma_d tan t and
x = x_t / cos t that is cos t x_t - sin t sigma_d F with F = -F_edm (app. B): the last layer changes its sign, and the
network keeps its own noise input. The source that a pickle carries is neither run nor read, so a changed program with
unchanged names and tensors passes for the original.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scm.base import weights
from scm.base.files import sha256
from scm.base.project import TEACHER
from scm.base.randomness import global_draws, seed_of
from scm.errors import UserError
from scm.interop import modules
from scm.interop.names import EDM, EDM2, Program, check_tensors, program_of, settings_of
from scm.networks import NetworkSettings
from scm.networks.model import GUIDE, LogWeight
from scm.pickles import edm
from scm.pickles.machine import Record, Refused, short

SIGMA_D = 0.5
"""Both programs' value, for files that do not give it."""
OWN = "scm"
LICENCE = "CC BY-NC-SA 4.0 (non-commercial)"
"""Licence of the weights that EDM's and EDM2's authors publish."""
NETWORKS = {"Precond": EDM2, "EDMPrecond": EDM}
"""The class around the network in each program's pickles."""


@dataclass(frozen=True)
class Teacher:
    """A network that serves as a TrigFlow teacher.

    Attributes:
        program: EDM2, EDM or scm.
        settings: the network's settings.
        state: float32 tensors under scm's names.
        codec: header of the codec of its training data.
        classes: names of the classes; empty = unknown, or none.
        images: number of images seen in training; 0 = unknown.
        sigma_rel: length of the average; None = unknown.
        notes: what was left out or assumed.
        label_dropout: fraction of training samples without their label; 0 = it cannot be guided.
        licence: terms of the weights, if they are known.
    """

    program: str
    settings: NetworkSettings
    state: dict[str, Tensor]
    codec: dict[str, Any]
    classes: list[str]
    images: int
    sigma_rel: float | None
    notes: list[str]
    label_dropout: float = 0.0
    licence: str | None = None

    def takes(self, codec: dict[str, Any]) -> bool:
        """True if it was trained on what this codec makes.

        The pickles of EDM2's authors do not say which autoencoder encoded their images; any is accepted for them.
        """
        silent = self.program != OWN and self.codec["autoencoder"] is None
        return codec == (self.codec | {"autoencoder": codec.get("autoencoder")} if silent else self.codec)

    def origin(self, file: Path) -> dict[str, str]:
        """The file that it was read from, for the headers of networks that are made from it."""
        found = {"file": file.name, "sha256": sha256(file), "program": self.program}
        return found if self.licence is None else {**found, "licence": self.licence}


def read_teacher(path: Path) -> Teacher:
    """Reads a teacher from a pickle of EDM2 or EDM, from their state dict in safetensors, or from a file of scm.

    Raises:
        UserError: the file is damaged, something in it was refused, or it holds no teacher.
    """
    try:
        with path.open("rb") as handle:
            is_safetensors = handle.read(9)[8:] == b"{"
        return _from_safetensors(path) if is_safetensors else _from_pickle(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the path") from None
    except Refused as error:
        raise UserError(f"{path}: {error}") from None


def _from_safetensors(path: Path) -> Teacher:
    tensors, metadata = weights.load_any(path, "check the path", "download it again")
    if "scm" in metadata:
        return _own(tensors, metadata["scm"])
    teacher = _converted(path, program_of(_shapes(tensors)), tensors, modules.CHANNELS_PER_HEAD, SIGMA_D, None)
    heads = f" and {modules.CHANNELS_PER_HEAD} channels a head" if teacher.program == EDM2.name else ""
    teacher.notes.append(f"assumed, since a state dict does not say it: sigma_d {SIGMA_D}{heads}")
    return teacher


def _own(tensors: dict[str, Tensor], header: str) -> Teacher:
    """A teacher that another project of scm has trained, or imported itself."""
    try:
        values = json.loads(header)
        if values["model"] != TEACHER:
            raise Refused(f"a {short(str(values['model']))}, not a teacher")
        settings, notes = NetworkSettings.from_dict(values["network"]), []
        if "guide" in values:
            tensors = {name: value for name, value in tensors.items() if not name.startswith(GUIDE)}
            notes.append("left out: the network that guides it; select.guide names one")
        check_tensors(_shapes(tensors), settings)
        program = values.get("imported", {}).get("program", OWN)
        codec, classes, images, sigma_rel = (values[key] for key in ("codec", "classes", "images", "sigma_rel"))
        dropped = values.get("label_dropout", 0.0)
        made_from = [values.get(key, {}) for key in ("imported", "start")]
        bound = any(each.get("program", OWN) != OWN or "licence" in each for each in made_from)
        good = program in (OWN, EDM.name, EDM2.name) and modules.is_codec_of(codec, settings)
        good = good and isinstance(dropped, float) and 0 <= dropped < 1
        good = good and isinstance(classes, list) and all(isinstance(name, str) for name in classes)
        if not good or type(images) is not int or not isinstance(sigma_rel, float | None):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Refused("its header is not that of a teacher of scm's") from None
    state = {name: _plain(name, value) for name, value in tensors.items()}
    licence = LICENCE if bound else None
    return Teacher(program, settings, state, codec, classes, images, sigma_rel, notes, dropped, licence)


def _from_pickle(path: Path) -> Teacher:
    content = edm.read_pickle(path)
    content = content if isinstance(content, dict) else {"ema": content}
    network = content.get("ema")
    kind = network.class_name if isinstance(network, Record) else type(network).__name__
    if not isinstance(network, Record) or kind not in NETWORKS:
        known = "a Precond of EDM2 or an EDMPrecond of EDM"
        problem = f"a {short(kind)} instead of {known}"
        raise Refused(f"{problem}: networks around which are others take other noise inputs")
    parts = modules.modules_of(network)
    tensors = modules.tensors_of(parts)
    program = program_of(_shapes(tensors))
    if program is not NETWORKS[kind]:
        raise Refused(f"a {kind} around a network of {program.name}")
    heads, sigma_d = modules.channels_per_head(parts), float(modules.number(network, "sigma_data"))
    teacher = _converted(path, program, tensors, heads, sigma_d, content.get("encoder"))
    modules.check_attributes(parts, teacher.settings)
    return teacher


def _converted(
    path: Path, program: Program, tensors: dict[str, Tensor], heads: int, sigma_d: float, encoder: Any
) -> Teacher:
    """Converts the program's tensors to a teacher; `heads` = channels of an attention head."""
    if sigma_d <= 0:
        raise Refused(f"its sigma_data is {sigma_d:g}, but a standard deviation is above 0")
    tensors, notes = _used(tensors)
    settings = settings_of(program, _shapes(tensors), heads, sigma_d)
    names = check_tensors(_shapes(tensors), settings, program)
    state = {ours: _plain(theirs, tensors[theirs]) for theirs, ours in names.items()}
    # F = -F_edm: the sign of the last layer changes. EDM has no weighting network, so it gets a fresh one.
    if program is EDM2:
        state["network.out_gain"] = -state["network.out_gain"]
    else:
        state |= {name: -state[name] for name in ("network.out_conv.weight", "network.out_conv.bias")}
        with global_draws(seed_of(0, "imported log weight")):
            state |= {f"log_weight_head.{name}": value for name, value in LogWeight().state_dict().items()}
    images, sigma_rel = run_of(path.stem)
    codec = modules.codec_of(encoder, settings)
    return Teacher(program.name, settings, state, codec, [], images, sigma_rel, notes, licence=LICENCE)


def _used(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors that scm's network has too, and notes on EDM's other tensors."""
    notes = []
    filters = {name for name in tensors if name.endswith(".resample_filter")}
    for name in filters:
        if tensors[name].shape != (1, 1, 2, 2) or not (tensors[name] == 0.25).all():
            raise Refused(f"its {short(name)} is not [1, 1], as it always is in scm's networks")
    if augment := {"model.map_augment.weight"} & tensors.keys():
        layer = "the layer for augmentation labels, which adds nothing to an image that is not augmented"
        notes.append(f"left out: {layer}")
    return {name: value for name, value in tensors.items() if name not in filters | augment}, notes


def _plain(name: str, value: Tensor) -> Tensor:
    """Converts a tensor to float32; refuses numbers that are not finite."""
    plain = value.to(torch.float32)
    if not value.is_floating_point() or not plain.isfinite().all():
        raise Refused(f"its {short(name)} has values that are no finite floating-point numbers")
    return plain


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def run_of(stem: str) -> tuple[int, float | None]:
    """Images seen and length of the average, if a file name of EDM2's or EDM's tells them; otherwise 0 and None.

    The names count thousands of images, rounded down; EDM2's snapshots lie at multiples of 1,024 images.
    """
    match = re.search(r"-(\d{6,7})(?:-(0\.\d{3}))?$", stem)
    if not match:
        return 0, None
    return (int(match[1]) * 1000 + 999) // 1024 * 1024, float(match[2]) if match[2] else None
