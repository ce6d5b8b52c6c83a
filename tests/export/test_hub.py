"""`scm export --to diffusers`: diffusers draws the images of `scm sample` where scm cannot be imported."""

import ast
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import scm
from scm import cli
from scm.base import weights
from scm.base.files import write_json
from scm.base.project import TEACHER
from scm.data.latents.autoencoders import Weights, save_codec
from scm.data.latents.codec import plain_header
from scm.errors import UserError
from scm.export.hub import PARTS, export_diffusers, joined_source
from scm.export.write import Wanted
from scm.networks.architectures import names
from tests.support import projects as shipped
from tests.support.models import TINY, save_model, tiny_model

LOADER = """
import sys, torch

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "scm":
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocked())
from diffusers import DiffusionPipeline

for folder in sys.argv[1:]:
    draw = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    draw.set_progress_bar_config(disable=True)
    for steps in (1, 2):
        noise = [torch.Generator().manual_seed(seed) for seed in range(3, 8)]
        classes = draw.network.config.classes
        options = {"num_images": 5, "num_inference_steps": steps, "generator": noise}
        images = draw([classes[2], 0] if classes else None, output_type="pt", **options).images
        torch.save(images, f"{folder}-{steps}.pt")
assert draw().images[0].size == (32, 32)
"""


def test_the_joined_source_is_a_module_that_knows_nothing_of_scm():
    for name in names():
        source = joined_source(name)
        imported = {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
        assert not any(str(module).startswith("scm") for module in imported)
        defined = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        assert len(set(defined)) == len(defined) and "ScmNetwork" in defined and "MPConv" in defined
    assert "scm.networks.settings" not in source and len(PARTS) == 5


def with_latents(root: Path) -> None:
    """A student on 4 x 4 latents of a small random AutoencoderKL."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    config = {
        "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [4] * 4, "norm_num_groups": 2, "latent_channels": 4, "sample_size": 32,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKL(**config)
    about = {"sha256": ["0" * 64], "config": config, "precision": "fp32"}
    header = plain_header("sd_vae", 0.5, [4, 4, 4], about) | {"mean": [0.1] * 4, "std": [2.0] * 4}
    save_codec(root / "data/codec", header, Weights(vae.state_dict(), config, ["0" * 64], "a test"))
    net = tiny_model(4, resolution=4, channels=4, classes=0)
    settings = dataclasses.replace(TINY, resolution=4, channels=4, classes=0).to_dict()
    shared = {"network": settings, "precision": "fp32", "sigma_d": 0.5, "t_max": 1.56, "classes": [], "codec": header}
    for name, choices in (("scd", {1: {"guidance_scale": 1.0}, 2: {"guidance_scale": 1.0, "t_mid": 0.7}}),
                          (TEACHER, {18: {"guidance_scale": 1.0}})):  # fmt: skip
        weights.save(root / f"models/{name}/model.safetensors", net.state_dict(), {"model": name, **shared})
        write_json(root / f"models/{name}/sampling.json", choices)


@pytest.mark.long
def test_diffusers_draws_the_same_without_scm(tmp_path, monkeypatch):
    expected = {}
    for kind in ("pixels", "latents"):
        root = tmp_path / f"{kind}-project"
        root.mkdir()
        shipped.make_project(root)
        if kind == "latents":
            with_latents(root)
        else:
            save_model(root, "teacher", label_dropout=0.1)
            save_model(root, "scd", seed=1, t_mid=0.8, guidance=[1.0, 2.0], scale=1.6, scale_1step=1.2)
        monkeypatch.chdir(root)
        assert cli.main(["export", "--to", "diffusers", "--model", "scd", str(tmp_path / kind)]) == 0
        model = scm.load("models/scd")
        for steps in (1, 2):
            classes = [2, 0] if model.classes else None
            expected[kind, steps] = model.sample(classes, count=5, steps=steps, seed=3).tensor
    (tmp_path / "load.py").write_text(LOADER)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "load.py", "pixels", "latents"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for (kind, steps), images in expected.items():
        drawn = torch.load(tmp_path / f"{kind}-{steps}.pt")
        assert drawn.shape == images.shape and (drawn.int() - images.int()).abs().max() <= 1, (kind, steps)
    card = (tmp_path / "pixels/README.md").read_text()
    assert card.startswith("---\nlicense: other\n") and "# sCD: images in few steps" in card
    assert "Apache-2.0" in (tmp_path / "pixels/LICENSE.md").read_text()


def test_what_diffusers_cannot_draw_is_refused(root, tmp_path):
    wanted = Wanted(scm.load(root / "models/multistep"), (2,), None, "# Card")
    message = "multistep jumps from time to time, which diffusers' SCMScheduler does not: use --to torch"
    with pytest.raises(UserError, match=f"^{message}$"):
        export_diffusers(wanted, tmp_path / "new")
    assert not (tmp_path / "new").exists()
