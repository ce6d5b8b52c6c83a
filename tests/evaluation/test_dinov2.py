"""transformers' DINOv2 as we use it against the original program on the same weights: tests/golden/make_dinov2.py."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Dinov2Config

from scm.base.files import sha256
from scm.errors import UserError
from scm.evaluation.extractor import read_extractor
from scm.evaluation.extractors.dinov2 import Dinov2, load_extractor, positions_for, prepared, read_dinov2
from scm.evaluation.weight_files import GivenWeights
from tests.support.models import recipes

GOLDEN = Path(__file__).parents[1] / "golden"
FIGURES = json.loads((GOLDEN / "dinov2.json").read_text(encoding="utf-8"))


RECIPES = recipes("make_dinov2")
STATE = RECIPES.filled({name: torch.Size(shape) for name, shape in FIGURES["shapes"].items()})


def folder_with(path: Path, state: dict[str, Tensor], **changes) -> Path:
    """A folder as the hub sends it."""
    path.mkdir()
    sizes = {"hidden_size": RECIPES.WIDTH, "num_hidden_layers": RECIPES.DEPTH, "num_attention_heads": RECIPES.HEADS}
    config = Dinov2Config(**sizes, image_size=RECIPES.SIDE, patch_size=RECIPES.PATCH).to_dict()
    (path / "config.json").write_text(json.dumps({**config, **changes}))
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return folder_with(tmp_path_factory.mktemp("hub") / "dinov2", RECIPES.published(STATE))


@pytest.fixture(scope="module")
def model(folder: Path) -> Dinov2:
    return read_dinov2(folder)


def close(found: Tensor, golden: dict, tolerance: float) -> None:
    summary = RECIPES.summary(found)
    assert summary["every"] == pytest.approx(golden["every"], rel=0, abs=tolerance * golden["std"])
    for name in ("std", "l2"):
        assert summary[name] == pytest.approx(golden[name], rel=tolerance)


@pytest.mark.parametrize("side", RECIPES.SIDES)
def test_pixels_are_pillows(side: int):
    images = RECIPES.pictures(side)
    torch.testing.assert_close(prepared(images, torch.float64), RECIPES.prepared(images), rtol=0, atol=1e-5)


def test_positions_are_the_originals():
    """Interpolated in the original's way, which moves the last patches by 0.1 of a patch; exact ones are kept."""
    found = positions_for(STATE["pos_embed"], 16)
    assert found.shape == (1, 257, RECIPES.WIDTH)
    close(found, FIGURES["positions"], 1e-6)
    assert positions_for(found, 16) is found


@pytest.mark.parametrize("side", RECIPES.SIDES)
def test_features_are_the_originals(model: Dinov2, side: int):
    features = model(RECIPES.pictures(side))
    assert features.shape == (2, model.num_features) and features.dtype == torch.float32
    for row, golden in zip(features, FIGURES[str(side)], strict=True):
        close(row, golden, 1e-4)


def test_grey_images_are_repeated(model: Dinov2):
    grey = RECIPES.pictures(32)[:1, :1]
    assert torch.equal(model(grey), model(grey.repeat(1, 3, 1, 1)))


def test_saved_and_loaded_network_is_the_same(model: Dinov2, tmp_path):
    assert model.save(tmp_path) == ["dinov2/config.json", "dinov2/model.safetensors"]
    images = RECIPES.pictures(32)
    assert torch.equal(load_extractor(tmp_path, 32, "cpu")(images), model(images))
    assert not load_extractor(tmp_path, 32, "cpu").training


def test_is_read_by_its_name_and_hash(model: Dinov2, folder: Path):
    digest = sha256(folder / "model.safetensors")
    found = read_extractor("dinov2", GivenWeights(folder.name, digest, folder.parent, 32))
    assert found.weights_sha256 == digest
    images = RECIPES.pictures(32)[:1]
    assert torch.equal(found(images), model(images))
    with pytest.raises(UserError, match=rf"model.safetensors has the SHA-256 {digest}, not reference.sha256 = 00"):
        read_extractor("dinov2", GivenWeights(folder.name, "0" * 64, folder.parent, 32))


def test_refuses_other_networks(tmp_path):
    with pytest.raises(UserError, match=r"config.json describes a vit, not a dinov2: see docs/evaluation.md for"):
        read_dinov2(folder_with(tmp_path / "vit", RECIPES.published(STATE), model_type="vit"))
    with pytest.raises(UserError, match=r"has \{'hidden_act': 'relu'\}, which the published networks have not: "):
        read_dinov2(folder_with(tmp_path / "relu", RECIPES.published(STATE), hidden_act="relu"))
    state = RECIPES.published(STATE)
    del state["layernorm.weight"]
    with pytest.raises(UserError, match=r"model.safetensors lacks layernorm.weight and 0 others: see docs/eval"):
        read_dinov2(folder_with(tmp_path / "less", state))
    state["layernorm.weight"] = torch.zeros(3)
    with pytest.raises(UserError, match=r"wrong holds no DINOv2 \(.*\): see docs/evaluation.md for the files to use$"):
        read_dinov2(folder_with(tmp_path / "wrong", state))
    (tmp_path / "wrong/model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(UserError, match=r"wrong holds no DINOv2 \(.*\): see docs/evaluation.md for the files to use$"):
        read_dinov2(tmp_path / "wrong")


def test_says_how_to_get_the_files(tmp_path, monkeypatch):
    command = (
        "run hf download facebook/dinov2-large config.json model.safetensors --local-dir data/extractor where "
        "there is a network, and write reference.weights: data/extractor"
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as error:
        read_extractor("dinov2", GivenWeights("empty", None, tmp_path, 32))
    assert str(error.value) == f"reference.weights: {tmp_path / 'empty/config.json'} is missing: {command}"
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: (_ for _ in ()).throw(OSError("no net")))
    with pytest.raises(UserError) as error:
        read_extractor("dinov2", GivenWeights("facebook/dinov2-large", None, tmp_path, 32))
    problem = "is no folder here, and the hub does not send it (no net)"
    assert str(error.value) == f"reference.weights = facebook/dinov2-large {problem}: {command}"


def test_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"needs transformers, which is not installed: run pip install -e '\.\[din"):
        read_extractor("dinov2", GivenWeights("facebook/dinov2-large", None, tmp_path, 32))
