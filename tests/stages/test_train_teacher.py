"""Stage train_teacher from somebody else's weights: the steps continue them, and header and run file name them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from scm.base import weights
from scm.base.files import sha256
from scm.data.latents.codec import plain_header
from scm.data.shards.shards import write_latents
from scm.params.project import Project
from scm.pipeline.stage import Stage
from scm.results.fingerprint import Inputs
from stages import train_teacher
from tests.support import originals
from tests.support.projects import params_with

SHAPE = {"resolution": 8, "channels": 1, "classes": 3, "width": 32, "multipliers": (1, 2), "blocks": 1, "attention": 4}
VALUES = {
    "teacher.images": 4, "teacher.batch": 4, "teacher.start": "edm2.pkl", "ema.snapshots": 1, "select.progress": 1,
    "teacher.lr": {"max": 1e-9, "warmup": 0, "decay": "constant", "decay_from": 0}, "runtime.device": "cpu",
    "mlflow.enabled": False,
}  # fmt: skip


def test_a_teacher_that_starts_from_edm2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = originals.filled(originals.edm2_shapes(**SHAPE))
    file = originals.edm2_file(tmp_path / "edm2.pkl", originals.edm2_network(theirs, channels_per_head=32))
    codec = plain_header("identity", 0.5, [1, 8, 8])
    images = ((f"{i}", np.full((1, 8, 8), 40 * i, np.uint8), i % 3) for i in range(6))
    write_latents(images, tmp_path / "data/latents", 8, {"classes": ["a", "b", "c"], "codec": codec})
    project = Project(tmp_path, params_with({**VALUES, "teacher.start_sha256": sha256(file)}))
    stage = Stage("train_teacher", None, project, Inputs({}, {}, "0" * 64), tmp_path / "work")
    stage.work.mkdir()
    train_teacher.run(stage)
    given = stage.extra["given"]["start"]
    assert given["file"] == "edm2.pkl" and given["licence"] == "CC BY-NC-SA 4.0 (non-commercial)"
    state, header = weights.load(tmp_path / "models/teacher/snapshots/000000000004-0.100.safetensors")
    assert header["start"] == given and header["network"]["modulation"] == "double_norm"
    # After a step of length 1e-9 these are EDM2's weights, but for the unit length that the loop gives their rows.
    name = "8x8_block0.conv_res0.weight"
    ours, original = state[f"network.encoder.{name}"].flatten(1), theirs[f"unet.enc.{name}"].flatten(1)
    assert torch.cosine_similarity(ours, original).min() > 0.9999
    assert torch.allclose(state["network.out_gain"], -theirs["unet.out_gain"], atol=1e-6)
    printed = capsys.readouterr().out
    assert (
        "[train_teacher] starts from edm2.pkl (EDM2): 37 of 62 tensors copied" in printed and "CC BY-NC-SA" in printed
    )
