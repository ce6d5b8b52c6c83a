"""The samples of a model that is being trained: its own samplers, the average's weights, no trace in the training."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from scm.base.randomness import seed_of
from scm.data.latents.autoencoders import save_codec
from scm.data.latents.codec import Codec, plain_header
from scm.errors import UserError
from scm.generation.generate import generate
from scm.generation.sampler import Sampler, consistency_sampler, ddim_sampler, multistep_sampler
from scm.report import preview
from tests.support.models import T_MAX, tiny_model
from tests.support.projects import params_with

CODEC = plain_header("identity", 0.5, [1, 8, 8])
PARAMS = params_with({})
MIDDLE = sorted(PARAMS.select.t_mid)[len(PARAMS.select.t_mid) // 2]


def header(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "classes": ["a", "b", "c"], "codec": CODEC, "sigma_d": 0.5, "t_max": T_MAX, **more}


def average(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in model.named_parameters()}


@pytest.fixture
def codec(tmp_path: Path) -> Path:
    save_codec(tmp_path / "codec", CODEC, None)
    return tmp_path / "codec"


KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], Sampler, float]] = {
    "teacher": ({}, {}, ddim_sampler([T_MAX * (1 - k / 6) for k in range(7)], 0.5), 1.0),
    "scd": ({}, {}, consistency_sampler([T_MAX, MIDDLE], 0.5), 1.0),
    "vsd": ({}, {}, consistency_sampler([T_MAX], 0.5), 1.0),
    "sct": ({"guidance": True}, {"guidance": (1.5, 3.0)}, consistency_sampler([T_MAX, MIDDLE], 0.5), 1.5),
    "multistep": ({"segments": True}, {"segments": 3}, multistep_sampler(3, T_MAX, 0.5), 1.0),
    "meanflow": ({"segments": True}, {"any_steps": True}, multistep_sampler(4, T_MAX, 0.5), 1.0),
    "facm": ({"segments": True}, {}, consistency_sampler([T_MAX, MIDDLE], 0.5), 1.0),
}


@pytest.mark.parametrize("name", KINDS)
def test_each_model_is_sampled_in_its_own_few_steps(name, codec):
    """Against the samples of a model that holds the average's weights itself."""
    changes, more, sampler, scale = KINDS[name]
    model, holder = tiny_model(0, **changes), tiny_model(1, **changes)
    seeds = [seed_of(PARAMS.seed, "progress page", index) for index in range(preview.IMAGES)]
    labels = torch.arange(preview.IMAGES) % 3
    expected, _ = generate(holder, sampler, seeds, labels, (1, 8, 8), 16, "cpu", scale)
    found = preview.drawn(PARAMS, codec, header(name, **more), model, average(holder))
    assert torch.equal(found, Codec(CODEC).decode(expected)) and found.dtype == torch.uint8


def test_drawing_leaves_no_trace(codec):
    model = tiny_model(dropout=0.5).train()
    before, state = {name: value.clone() for name, value in average(model).items()}, torch.get_rng_state()
    preview.drawn(PARAMS, codec, header("scd"), model, average(tiny_model(1)))
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert all(value.grad is None for value in model.parameters())


def test_what_is_not_finite_is_grey(codec):
    model = tiny_model()
    spoiled = {name: value * math.nan for name, value in average(model).items()}
    assert preview.drawn(PARAMS, codec, header("scd"), model, spoiled).float().std() == 0


def test_many_classes_are_chosen_evenly_and_large_images_become_small():
    assert preview._labels(1000).tolist() == [62 * k + k // 2 for k in range(16)]
    assert preview._labels(0).tolist() == [-1] * 16
    large = torch.arange(256, dtype=torch.uint8).repeat(256, 1)[None, None]
    assert preview._small(large)[0, 0, 0].tolist() == [4 * k + 2 for k in range(64)]  # 1.5 rounds to 2, 5.5 to 6


def test_another_codec_is_refused(codec):
    other = plain_header("identity", 0.5, [1, 8, 8]) | {"std": [0.7]}
    with pytest.raises(UserError, match="this training's data was made with another codec"):
        preview.drawn(PARAMS, codec, header("scd") | {"codec": other}, tiny_model(), average(tiny_model()))


class Enlarging:
    """An autoencoder whose images are the first three latents, 16 times as large on a side."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def store(self, images: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def pixels(self, latents: torch.Tensor) -> torch.Tensor:
        self.counts.append(len(latents))
        return latents[:, :3].repeat_interleave(16, 2).repeat_interleave(16, 3)


def test_latents_are_decoded_one_by_one_and_made_small(monkeypatch, tmp_path):
    about = {"sha256": ["0" * 64], "config": {}, "precision": "fp32"}
    latents, autoencoder = plain_header("tae", 0.5, [4, 8, 8], about), Enlarging()
    monkeypatch.setattr(preview, "load_codec", lambda folder, device: Codec(latents, autoencoder))
    model = tiny_model(channels=4)
    found = preview.drawn(PARAMS, tmp_path, header("scd") | {"codec": latents}, model, average(model))
    assert found.shape == (16, 3, 64, 64) and autoencoder.counts == [1] * 16
    assert torch.equal(found[..., ::8, ::8].repeat_interleave(8, 2).repeat_interleave(8, 3), found)
