"""Training in an autoencoder's latents, from images to the report, with DVC and a small random AutoencoderKL."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import save_file

from scm.base import weights
from scm.results.reading import read_figures
from tests.end_to_end.conftest import due, environment, make_project, run_stage, run_stages, scm_here

pytestmark = pytest.mark.slow

CLASSES, EACH, SIDE = ("lying", "standing"), 32, 64
CONFIG = {
    "latent_channels": 4, "block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4, "layers_per_block": 1,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip
RATE = {"max": 1.0e-3, "warmup": 64, "decay": "constant", "decay_from": 0}


def write_images(folder: Path) -> None:
    draws = np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(EACH):
            stripes = np.tile(np.arange(SIDE) // 8 % 2 * 120, (SIDE, 1))
            pixels = (stripes.T if name == "lying" else stripes)[..., None] + draws.integers(0, 120, (SIDE, SIDE, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")


def write_autoencoder(folder: Path) -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoencoderKL.from_config(CONFIG)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(model.state_dict(), folder / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_project(tmp_path_factory.mktemp("latents"))
    write_images(folder / "data/raw")
    write_autoencoder(folder / "data/autoencoder")
    scm_here(folder, "preset", "apply", "photos-latent")
    path, yaml = folder / "params.yaml", YAML()
    params = yaml.load(path.read_text())
    params["data"] |= {"resolution": SIDE, "shard_images": 4, "held_out": 0.0}
    params["codec"] |= {"name": "sd_vae", "channels": 4, "precision": "fp32"}
    params["reference"]["classifier"] |= {"width": 8, "features": 16, "epochs": 1, "batch": 16}
    params["network"] |= {"width": 16, "blocks": 1, "attention": [4], "channels_per_head": 16}
    params["teacher"] |= {"images": 256, "batch": 32, "precision": "fp32", "lr": RATE}
    params["student"]["common"] |= {"batch": 32, "precision": "fp32", "lr": RATE, "tangent_warmup": 64}
    params["student"]["scd"]["images"] = 128
    params["ema"]["snapshots"] = 2
    params["sampler"]["teacher_steps"] = 4
    params["select"] |= {
        "sigma_rel": {"teacher": [0.1], "student": [0.1]},
        "t_mid": [0.8],
        "samples": 24,
        "progress": 1,
    }
    params["evaluate"] |= {"samples": 48, "batch": 16}
    params["mlflow"]["enabled"] = False
    with path.open("w") as file:
        yaml.dump(params, file)
    run_stages(folder, *due(folder))
    return folder


def test_everything_is_trained_in_latents_and_shown_in_pixels(project):
    encoded = read_figures(project, "encode", None)
    assert encoded["images"] == 2 * EACH and encoded["psnr"] > 0 and {"mean_3", "std_3"} <= encoded.keys()
    header = json.loads((project / "data/codec/header.json").read_text())
    assert header["shape"] == [4, SIDE // 8, SIDE // 8]
    for model in ("teacher", "scd"):
        assert weights.read_header(project / f"models/{model}/model.safetensors")["codec"] == header
        figures = read_figures(project, "evaluate", model)
        assert all(np.isfinite(value) for value in figures.values()) and "fd@2" in figures
    with Image.open(project / "results/samples/scd/nfe-2.png") as grid:
        assert grid.mode == "RGB" and grid.width >= 2 * SIDE
    assert (project / "results/report.html").stat().st_size > 10_000


def test_samples_are_drawn_without_the_original_files_and_another_codec_is_refused(project, scm, tmp_path):
    options = ("sample", "--model", "scd", "--steps", "2", "-n", "4", "-o")
    shutil.move(project / "data/autoencoder", tmp_path / "elsewhere")
    scm(*options, "four.png")
    file = project / "data/codec/header.json"
    text = file.read_text()
    file.chmod(0o644)
    file.write_text(text.replace('"measured"', '"none"'))
    refused = scm(*options, "no.png", code=1)
    file.write_text(text)
    shutil.move(tmp_path / "elsewhere", project / "data/autoencoder")
    assert "another codec than data/codec/header.json holds (normalize differ)" in refused
    assert (project / "four.png").exists() and not (project / "no.png").exists()


def test_an_encoding_killed_midway_goes_on_and_gives_the_same_bytes(project):
    before = {path.name: path.read_bytes() for path in (project / "data/latents").iterdir()}
    assert len(before) > 16
    process = subprocess.Popen(["python", "-m", "stages.encode"], cwd=project, env=environment())
    while not (done := list((project / ".work").glob("encode/*/0*"))):
        assert process.poll() is None, "it had finished before it was killed"
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert 0 < len(done) < 16
    for path in (project / "data/latents").iterdir():
        path.unlink()
    run_stage(project, "stages.encode")
    assert {path.name: path.read_bytes() for path in (project / "data/latents").iterdir()} == before
