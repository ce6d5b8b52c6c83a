"""Derive a network's settings from the names and shapes of EDM2's and EDM's tensors, and scm's names of the tensors.

The names tell resolutions, blocks and attention, and the shapes tell the rest, so a plain state dict is enough. The
derived settings are checked by building the network, which must have exactly these tensors.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from scm.networks import Model, NetworkSettings, flavoured
from scm.pickles.machine import Refused, short

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Program:
    """How one of the two programs names a network's tensors.

    Attributes:
        name: the program's name.
        flavour: its network, as `scm.networks.flavoured` names it.
        unet: beginning of the names of the U-Net's tensors.
        convolution: name of a block's first convolution.
        attention: name of the first layer of a block's attention.
        label: name of the layer that takes the class.
        prefixes: beginnings of scm's names and of the program's; {size} = the size of the images, e.g. 32x32.
    """

    name: str
    flavour: str
    unet: str
    convolution: str
    attention: str
    label: str
    prefixes: tuple[tuple[str, str], ...]

    def name_of(self, ours: str, resolution: int) -> str:
        """The program's name of one of scm's tensors; scm's own name if the program has no such tensor."""
        for prefix, other in self.prefixes:
            if ours.startswith(prefix):
                return other.format(size=f"{resolution}x{resolution}") + ours.removeprefix(prefix)
        return ours


EDM2_PREFIXES = (
    ("network.emb_time.", "unet.emb_fourier."),
    ("network.encoder.", "unet.enc."),
    ("network.decoder.", "unet.dec."),
    ("network.", "unet."),
    ("log_weight_head.features.", "logvar_fourier."),
    ("log_weight_head.linear.", "logvar_linear."),
)
EDM_PREFIXES = (
    ("network.encoder.", "model.enc."),
    ("network.decoder.", "model.dec."),
    ("network.out_norm.", "model.dec.{size}_aux_norm."),
    ("network.out_conv.", "model.dec.{size}_aux_conv."),
    ("network.", "model."),
)
EDM2 = Program("EDM2", "edm2", "unet.", "conv_res0", "attn_qkv", "emb_label", EDM2_PREFIXES)
EDM = Program("EDM", "ddpmpp", "model.", "conv0", "qkv", "map_label", EDM_PREFIXES)
OTHERS = {
    "NCSN++": r"model\.map_noise\.freqs|.*_aux_residual\..*",
    "ADM (DhariwalUNet)": r"model\.out_norm\..*",
    "skip-connected SongUNet": r".*_aux_(down|skip|up)\..*",
}
"""EDM's other networks, recognised by tensors that only they have."""


def program_of(shapes: Shapes) -> Program:
    """The program that uses these names.

    Raises:
        Refused: none does, or the network is of a kind that scm does not have.
    """
    for network, pattern in OTHERS.items():
        if any(re.fullmatch(pattern, name) for name in shapes):
            raise Refused(f"a network of the kind {network}, which scm does not have: of EDM's, import a DDPM++ one")
    for program in (EDM2, EDM):
        if any(name.startswith(f"{program.unet}enc.") for name in shapes):
            return program
    raise Refused("its tensors have neither EDM2's names (unet.enc...) nor EDM's (model.enc...)")


def settings_of(program: Program, shapes: Shapes, channels_per_head: int, sigma_d: float) -> NetworkSettings:
    """The settings of the network with these tensors; `channels_per_head` is EDM2's, since EDM's have a single head."""

    def shape(name: str) -> tuple[int, ...]:
        if len(shapes.get(name, ())) < 2:
            raise Refused(f"the tensor {name} is missing")
        return shapes[name]

    # The names of the encoder's blocks tell the resolutions and the number of blocks at each.
    encoder = f"{program.unet}enc."
    matches = [re.match(rf"{re.escape(encoder)}(\d{{1,5}})x\1_block(\d{{1,3}})\.", name) for name in shapes]
    blocks = {(int(match[1]), int(match[2])) for match in matches if match}
    sizes = sorted({size for size, _ in blocks}, reverse=True)
    count = sum(size == sizes[0] for size, _ in blocks)
    if not sizes or len(blocks) != len(sizes) * count:
        raise Refused(f"its levels {encoder}... have no blocks, or not all the same number of them")
    # The first block of each resolution tells its channels and whether it has attention.
    names = {size: f"{encoder}{size}x{size}_block0." for size in sizes}
    channels = {size: shape(f"{name}{program.convolution}.weight")[0] for size, name in names.items()}
    attention = tuple(size for size, name in names.items() if f"{name}{program.attention}.weight" in shapes)
    width, inputs = shape(f"{encoder}{sizes[0]}x{sizes[0]}_conv.weight")[:2]
    attended = {channels[size] for size in (*attention, sizes[-1])}
    if program is EDM:
        channels_per_head = max(attended)
        if len(attended) > 1:
            raise Refused(f"one head in blocks of {sorted(attended)} channels: scm's heads are all of one size")
    if not width or any(rows % width for rows in channels.values()):
        raise Refused(f"{list(channels.values())} channels at its levels, which are not all multiples of {width}")
    label = f"{program.unet}{program.label}.weight"
    return NetworkSettings(
        resolution=sizes[0],
        channels=inputs - (program is EDM2),  # a channel of ones is added there
        classes=shape(label)[1] if label in shapes else 0,
        multipliers=tuple(rows // width for rows in channels.values()),
        width=width, blocks=count, attention=attention, channels_per_head=channels_per_head, sigma_d=sigma_d,
        **flavoured(program.flavour),
    )  # fmt: skip


def check_tensors(shapes: Shapes, settings: NetworkSettings, program: Program | None = None) -> dict[str, str]:
    """Maps the program's names to scm's; without a program the tensors already have scm's names.

    Raises:
        Refused: the tensors are not exactly those of a network with these settings.
    """
    if settings.blocks * len(settings.multipliers) > len(shapes):
        raise Refused("fewer tensors than blocks")
    try:
        with torch.device("meta"):
            model = Model(settings)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise Refused(f"no network has such tensors ({' '.join(str(error).split())})") from None
    # Compare the network that these settings build with the tensors, under the program's names.
    ours = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if program is EDM:
        ours = {name: value for name, value in ours.items() if not name.startswith("log_weight_head.")}
    theirs = {program.name_of(name, settings.resolution) if program else name: name for name in ours}
    expected = {name: ours[other] for name, other in theirs.items()}
    for problem, names in (
        ("is missing", expected.keys() - shapes.keys()),
        ("is unknown", shapes.keys() - expected.keys()),
        ("has another shape", {name for name in expected.keys() & shapes.keys() if expected[name] != shapes[name]}),
    ):
        if names:
            more = f", and {len(names) - 1} more" if len(names) > 1 else ""
            levels = f"width {settings.width}, multipliers {settings.multipliers}, {settings.blocks} blocks a level"
            name = short(min(names))
            raise Refused(f"the tensor {name}{more}, {problem} in an {settings.architecture} network ({levels})")
    return theirs
