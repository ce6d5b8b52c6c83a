"""EDM2's own answers on fixed inputs (tests/golden/edm2.json) against our layers and network in EDM2's form."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from scm.networks import Model, NetworkSettings
from scm.networks.embedding import FourierEmbedding, PositionalEmbedding
from scm.networks.magnitude import (
    MPConv,
    downsample,
    mp_cat,
    mp_silu,
    mp_sum,
    normalize,
    normalize_weights,
    upsample,
)
from scm.networks.unet import Block

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "edm2.json").read_text())


def wave(*shape: int, a: float = 0.61, b: float = 0.2) -> Tensor:
    """cos(a j + b) over the flat index j."""
    count = math.prod(shape)
    return torch.cos(a * torch.arange(count, dtype=torch.float64) + b).reshape(shape).float()


def fill(module: nn.Module, rename: dict[str, str]) -> None:
    """Gives tensor i, in the order of EDM2's sorted names, the values sin(0.37 j + i)."""
    state = {rename.get(key, key): value for key, value in module.state_dict().items()}
    with torch.no_grad():
        for index, key in enumerate(sorted(state)):
            count = state[key].numel()
            values = torch.sin(0.37 * torch.arange(count, dtype=torch.float64) + index)
            state[key].copy_(values.reshape(state[key].shape))


def check(result: Tensor, golden: dict[str, object], tolerance: float = 1e-5) -> None:
    flat = result.detach().double().flatten()
    scale = float(golden["l2"]) / math.sqrt(float(golden["n"]))
    assert flat.numel() == golden["n"]
    assert flat[:8].tolist() == pytest.approx(golden["first8"], abs=tolerance * scale * 4)
    assert flat.norm().item() == pytest.approx(golden["l2"], rel=tolerance)
    assert flat.mean().item() == pytest.approx(golden["mean"], abs=tolerance * scale)


def test_layers_without_weights():
    x, y = wave(2, 6, 4, 4), wave(2, 6, 4, 4, a=0.23)
    check(normalize(x), GOLDEN["normalize_all"])
    check(normalize(x, dims=[1]), GOLDEN["normalize_dim1"])
    check(mp_silu(x), GOLDEN["mp_silu"])
    check(mp_sum(x, y, 0.3), GOLDEN["mp_sum_.3"])
    check(mp_cat(x, y[:, :2], 0.5), GOLDEN["mp_cat_.5"])
    check(downsample(x), GOLDEN["resample_down"])
    check(upsample(x), GOLDEN["resample_up"])


def test_layers_with_weights():
    fourier = FourierEmbedding(8)
    fill(fourier, {})
    check(fourier(torch.tensor([-1.0, 0.0, 0.5])), GOLDEN["mp_fourier"])
    conv = MPConv(6, 5, 3)
    fill(conv, {})
    check(conv(wave(2, 6, 4, 4), gain=0.7), GOLDEN["mpconv3x3_gain.7"])
    linear = MPConv(6, 5, 0)
    fill(linear, {})
    check(linear(wave(3, 6)), GOLDEN["mpconv_linear"])


@pytest.mark.parametrize(
    ("name", "kind", "resample"), [("block_enc", "encoder", "down"), ("block_dec", "decoder", "up")]
)
def test_blocks(name: str, kind: str, resample: str):
    block = Block(64, 128, 32, kind=kind, resample=resample, heads=2, modulation="gain")
    fill(block, {})
    check(block(wave(2, 64, 8, 8), wave(2, 32)), GOLDEN[name])


def edm2_tiny() -> Model:
    """The golden network: EDM2's modulation and embedding; its weights lie under EDM2's names."""
    settings = NetworkSettings(
        resolution=16, channels=4, classes=10, width=64, multipliers=(1, 2), blocks=1, attention=(8,),
        channels_per_head=64, modulation="gain", embedding="fourier",
    )  # fmt: skip
    model = Model(settings)
    model.weight_linear = MPConv(128, 1, 0)
    prefixes = {
        "emb_time": "unet.emb_fourier",
        "emb_noise": "unet.emb_noise",
        "emb_label": "unet.emb_label",
        "unet.encoder": "unet.enc",
        "unet.decoder": "unet.dec",
        "weight_features": "logvar_fourier",
        "weight_linear": "logvar_linear",
    }
    rename = {}
    for key in model.state_dict():
        prefix = next((old for old in prefixes if key.startswith(old + ".")), None)
        rename[key] = prefixes[prefix] + key[len(prefix) :] if prefix else key
    fill(model, rename)
    return model.eval()


def denoiser(model: Model, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
    """EDM's D(x; sigma) through F_trig = -F_edm: D = cos t x_t - sin t sigma_d F_trig with x_t = cos t x (app. B)."""
    t = torch.atan(sigma / 0.5)
    cos, sin = torch.cos(t)[:, None, None, None], torch.sin(t)[:, None, None, None]
    output = -model(cos * x / 0.5, sigma.log() / 4, labels)  # EDM2 conditions on ln(sigma) / 4
    return cos * (cos * x) - sin * 0.5 * output


def test_network_wiring_and_the_map_from_edm_to_trigflow():
    model, golden = edm2_tiny(), GOLDEN["precond_tiny"]
    x, sigma = wave(2, 4, 16, 16), torch.tensor(golden["sigma"])
    check(denoiser(model, x, sigma, torch.tensor(golden["labels"])), golden["D"])
    check(denoiser(model, x, sigma, None), golden["null_label"])


def test_tangent_of_the_network():
    model, golden = edm2_tiny(), GOLDEN["precond_tiny"]
    labels = torch.tensor(golden["labels"])
    _, tangent = torch.func.jvp(
        lambda x, sigma: denoiser(model, x, sigma, labels),
        (wave(2, 4, 16, 16), torch.tensor(golden["sigma"])),
        (wave(2, 4, 16, 16, a=0.17), torch.tensor([1.0, -0.5])),
    )
    check(tangent, GOLDEN["precond_jvp"], tolerance=1e-4)


def test_forced_weight_normalization():
    model = edm2_tiny()
    normalize_weights(model)
    check(model.emb_noise.weight, GOLDEN["forced_wn_emb_noise"])


def test_the_positional_embedding_is_edms_at_unit_magnitude():
    """EDM's rows for t = 0, 1, -0.5; ours are sqrt(2) times them, so that their mean square is 1."""
    ours = PositionalEmbedding(8)(torch.tensor([0.0, 1.0, -0.5]))
    assert torch.allclose(ours / math.sqrt(2), torch.tensor(GOLDEN["positional_embedding_8"]), atol=1e-6)
    assert torch.allclose(ours.square().mean(dim=1), torch.ones(3), atol=1e-6)
