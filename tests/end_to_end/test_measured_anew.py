"""Another extractor changes what measures and nothing that trains; its features do not depend on how they were made."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from scm.base.files import sha256
from scm.results.reading import read_figures
from tests.end_to_end.conftest import copy_project, edit, environment, run_in_two, run_stage, run_stages, runner

pytestmark = pytest.mark.slow
WEIGHTS = "data/extractor/features.pt2"
KILLED = """
import os, runpy, signal
from scm.base import weights

def killed(file, *content, save=weights.save_sealed):
    if len(list(file.parent.glob("features-*.safetensors"))) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    save(file, *content)

weights.save_sealed = killed
runpy.run_module("stages.reference", run_name="__main__")
"""
"""The stage reference, which is killed with -9 when it has saved two blocks of sixteen."""


def exported(path: Path) -> str:
    """A small convolutional network with random weights as a file of torch.export; its SHA-256."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 24, 3, stride=2), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten())

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, images):
            return self.inner(images.float() / 255)

    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(Scaled().eval(), (torch.zeros(2, 3, 8, 8, dtype=torch.uint8),), dynamic_shapes=batch)
    torch.export.save(program, path)
    return sha256(path)


@pytest.fixture(scope="module")
def measured(project: Path, tmp_path_factory) -> Path:
    """A copy of the project, sCD measured anew with other features."""
    folder = copy_project(project, tmp_path_factory.mktemp("extractor") / "project")
    edit(folder, "mlflow.enabled", False)
    (folder / "data/extractor").mkdir()
    digest = exported(folder / WEIGHTS)
    for key, value in {"extractor": "exported", "weights": WEIGHTS, "sha256": digest}.items():
        edit(folder, f"reference.{key}", value)
    run_stages(folder, "reference", "select_ema@scd", "evaluate@scd", "report")
    return folder


def test_another_extractor_trains_nothing(measured: Path):
    """What was not measured anew is out of date, and nothing else."""
    stale = set(json.loads(runner(measured)("dvc", "status", "--json").stdout))
    assert stale == {f"{stage}@{model}" for stage in ("select_ema", "evaluate") for model in ("teacher", "sct")}


def test_its_figures_have_no_classifier_in_them(measured: Path):
    metrics = read_figures(measured, "reference", None)
    assert metrics.keys() == {"features", "images", "held_out"} and metrics["features"] == 96
    figures = read_figures(measured, "evaluate", "scd")
    assert "fd@2" in figures and "accuracy@2" not in figures
    assert all(np.isfinite(value) for value in figures.values())
    header = json.loads((measured / "data/reference/header.json").read_text())
    assert header["extractor"] == "exported" and header["weights_sha256"] == sha256(measured / WEIGHTS)
    assert "that it did not see" not in (measured / "results/report.html").read_text()


@pytest.fixture
def refused(capsys):
    """The line with which the stage reference ends in a project."""

    def run(folder: Path) -> str:
        capsys.readouterr()
        run_stage(folder, "stages.reference", code=1)
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        return error

    return run


def test_statistics_of_other_people_take_the_place_of_ones_own(measured: Path, refused, tmp_path):
    """Those of the same images give the same distance."""
    folder = copy_project(measured, tmp_path / "project")
    tensors = load_file(folder / "data/reference/statistics.safetensors")
    count = tensors["count"]
    mean = tensors["sum"] / count
    covariance = (tensors["outer_sum"] - count * torch.outer(mean, mean)) / (count - 1)
    np.savez(folder / "theirs.npz", mu=mean.numpy(), sigma=covariance.numpy())
    edit(folder, "data.held_out", 0.0)
    edit(folder, "reference.statistics", "theirs.npz")
    edit(folder, "reference.statistics_sha256", sha256(folder / "theirs.npz"))
    run_stage(folder, "stages.reference")
    run_stage(folder, "stages.evaluate", "scd")
    ours, theirs = (read_figures(place, "evaluate", "scd") for place in (measured, folder))
    assert theirs["fd@2"] == pytest.approx(ours["fd@2"], rel=1e-6)
    assert theirs["precision@2"] == ours["precision@2"]
    edit(folder, "reference.statistics_sha256", "0" * 64)
    failed = refused(folder)
    assert "theirs.npz has the SHA-256" in failed and "reference.statistics_sha256 = 00" in failed


def stored(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "data/reference").iterdir())}


def test_killed_and_shared_among_processes_it_stores_the_same_bytes(project, tmp_path):
    """kill -9 in the middle of the pass, then two processes go on with it."""
    folder = copy_project(project, tmp_path / "project")
    edit(folder, "mlflow.enabled", False)
    place = folder / ".work/reference"
    expected = stored(folder)
    shutil.rmtree(folder / "data/reference")
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=folder, env=environment())
    assert killed.returncode == -signal.SIGKILL
    assert len(list(place.glob("*/features-*.safetensors"))) == 2 and not (folder / "data/reference").exists()
    edit(folder, "runtime.processes", 2)
    assert "classifier: epoch" not in run_in_two(folder, "stages.reference"), "what was trained is kept"
    assert stored(folder) == expected
    assert not list(place.glob("*/features-*.safetensors"))


def test_wrong_weights_end_in_a_line(measured: Path, refused):
    edit(measured, "reference.sha256", None)
    try:
        failed = refused(measured)
    finally:
        edit(measured, "reference.sha256", sha256(measured / WEIGHTS))
    assert "features.pt2 has the SHA-256" in failed and "write reference.sha256: " in failed
