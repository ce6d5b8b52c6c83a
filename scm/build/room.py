"""Room on the disk for the trainings of a plan."""

import os
from collections.abc import Sequence
from pathlib import Path

from scm.params import Params
from scm.params.schema import NetworkSection
from scm.training.room import bytes_written, shortage


def shortage_of(params: Params, root: Path, stages: Sequence[str]) -> str | None:
    """A warning if what these stages (such as train_student@scd) write does not fit on the disk; None if it does.

    Only trainings count: they write by far the most. Labels and a method's further inputs are left out.
    """
    trainings = [name for name in stages if name.startswith("train_")]
    folder, ema = Path(os.environ.get("SCM_WORK") or root / ".work"), params.ema

    def warning(parameters: int) -> str | None:
        each = bytes_written(parameters, 0, len(ema.profiles), ema.snapshots, ema.halflife is not None)
        return shortage(folder, len(trainings) * each, f"{len(trainings)} trainings write")

    # Importing torch takes longer than all the rest of a plan.
    if not trainings or warning(most_parameters(params.network)) is None:
        return None
    return warning(_parameters(params))


def most_parameters(network: NetworkSection) -> int:
    """A number that the network's parameters, without those for labels, do not reach.

    With C channels at most, a block has fewer than 50 C^2: in a U-Net's decoder two convolutions of 3x3 pixels, the
    first of them from 2 C channels, attention, and a modulation by at most 4 C numbers. The embedding has fewer than a
    block, and so have the layers of the image and w_phi together, beside a number for each feature.
    """
    channels = network.width * max(network.multipliers)
    blocks = len(network.multipliers) * (2 * network.blocks + 3) + 2
    return blocks * 50 * channels**2 + 1000 * channels


def _parameters(params: Params) -> int:
    import torch

    from scm.build.models import network_settings
    from scm.networks import Model

    with torch.device("meta"):
        model = Model(network_settings(params.network, 0, params.shape), precision=torch.float32)
    return sum(value.numel() for value in model.parameters())
