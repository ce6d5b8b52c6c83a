"""EDM2's own answers on fixed inputs (tests/golden/edm2.json) against our layers and network in EDM2's form."""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from scm import trigflow
from scm.networks import FLAVOURS, Model, NetworkSettings
from scm.networks.architectures.edm2 import Block
from scm.networks.embedding import FourierEmbedding, PositionalEmbedding
from scm.networks.magnitude import MPConv, downsample, mp_cat, mp_silu, mp_sum, normalize, normalize_weights, upsample

GOLDEN, GOLDEN_EDM = (
    json.loads((Path(__file__).parents[1] / "golden" / f"{name}.json").read_text()) for name in ("edm2", "edm")
)


def wave(*shape: int, a: float = 0.61, b: float = 0.2) -> Tensor:
    """cos(a j + b) over the flat index j."""
    count = math.prod(shape)
    return torch.cos(a * torch.arange(count, dtype=torch.float64) + b).reshape(shape).float()


def fill(module: nn.Module, rename: dict[str, str], size: float = 1.0, constants: Sequence[str] = ()) -> list[str]:
    """Gives tensor i, in the order of the original's sorted names, the values size sin(0.37 j + i).

    Args:
        rename: our names -> the original's.
        constants: names of the original's that ours has not, which keep their values but count.

    Returns:
        The original's names.
    """
    state = {rename.get(key, key): value for key, value in module.state_dict().items()}
    names = sorted([*state, *constants])
    with torch.no_grad():
        for index, key in enumerate(names):
            if key in state:
                count = state[key].numel()
                values = size * torch.sin(0.37 * torch.arange(count, dtype=torch.float64) + index)
                state[key].copy_(values.reshape(state[key].shape))
    return names


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
        channels_per_head=64, **FLAVOURS["edm2"],
    )  # fmt: skip
    model = Model(settings)
    prefixes = {
        "network.emb_time.": "unet.emb_fourier.",
        "network.encoder.": "unet.enc.",
        "network.decoder.": "unet.dec.",
        "network.": "unet.",
        "log_weight_head.features.": "logvar_fourier.",
        "log_weight_head.linear.": "logvar_linear.",
    }
    rename = {}
    for key in model.state_dict():
        prefix = next(old for old in prefixes if key.startswith(old))
        rename[key] = prefixes[prefix] + key[len(prefix) :]
    assert hash_of(fill(model, rename)) == GOLDEN["precond_tiny"]["keys_sha256"]
    return turned(model).eval()


def ddpmpp_tiny() -> Model:
    """EDM's golden network; its weights lie under EDM's names, among which the resampling filters count."""
    settings = NetworkSettings(
        resolution=16, channels=3, classes=0, width=32, multipliers=(1, 2), blocks=1, attention=(8,),
        channels_per_head=64, **FLAVOURS["ddpmpp"],
    )  # fmt: skip
    model = Model(settings)
    prefixes = {
        "network.out_norm.": "model.dec.16x16_aux_norm.",
        "network.out_conv.": "model.dec.16x16_aux_conv.",
        "network.encoder.": "model.enc.",
        "network.decoder.": "model.dec.",
        "network.": "model.",
    }
    rename = {}
    for key in model.network.state_dict(prefix="network."):
        prefix = next(old for old in prefixes if key.startswith(old))
        rename[key.removeprefix("network.")] = prefixes[prefix] + key[len(prefix) :]
    blocks = ("model.enc.8x8_down", "model.dec.16x16_up")
    filters = [f"{block}.{layer}.resample_filter" for block in blocks for layer in ("conv0", "skip")]
    assert hash_of(fill(model.network, rename, 0.1, filters)) == GOLDEN_EDM["ddpmpp_tiny"]["keys_sha256"]
    return turned(model).eval()


def hash_of(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def turned(model: Model) -> Model:
    """F_trig = -F_edm: the sign in the weights of the last layer, as an import does it."""
    network = model.network
    with torch.no_grad():
        for parameter in [network.out_gain] if hasattr(network, "out_gain") else network.out_conv.parameters():
            parameter.neg_()
    return model


def denoiser(model: Model, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
    """EDM's D(x; sigma) by TrigFlow: x_t = cos t x, t = arctan(sigma / sigma_d) (app. B)."""
    t = torch.atan(sigma / 0.5)
    x_t = torch.cos(t)[:, None, None, None] * x
    return trigflow.denoise(x_t, t, model(x_t / 0.5, t, labels), 0.5)


def test_network_wiring_and_the_map_from_edm_to_trigflow():
    model, golden = edm2_tiny(), GOLDEN["precond_tiny"]
    x, sigma = wave(2, 4, 16, 16), torch.tensor(golden["sigma"])
    check(denoiser(model, x, sigma, torch.tensor(golden["labels"])), golden["D"])
    check(denoiser(model, x, sigma, None), golden["null_label"])
    check(-model.log_weight(torch.atan(sigma / 0.5)), golden["logvar"])


def test_edm2s_loss_is_the_velocitys_error_and_its_log_variance_our_weight():
    """EDM2's weighted, adaptive loss of each element = e^w (sigma_d F - v_t)^2 / sigma_d^2 - w with w = -u (app. B)."""
    model, golden = edm2_tiny(), GOLDEN["edm2_loss"]
    sigma = torch.tensor(GOLDEN["precond_tiny"]["sigma"])
    x_0, z, t = wave(2, 4, 16, 16) * 0.5, wave(2, 4, 16, 16, a=0.83) * 0.5, torch.atan(sigma / 0.5)
    output = model(trigflow.interpolate(x_0, z, t) / 0.5, t, torch.tensor(GOLDEN["precond_tiny"]["labels"]))
    weight = trigflow.per_sample(model.log_weight(t), x_0)
    loss = weight.exp() * (0.5 * output - trigflow.velocity(x_0, z, t)).square() / 0.5**2 - weight
    check(loss, golden)
    assert loss.sum().item() / 2 == pytest.approx(golden["reduced"], rel=1e-5)


def test_ddpmpp_wiring_and_the_map_from_edm_to_trigflow():
    check(denoiser(ddpmpp_tiny(), wave(2, 3, 16, 16), torch.tensor([0.5, 2.0]), None), GOLDEN_EDM["ddpmpp_tiny"]["D"])


SIZES = {"xxs": 64, "xs": 128, "s": 192, "m": 256, "l": 320, "xl": 384, "xxl": 448}
MPARAMS = {"s": 280.2, "m": 497.8, "l": 777.6, "xl": 1119.4, "xxl": 1523.4}


def edm2_size(name: str, flavour: str) -> Model:
    data, size = name.split("-")
    with torch.device("meta"):
        return Model(
            NetworkSettings(
                resolution=64, channels={"img64": 3, "img512": 4}[data], classes=1000, width=SIZES[size],
                multipliers=(1, 2, 3, 4), blocks=3, attention=(16, 8), channels_per_head=64, **FLAVOURS[flavour],
            )
        )  # fmt: skip


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", GOLDEN["param_counts"])
def test_every_size_of_edm2_has_its_number_of_parameters(name: str):
    """Exact as EDM2's; the paper's changes keep within 1 % of what it states (tables 4 and 5)."""
    assert count(edm2_size(name, "edm2")) == GOLDEN["param_counts"][name]
    ours, size = count(edm2_size(name, "edm2-trigflow")), name.split("-")[1]
    assert ours == pytest.approx(MPARAMS.get(size, GOLDEN["param_counts"][name] / 1e6) * 1e6, rel=0.01)


def test_ddpmpp_has_its_number_of_parameters():
    shape = {"resolution": 32, "channels": 3, "classes": 0, "width": 128, "multipliers": (2, 2, 2), "blocks": 4}
    with torch.device("meta"):
        model = Model(NetworkSettings(**shape, attention=(16,), channels_per_head=256, **FLAVOURS["ddpmpp"]))
    assert count(model.network) == GOLDEN_EDM["ddpmpp_cifar_uncond_params"]


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
    check(model.network.emb_noise.weight, GOLDEN["forced_wn_emb_noise"])


def test_the_positional_embedding_is_edms_at_unit_magnitude():
    """EDM's rows for t = 0, 1, -0.5; ours are sqrt(2) times them, so that their mean square is 1."""
    ours = PositionalEmbedding(8)(torch.tensor([0.0, 1.0, -0.5]))
    assert torch.allclose(ours / math.sqrt(2), torch.tensor(GOLDEN["positional_embedding_8"]), atol=1e-6)
    assert torch.allclose(ours.square().mean(dim=1), torch.ones(3), atol=1e-6)
