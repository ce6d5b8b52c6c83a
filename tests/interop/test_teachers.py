"""Networks of other programs, read back: the same denoiser, the same ODE, the same encoding."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scm.base import weights
from scm.data.latents.codec import plain_header
from scm.errors import UserError
from scm.interop.teachers import Teacher, read_teacher, run_of
from scm.networks import Model, NetworkSettings, flavoured
from scm.samplers import edm_sigmas, heun
from tests.support import originals
from tests.support.golden import GOLDEN, GOLDEN_EDM, check, ddpmpp_tiny, denoiser, edm2_tiny, wave
from tests.support.models import tiny_model

EDM2_TINY = {
    "resolution": 16,
    "channels": 4,
    "classes": 10,
    "width": 64,
    "multipliers": (1, 2),
    "blocks": 1,
    "attention": 8,
}
EDM_TINY = {**EDM2_TINY, "channels": 3, "classes": 0, "width": 32}
SMALL = {"resolution": 8, "channels": 1, "classes": 3, "width": 32, "multipliers": (1, 2), "blocks": 1, "attention": 4}
"""A network of few tensors, for what does not depend on its figures."""


def model_of(teacher: Teacher) -> Model:
    model = Model(teacher.settings)
    model.load_state_dict(teacher.state)
    return model.eval()


def edm2_tensors() -> dict[str, Tensor]:
    return originals.filled(originals.edm2_shapes(**EDM2_TINY))


def edm_tensors() -> dict[str, Tensor]:
    return originals.filled(originals.edm_shapes(**EDM_TINY), 0.1)


@pytest.fixture
def edm2_pickle(tmp_path: Path) -> Path:
    encoder = originals.stability_encoder()
    return originals.edm2_file(tmp_path / "a-0000131-0.075.pkl", originals.edm2_network(edm2_tensors()), encoder)


@pytest.fixture
def edm_pickle(tmp_path: Path) -> Path:
    return originals.dump({"ema": originals.edm_network(edm_tensors())}, tmp_path / "edm.pkl")


def test_the_tests_tensors_have_the_originals_names():
    assert originals.hash_of(originals.edm2_shapes(**EDM2_TINY)) == GOLDEN["precond_tiny"]["keys_sha256"]
    assert originals.hash_of(originals.edm_shapes(**EDM_TINY)) == GOLDEN_EDM["ddpmpp_tiny"]["keys_sha256"]


def test_edm2s_denoiser_and_log_variance(edm2_pickle):
    teacher, golden = read_teacher(edm2_pickle), GOLDEN["precond_tiny"]
    assert teacher.settings == NetworkSettings(
        resolution=16, channels=4, classes=10, width=64, multipliers=(1, 2), blocks=1, attention=(8,),
        channels_per_head=64, **flavoured("edm2"),
    )  # fmt: skip
    assert (teacher.program, teacher.images, teacher.sigma_rel, teacher.notes) == ("EDM2", 131072, 0.075, [])
    model, x, sigma = model_of(teacher), wave(2, 4, 16, 16), torch.tensor(golden["sigma"])
    check(denoiser(model, x, sigma, torch.tensor(golden["labels"])), golden["D"])
    check(denoiser(model, x, sigma, None), golden["null_label"])
    check(-model.log_weight(torch.atan(sigma / 0.5)), golden["logvar"])


def test_edms_denoiser(edm_pickle):
    teacher, golden = read_teacher(edm_pickle), GOLDEN_EDM["ddpmpp_tiny"]
    assert (teacher.program, teacher.images, teacher.sigma_rel, teacher.notes) == ("EDM", 0, None, [])
    assert teacher.codec["name"] == "identity" and teacher.codec["shape"] == [3, 16, 16]
    check(denoiser(model_of(teacher), wave(2, 3, 16, 16), torch.tensor(golden["sigma"]), None), golden["D"])


@pytest.mark.parametrize("family", ["edm2", "edm"])
def test_a_state_dict_gives_the_same_network(family, edm2_pickle, edm_pickle, tmp_path):
    tensors, pickled = (edm2_tensors(), edm2_pickle) if family == "edm2" else (edm_tensors(), edm_pickle)
    tensors = {name: value for name, value in tensors.items() if "emb_label" not in name}
    if family == "edm2":  # its four channels would be latents of an unknown encoding
        shapes = originals.edm2_shapes(**{**EDM2_TINY, "channels": 3})
        tensors, network = originals.filled(shapes), originals.edm2_network(originals.filled(shapes))
        pickled = originals.edm2_file(tmp_path / "b.pkl", network)
    path = tmp_path / "plain.safetensors"
    weights.safetensors.torch.save_file(tensors, path)
    plain, other = read_teacher(path), read_teacher(pickled)
    assert plain.settings == other.settings and plain.state.keys() == other.state.keys()
    assert all(torch.equal(plain.state[name], other.state[name]) for name in plain.state)
    assert "assumed" in plain.notes[-1] and "sigma_d 0.5" in plain.notes[-1]


def test_float16_weights_become_float32(tmp_path):
    network = originals.edm2_network(edm2_tensors()).half()
    state = read_teacher(originals.edm2_file(tmp_path / "half.pkl", network)).state
    assert {value.dtype for value in state.values()} == {torch.float32}
    exact = read_teacher(originals.edm2_file(tmp_path / "full.pkl", originals.edm2_network(edm2_tensors()))).state
    assert all(torch.equal(state[name], value.half().float()) for name, value in exact.items())


@pytest.mark.parametrize("family", ["edm2", "edm"])
def test_trigflow_solves_edms_ode(family, edm2_pickle, edm_pickle):
    """EDM's dx/dsigma = (x - D) / sigma by EDM's Heun steps on the original's D, and scm's sampler on the import."""
    path, original, channels = (edm2_pickle, edm2_tiny(), 4) if family == "edm2" else (edm_pickle, ddpmpp_tiny(), 3)
    labels = torch.tensor([3, 7]) if family == "edm2" else None
    imported, noise = model_of(read_teacher(path)), wave(2, channels, 16, 16, a=0.83)
    sigmas = edm_sigmas(6, 0.01, 20.0, 7.0)

    def slope(x: Tensor, sigma: float) -> Tensor:
        return (x - denoiser(original, x, torch.full((2,), sigma), labels)) / sigma

    with torch.no_grad():
        x = noise * sigmas[0]
        for now, following in pairwise(sigmas):
            first = slope(x, now)
            guess = x + (following - now) * first
            x = guess if following == 0 else x + (following - now) * 0.5 * (first + slope(guess, following))
    ours = heun(lambda scaled, t: imported(scaled, t, labels), noise, sigmas, 0.5)
    assert (ours - x).norm() / x.norm() < 1e-5


def test_the_velocity_is_that_of_edms_ode(edm2_pickle):
    """dx_t/dt = sigma_d F along x_t = cos t x_sigma, against EDM's derivative in sigma and the chain rule."""
    model, x, sigma = (
        model_of(read_teacher(edm2_pickle)).double(),
        wave(2, 4, 16, 16).double(),
        torch.tensor([0.5, 2.0]).double(),
    )
    t = torch.atan(sigma / 0.5)
    cos, sin = torch.cos(t)[:, None, None, None], torch.sin(t)[:, None, None, None]
    with torch.no_grad():
        slope = (x - denoiser(model, x, sigma, None)) / sigma[:, None, None, None]
        velocity = 0.5 * model(cos * x / 0.5, t, None)
    by_chain_rule = -sin * x + cos * slope * 0.5 / cos**2
    assert torch.allclose(velocity, by_chain_rule, rtol=1e-10, atol=1e-12)


def test_edm2s_latents_keep_their_constants(edm2_pickle):
    codec = read_teacher(edm2_pickle).codec
    assert (codec["name"], codec["normalize"], codec["sigma_d"]) == ("edm2_sd_vae", "paper", 0.5)
    assert codec["mean"] == [5.81, 3.25, 0.12, -2.15] and codec["std"] == [4.17, 4.62, 3.71, 3.28]


def test_the_layer_for_augmentation_is_left_out_and_said(tmp_path):
    tensors = originals.filled(originals.edm_shapes(**SMALL, augment=9), 0.1)
    teacher = read_teacher(originals.dump({"ema": originals.edm_network(tensors)}, tmp_path / "edm.pkl"))
    assert len(teacher.notes) == 1 and "augmentation" in teacher.notes[0]
    del tensors["model.map_augment.weight"]
    without = read_teacher(originals.dump({"ema": originals.edm_network(tensors)}, tmp_path / "edm.pkl"))
    assert without.notes == [] and all(torch.equal(teacher.state[name], value) for name, value in without.state.items())


def test_heads_of_another_size_are_found(tmp_path):
    network = originals.edm2_network(originals.filled(originals.edm2_shapes(**SMALL)), channels_per_head=16)
    assert read_teacher(originals.edm2_file(tmp_path / "a.pkl", network)).settings.channels_per_head == 16


@pytest.mark.parametrize("augment", [False, True])
def test_a_teacher_of_another_project_of_ours(tmp_path, augment):
    model = tiny_model(augment=augment)
    header = {
        "model": "teacher", "network": model.settings.to_dict(), "classes": ["a", "b", "c"],
        "codec": plain_header("x", 0.5, [1, 8, 8]), "images": 5, "sigma_rel": 0.1,
    }  # fmt: skip
    weights.save(tmp_path / "own.safetensors", model.state_dict(), header)
    teacher = read_teacher(tmp_path / "own.safetensors")
    assert (teacher.program, teacher.classes, teacher.images, teacher.sigma_rel) == ("scm", ["a", "b", "c"], 5, 0.1)
    assert teacher.state.keys() == model.state_dict().keys() and teacher.settings == model.settings
    assert all(torch.equal(teacher.state[name], value) for name, value in model.state_dict().items())
    imported = {**header, "imported": {"program": "EDM2"}}
    weights.save(tmp_path / "own.safetensors", model.state_dict(), imported)
    assert read_teacher(tmp_path / "own.safetensors").program == "EDM2"
    for change, message in (
        ({"model": "scd"}, "a scd, not a teacher"),
        ({"network": {}}, "its header is not that of a teacher"),
        ({"network": {**header["network"], "blocks": "many"}}, "its header is not that of a teacher"),
        ({"network": {**header["network"], "blocks": 10**9}}, "fewer tensors than blocks"),
        ({"network": {**header["network"], "channels_per_head": 0}}, "no network has such tensors"),
        ({"codec": {"name": "x"}}, "its header is not that of a teacher"),
        ({"codec": plain_header("x", 0.5, [3, 8, 8])}, "its header is not that of a teacher"),
        ({"codec": {**header["codec"], "name": ["x"]}}, "its header is not that of a teacher"),
        ({"classes": [["a"]]}, "its header is not that of a teacher"),
        ({"images": "many"}, "its header is not that of a teacher"),
        ({"sigma_rel": {}}, "its header is not that of a teacher"),
        ({"imported": {"program": "X"}}, "its header is not that of a teacher"),
    ):
        weights.save(tmp_path / "own.safetensors", model.state_dict(), header | change)
        with pytest.raises(UserError, match=message):
            read_teacher(tmp_path / "own.safetensors")
    for text in ("[" * 100_000, "[]", "{}", "text"):
        weights.safetensors.torch.save_file(model.state_dict(), tmp_path / "own.safetensors", {"scm": text})
        with pytest.raises(UserError, match="its header is not that of a teacher"):
            read_teacher(tmp_path / "own.safetensors")


@pytest.mark.parametrize(
    ("name", "images", "sigma_rel"),
    [
        ("edm2-img512-xs-2147483-0.135", 2147483648, 0.135),
        ("edm2-img64-xl-0671088-0.040", 671088640, 0.04),
        ("network-snapshot-0134217-0.050", 134217728, 0.05),
        ("network-snapshot-0939524", 939524096, None),
        ("edm-cifar10-32x32-cond-vp", 0, None),
    ],
)
def test_the_name_tells_the_run(name, images, sigma_rel):
    assert run_of(name) == (images, sigma_rel)


def edm_pickle_of(tmp_path: Path, changes: dict[str, Tensor | None], **attributes: object) -> Path:
    tensors = originals.filled(originals.edm_shapes(**SMALL), 0.1)
    tensors = {name: value for name, value in (tensors | changes).items() if value is not None}
    return originals.dump({"ema": originals.edm_network(tensors, **attributes)}, tmp_path / "edm.pkl")


@pytest.mark.parametrize(
    ("changes", "attributes", "message"),
    [
        ({"model.map_noise.freqs": torch.ones(8)}, {}, "a network of the kind NCSN++"),
        ({"model.enc.4x4_aux_residual.weight": torch.ones(8)}, {}, "a network of the kind NCSN++"),
        ({"model.out_norm.weight": torch.ones(8)}, {}, "a network of the kind ADM (DhariwalUNet)"),
        ({"model.enc.4x4_aux_skip.weight": torch.ones(8)}, {}, "a network of the kind skip-connected SongUNet"),
        ({}, {"class_name": "VPPrecond"}, "a VPPrecond instead of"),
        ({}, {"class_name": "Precond"}, "a Precond around a network of EDM"),
        ({}, {"sigma_data": -0.5}, "its sigma_data is -0.5"),
        ({}, {"sigma_data": "0.5"}, "no number sigma_data"),
        ({}, {"img_resolution": 16}, "its img_resolution is 16, but its tensors have 8"),
        ({}, {"label_dim": 4}, "its label_dim is 4, but its tensors have 3"),
        ({"model.map_layer1.bias": None}, {}, "model.map_layer1.bias, is missing"),
        ({"model.map_layer1.bias": torch.ones(7)}, {}, "model.map_layer1.bias, has another shape"),
        ({"model.map_layer2.bias": torch.ones(7)}, {}, "model.map_layer2.bias, is unknown"),
        ({"model.enc.4x4_down.skip.resample_filter": torch.ones(1, 1, 4, 4)}, {}, "resample_filter is not [1, 1]"),
        ({"model.map_layer1.bias": torch.full((128,), torch.nan)}, {}, "no finite"),
        ({"model.map_layer1.bias": torch.ones(128, dtype=torch.int64)}, {}, "no finite"),
    ],
)
def test_other_networks_are_refused_by_name(tmp_path, changes, attributes, message):
    path = edm_pickle_of(tmp_path, changes, **attributes)
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        read_teacher(path)
    assert str(refused.value).startswith(f"{path}: ") and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("part", "attribute", "value"),
    [
        ("unet", "label_balance", 0.4),
        ("unet", "concat_balance", None),
        ("unet.enc.8x8_block0", "clip_act", 100),
        ("unet.dec.4x4_in0", "res_balance", torch.ones(2)),
        ("unet.enc.4x4_down", "resample_filter", [1, 3, 3, 1]),
    ],
)
def test_what_scms_network_has_fixed_must_be_so(tmp_path, part, attribute, value):
    network = originals.edm2_network(originals.filled(originals.edm2_shapes(**SMALL)), channels_per_head=32)
    vars(network.get_submodule(part))[attribute] = value
    with pytest.raises(UserError, match=rf"its {part}\.{attribute} is not"):
        read_teacher(originals.edm2_file(tmp_path / "a.pkl", network))


def test_latents_without_their_encoding_are_refused(tmp_path):
    weights.safetensors.torch.save_file(edm2_tensors(), tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match="images of 4 channels of an unknown encoding: import the program's pickle"):
        read_teacher(tmp_path / "plain.safetensors")


def test_an_unknown_encoder_is_refused(tmp_path):
    network = originals.edm2_network(originals.filled(originals.edm2_shapes(**SMALL)), channels_per_head=32)
    path = originals.edm2_file(tmp_path / "a.pkl", network, originals.Persistent("OtherEncoder"))
    with pytest.raises(UserError, match="its encoder is a OtherEncoder"):
        read_teacher(path)
