"""Room on the disk for the trainings of a plan."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from scm.build.models import network_settings
from scm.networks import Model
from scm.params import Params
from scm.training.room import bytes_written, shortage


def shortage_of(params: Params, root: Path, stages: Sequence[str]) -> str | None:
    """A warning if what these stages (such as train_student@scd) write does not fit on the disk; None if it does.

    Only trainings count: they write by far the most. Labels and a method's further inputs are left out.
    """
    trainings = [name for name in stages if name.startswith("train_")]
    if not trainings:
        return None
    with torch.device("meta"):
        model = Model(network_settings(params.network, 0, params.shape), precision=torch.float32)
    parameters, ema = sum(value.numel() for value in model.parameters()), params.ema
    each = bytes_written(parameters, 0, len(ema.profiles), ema.snapshots, ema.halflife is not None)
    folder = Path(os.environ.get("SCM_WORK") or root / ".work")
    return shortage(folder, len(trainings) * each, f"{len(trainings)} trainings write")
