"""A network that starts from another one's weights: what is copied, and that it is the same network where it can be."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scm.base import weights
from scm.data.latents.codec import plain_header
from scm.errors import UserError
from scm.generation.trained import guided_by
from scm.interop.start import copy_weights
from scm.interop.teachers import Teacher, read_teacher
from scm.networks import Model, NetworkSettings, flavoured
from tests.support import originals
from tests.support.models import FAMILIES, tiny_model

SHAPE = {"resolution": 8, "channels": 1, "classes": 3, "width": 32, "multipliers": (1, 2), "blocks": 1, "attention": 4}
SETTINGS = NetworkSettings(
    **{**SHAPE, "attention": (4,)}, channels_per_head=32, architecture="edm2"  # type: ignore[arg-type]
)  # fmt: skip
CODEC = plain_header("identity", 0.5, [1, 8, 8])


def edm2(folder: Path) -> tuple[Teacher, dict[str, torch.Tensor]]:
    tensors = originals.filled(originals.edm2_shapes(**SHAPE))
    network = originals.edm2_network(tensors, channels_per_head=32)
    return read_teacher(originals.edm2_file(folder / "edm2.pkl", network)), tensors


def edm(folder: Path) -> tuple[Teacher, dict[str, torch.Tensor]]:
    tensors = originals.filled(originals.edm_shapes(**SHAPE), 0.1)
    return read_teacher(originals.dump({"ema": originals.edm_network(tensors)}, folder / "edm.pkl")), tensors


def fresh(settings: NetworkSettings) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Model(settings)


def own(model: Model) -> Teacher:
    return Teacher("scm", model.settings, model.state_dict(), CODEC, [], 0, 0.1, [])


def test_edm2s_image_path_comes_into_a_trigflow_network(tmp_path):
    teacher, theirs = edm2(tmp_path)
    model, before = fresh(SETTINGS), fresh(SETTINGS).state_dict()
    done = copy_weights(teacher, model, "")
    state = model.state_dict()
    # Every convolution and the class's layer, under EDM2's own names; F = -F_edm by the last layer's gain.
    image = {name for name in theirs if "conv" in name or "attn" in name} | {"unet.emb_label.weight"}
    ours = {name.replace("unet.enc.", "unet.encoder.").replace("unet.dec.", "unet.decoder."): name for name in image}
    names = {f"network.{name.removeprefix('unet.')}": other for name, other in ours.items()}
    assert all(torch.equal(state[name], theirs[other]) for name, other in names.items()) and len(names) > 20
    assert torch.equal(state["network.out_gain"], -theirs["unet.out_gain"])
    assert set(done.copied) == {*names, "network.out_gain"}
    # Positional embedding, double normalisation and w_phi are this network's own.
    assert set(done.fresh) == state.keys() - set(done.copied)
    assert {name.split(".")[-2] for name in done.fresh} == {"emb_noise", "emb_scale", "emb_shift", "features", "linear"}
    assert all(torch.equal(state[name], before[name]) for name in done.fresh)
    lines = done.summary()
    assert lines[0] == f"{len(names) + 1} of {len(state)} tensors copied"
    assert "start afresh: features (2), linear (2), emb_scale (" in lines[1] and "emb_noise" in lines[1]
    assert "of the file are left out: " in lines[2] and "emb_gain (" in lines[2] and "emb_time (2)" in lines[2]


def test_edms_image_path_comes_into_a_trigflow_network(tmp_path):
    teacher, theirs = edm(tmp_path)
    settings = replace(SETTINGS, **flavoured("ddpmpp-trigflow"), channels_per_head=64)
    model, before = fresh(settings), fresh(settings).state_dict()
    done = copy_weights(teacher, model, "")
    state = model.state_dict()
    assert torch.equal(state["network.out_conv.weight"], -theirs["model.dec.8x8_aux_conv.weight"])
    assert torch.equal(state["network.out_conv.bias"], -theirs["model.dec.8x8_aux_conv.bias"])
    for part in ("8x8_conv.weight", "8x8_block0.conv0.weight", "4x4_down.skip.bias", "4x4_block0.norm1.weight"):
        assert torch.equal(state[f"network.encoder.{part}"], theirs[f"model.enc.{part}"])
    layers = {"map_layer0", "map_layer1", "affine", "features", "linear"}
    assert {name.split(".")[-2] for name in done.fresh} == layers
    assert all(torch.equal(state[name], before[name]) for name in done.fresh)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_of_the_same_kind_is_the_same_bit_for_bit(family):
    source = tiny_model(3, **FAMILIES[family])
    model = fresh(source.settings)
    done = copy_weights(own(source), model, "")
    assert done.fresh == [] and done.unused == [] and len(done.summary()) == 1
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())


def test_edm2s_own_network_computes_what_the_file_computes(tmp_path):
    teacher, _ = edm2(tmp_path)
    model = fresh(replace(SETTINGS, **{**flavoured("edm2"), "log_weight": "linear"}))
    original = Model(teacher.settings)
    original.load_state_dict(teacher.state)
    done = copy_weights(teacher, model, "")
    assert all(name.startswith("log_weight_head.") for name in done.fresh)
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 0.8, 1.5])
    assert torch.equal(model(x, t, torch.tensor([0, 2, -1])), original(x, t, torch.tensor([0, 2, -1])))


@pytest.mark.parametrize("change", [{"c_noise": "log_sigma"}, {"embedding": "fourier"}])
def test_only_what_sees_the_time_depends_on_how_it_enters(change):
    source = tiny_model(3, **change)
    done = copy_weights(own(source), fresh(tiny_model().settings), "")
    assert {name for name in done.fresh if name != "network.emb_noise.weight"} == set()
    again = replace(source.settings, fourier_scale=16.0)
    done = copy_weights(own(source), fresh(again), "")
    assert ("network.emb_noise.weight" in done.fresh) == ("embedding" in change)


def test_a_transformers_time_and_modulation_start_afresh_and_its_patches_must_agree():
    source = tiny_model(3, **FAMILIES["dit"], embedding="fourier")
    changed = tiny_model(**FAMILIES["dit-trigflow"]).settings
    assert source.settings.modulation != changed.modulation and source.settings.embedding != changed.embedding
    done = copy_weights(own(source), fresh(changed), "")
    path = {"patch_in", "attn_qkv", "attn_proj", "mlp_in", "mlp_proj", "emb_label", "out_proj"}
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in done.copied if "log_weight" not in name} == path
    with pytest.raises(UserError, match=rf"another shape: write network\.patch: {changed.patch} into"):
        copy_weights(own(source), fresh(replace(source.settings, patch=4)), "")


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"width": 16}, "network.width: 32"),
        ({"blocks": 2, "attention": (8, 4)}, "network.blocks: 1, network.attention: [4]"),
        ({"channels_per_head": 16}, "network.channels_per_head: 32"),
        ({"architecture": "ddpmpp"}, "network.architecture: edm2"),
    ],
)
def test_another_shape_is_refused_with_what_to_write(tmp_path, change, wanted):
    model = fresh(replace(SETTINGS, **change))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        copy_weights(edm2(tmp_path)[0], model, "teacher.start = edm2.pkl")
    problem = "teacher.start = edm2.pkl is a network of another shape"
    assert str(caught.value) == f"{problem}: write {wanted} into params.yaml"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_file_of_ours_says_whose_weights_it_was_made_from(tmp_path):
    """The licence follows the weights through a start; the guide of a teacher is not its start."""
    model = tiny_model()
    header = {
        "model": "teacher", "network": model.settings.to_dict(), "classes": ["a", "b", "c"], "codec": CODEC,
        "images": 5, "sigma_rel": 0.1,
    }  # fmt: skip
    file = tmp_path / "own.safetensors"
    weights.save(file, model.state_dict(), header)
    assert read_teacher(file).licence is None
    first = edm2(tmp_path)[0].origin(tmp_path / "edm2.pkl")
    weights.save(file, model.state_dict(), {**header, "start": first})
    second = read_teacher(file).origin(file)
    assert second["program"] == "scm" and second["licence"] == first["licence"] == "CC BY-NC-SA 4.0 (non-commercial)"
    weights.save(file, model.state_dict(), {**header, "start": second})
    assert read_teacher(file).licence == first["licence"]
    entry = {"network": model.settings.to_dict(), **first}
    weights.save(file, *guided_by(model.state_dict(), header, tiny_model(1).state_dict(), entry))
    guided = read_teacher(file)
    assert guided.licence is None and guided.notes == ["left out: the network that guides it; select.guide names one"]
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in guided.state.items())
