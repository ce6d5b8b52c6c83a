"""Small things that several tests share."""

import dataclasses
import importlib.util
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from scm.base import weights
from scm.base.files import write_json
from scm.data.latents.autoencoders import save_codec
from scm.data.latents.codec import plain_header
from scm.networks import Model, NetworkSettings, flavoured
from scm.networks.architectures import names

TINY = NetworkSettings(
    resolution=8, channels=1, classes=3, architecture="edm2", width=8, multipliers=(1, 2), blocks=1, attention=(4,),
    channels_per_head=8,
)  # fmt: skip
T_MAX = math.atan(80.0 / 0.5)
WIDER = {"width": 16, "channels_per_head": 16}
PATCHES = {"width": 16, "channels_per_head": 8, "multipliers": (1,), "attention": (), "patch": 2}
FLAVOURS = [f"{name}{ending}" for name in names() for ending in ("", "-trigflow")]
"""Every network as its authors wrote it, and as the paper changes it."""
FAMILIES = {
    "edm2": flavoured("edm2"),
    "edm2-trigflow": flavoured("edm2-trigflow"),
    "ddpmpp": {**flavoured("ddpmpp"), **WIDER},
    "ddpmpp-trigflow": {**flavoured("ddpmpp-trigflow"), **WIDER},
    "ddpmpp-scale_shift": {**flavoured("ddpmpp-trigflow"), **WIDER, "modulation": "scale_shift"},
    "dit": {**flavoured("dit"), **PATCHES},
    "dit-trigflow": {**flavoured("dit-trigflow"), **PATCHES},
}
"""Changes of TINY to a network of each family and flavour."""


def tiny_model(seed: int = 0, *, dropout: float = 0.0, **changes: object) -> Model:
    """A small network in which nothing is at its zero start; `changes` to its settings."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Model(dataclasses.replace(TINY, **changes), dropout=dropout)  # type: ignore[arg-type]
        with torch.no_grad():
            model.log_weight_head.linear.weight.normal_(std=0.05)
            for name, parameter in model.named_parameters():
                if name.endswith("gain"):
                    parameter.fill_(0.7)
                elif name.endswith(("conv1.weight", "proj.weight", "out_conv.weight")):
                    parameter.normal_(std=0.2)
                elif name.startswith("network") and ("norm" in name or name.endswith("bias")):
                    parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def save_model(
    project: Path,
    name: str,
    seed: int = 0,
    *,
    scale: float = 1.0,
    scale_1step: float | None = None,
    t_mid: float | None = None,
    **changes: Any,
) -> None:
    """Writes a small random model, and the codec of its pixels, where a project has them; `changes` to its header."""
    net = tiny_model(seed, guidance="guidance" in changes)
    header = {
        "model": name, "network": net.settings.to_dict(), "precision": "fp32", "sigma_d": 0.5, "t_max": T_MAX,
        "classes": ["zero", "one", "two"], "codec": plain_header("identity", 0.5, [1, 8, 8]), **changes,
    }  # fmt: skip
    weights.save(project / f"models/{name}/model.safetensors", net.state_dict(), header)
    first = changes.get("segments", 18 if name == "teacher" else 1)
    sampling = {first: {"guidance_scale": scale if scale_1step is None else scale_1step}}
    sampling |= {} if t_mid is None else {2: {"guidance_scale": scale, "t_mid": t_mid}}
    write_json(project / f"models/{name}/sampling.json", sampling)
    save_codec(project / "data/codec", plain_header("identity", 0.5, [1, 8, 8]), None)


class Linear(nn.Module):
    """F(x, t) = exact velocity / sigma_d of N(0, scale^2) data: the network that solves diffusion for Gaussian data.

    x_t ~ N(0, cos^2 scale^2 + sin^2 sigma_d^2), and E[v_t | x_t] = cos sin (sigma_d^2 - scale^2) / variance * x_t.
    """

    def __init__(self, scale: float, sigma_d: float) -> None:
        super().__init__()
        self.scale, self.sigma_d = scale, sigma_d
        self.factor = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        t = t.reshape(-1, *[1] * (x.ndim - 1))
        cos, sin = torch.cos(t), torch.sin(t)
        variance = cos * cos * self.scale**2 + sin * sin * self.sigma_d**2
        return self.factor * (cos * sin * (self.sigma_d**2 - self.scale**2) / variance) * x

    def log_weight(self, t: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(t)


@contextmanager
def small_disk(size: str) -> Iterator[Path]:
    """A file system of its own, of a size such as 48k; the test is left out where it cannot be mounted."""
    if shutil.which("mount") is None or os.geteuid():
        pytest.skip("only root can mount a small file system")
    with tempfile.TemporaryDirectory(prefix="scm-disk-") as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting a small file system failed: {done.stderr.strip()}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def recipes(name: str) -> ModuleType:
    """A program of tests/golden, whose recipes make the weights and images of the figures there."""
    golden, before = Path(__file__).parents[1] / "golden", list(sys.path)
    spec = importlib.util.spec_from_file_location(name, golden / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = before  # to which one of them adds its own folder
    return module
