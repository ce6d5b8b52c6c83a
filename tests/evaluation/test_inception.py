"""Our network against torch-fidelity's on the same weights and images: tests/golden/make_inception.py."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from scm.errors import UserError
from scm.evaluation.extractors.inception import InceptionV3, load_extractor, read_inception, resized
from tests.support.models import recipes

GOLDEN = Path(__file__).parents[1] / "golden"
FIGURES = json.loads((GOLDEN / "inception.json").read_text(encoding="utf-8"))


RECIPES = recipes("make_inception")


def published(shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """A state dict as the published files have it: with the last layer, which the features do not need."""
    return RECIPES.filled({**shapes, "fc.weight": torch.Size([1008, 2048]), "fc.bias": torch.Size([1008])})


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return published({name: value.shape for name, value in InceptionV3().state_dict().items()})


@pytest.fixture(scope="module")
def weights(state, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def model(weights) -> InceptionV3:
    return read_inception(weights)


def close(found: Tensor, golden: dict, tolerance: float) -> None:
    summary = RECIPES.summary(found)
    scale = golden["std"]
    assert summary["every"] == pytest.approx(golden["every"], rel=0, abs=tolerance * scale)
    for name in ("mean", "std", "l2"):
        assert summary[name] == pytest.approx(golden[name], rel=tolerance)


def test_has_the_names_of_the_published_files(state):
    assert RECIPES.keys_sha256(state) == FIGURES["keys_sha256"]


@pytest.mark.parametrize("side", RECIPES.SIDES)
def test_resizes_as_tensorflow_1(side: int):
    close(resized(RECIPES.pictures(side).double(), 299), FIGURES[str(side)]["resized"], 1e-12)


def test_resize_by_hand():
    """Corners not aligned, no half pixel: of two pixels, places 0, 1/2, 1 and 3/2, the last of which is the edge's."""
    image = torch.tensor([[0.0, 8.0], [16.0, 24.0]])[None, None]
    expected = torch.tensor([[0.0, 4, 8, 8], [8, 12, 16, 16], [16, 20, 24, 24], [16, 20, 24, 24]])
    assert torch.equal(resized(image, 4)[0, 0], expected)


@pytest.mark.parametrize("side", RECIPES.SIDES)
def test_features_are_torch_fidelitys(model: InceptionV3, side: int):
    """float32 against float64; the figures' own rounding is float32's."""
    features = model(RECIPES.pictures(side))
    assert features.shape == (2, model.num_features) and features.dtype == torch.float32
    for row, golden in zip(features, FIGURES[str(side)]["features"], strict=True):
        close(row, golden, 1e-4)


def test_features_in_float64(state):
    model = InceptionV3()
    model.load_state_dict(state, strict=False)
    for row, golden in zip(model.double()(RECIPES.pictures(32)), FIGURES["32"]["features"], strict=True):
        close(row, golden, 1e-6)


def test_grey_images_are_repeated(model: InceptionV3):
    grey = RECIPES.pictures(32)[:1, :1]
    assert torch.equal(model(grey), model(grey.repeat(1, 3, 1, 1)))


def test_saved_and_loaded_network_is_the_same(model: InceptionV3, tmp_path):
    assert model.save(tmp_path) == ["extractor.safetensors"]
    again = load_extractor(tmp_path, 32, "cpu")
    assert not again.training
    images = RECIPES.pictures(32)[:1]
    assert torch.equal(again(images), model(images))


def test_reads_safetensors_and_files_without_counts(state, tmp_path):
    save_file(state, tmp_path / "weights.safetensors")
    name = "Mixed_7c.branch_pool.bn.running_var"
    assert torch.equal(read_inception(tmp_path / "weights.safetensors").state_dict()[name], state[name])
    counted = {**state, "Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(0)}
    torch.save(counted, tmp_path / "counted.pth")
    assert read_inception(tmp_path / "counted.pth").num_features == 2048


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"fc.weight": torch.zeros(1000, 2048)},
            "its last layer has 1000 classes, not 1008; torchvision's gives other figures",
        ),
        ({"AuxLogits.fc.bias": torch.zeros(1)}, "torchvision's gives other figures"),
        ({"fc.weight": None}, "it has no layer fc; torchvision's gives other"),
        ({"Mixed_6a.branch3x3.bn.bias": None}, "weights.pth lacks Mixed_6a.branch3x3.bn.bias: see docs/evaluation.md"),
        (
            {"Mixed_6a.branch3x3.bn.bias": torch.zeros(3)},
            r"weights.pth has another shape \(\[3\]\) of Mixed_6a.branch3x3.bn.bias: see docs/evaluation.md",
        ),
        ({"fc.bias": "text"}, "weights.pth is no dictionary of weights: see docs/evaluation.md"),
    ],
)
def test_refuses_other_weights(state, tmp_path, changes, text):
    changed = {name: value for name, value in {**state, **changes}.items() if value is not None}
    torch.save(changed, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=text):
        read_inception(tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_refuses_what_is_no_file_of_weights(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(UserError, match=rf"{name} holds no weights \(.*\): see docs/evaluation.md"):
        read_inception(path)
    for content in (b"no weights at all", b"hello world", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{name} holds no weights \(.*\): see docs/evaluation.md"):
            read_inception(path)


def test_executes_nothing(tmp_path):
    torch.save(nn.Linear(1, 1), tmp_path / "module.pth")
    with pytest.raises(UserError, match=r"module.pth holds no weights \(no pickle, or one that would run code"):
        read_inception(tmp_path / "module.pth")
