"""EDM2's own answers on fixed inputs (tests/golden/edm2.json) against our layers and network in EDM2's form."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from scm import trigflow
from scm.networks import Model, NetworkSettings, flavoured
from scm.networks.architectures.edm2 import Block
from scm.networks.embedding import FourierEmbedding, PositionalEmbedding
from scm.networks.magnitude import MPConv, downsample, mp_cat, mp_silu, mp_sum, normalize, normalize_weights, upsample
from tests.support.golden import GOLDEN, GOLDEN_EDM, check, ddpmpp_tiny, denoiser, edm2_tiny, fill, wave
from tests.support.models import tiny_model


def test_layers_without_weights():
    x, y = wave(2, 6, 4, 4), wave(2, 6, 4, 4, a=0.23)
    check(normalize(x), GOLDEN["normalize_all"])
    check(normalize(x, dims=[1]), GOLDEN["normalize_dim1"])
    check(mp_silu(x), GOLDEN["mp_silu"])
    check(mp_sum(x, y, 0.3), GOLDEN["mp_sum_.3"])
    check(mp_cat(x, y[:, :2], 0.5), GOLDEN["mp_cat_.5"])
    assert mp_cat(x, y).equal(torch.cat([x, y], dim=1)), "eq. 103's factors of equal halves are 1"
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
                multipliers=(1, 2, 3, 4), blocks=3, attention=(16, 8), channels_per_head=64, **flavoured(flavour),
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
        model = Model(NetworkSettings(**shape, attention=(16,), channels_per_head=256, **flavoured("ddpmpp")))
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


def test_a_1x1_convolution_by_products_is_torchs_convolution():
    """On a CPU MPConv multiplies instead of convolving: the output and both gradients."""
    torch.manual_seed(0)
    layer, x = MPConv(5, 7, 1).double(), torch.randn(3, 5, 4, 2, dtype=torch.float64, requires_grad=True)
    rows = layer.weight / (layer.weight.square().mean(dim=(1, 2, 3), keepdim=True).sqrt() + 1e-4)
    expected = torch.nn.functional.conv2d(x, rows * 1.7 / 5**0.5)
    found = layer(x, gain=1.7)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    along = torch.randn_like(expected)
    both = [torch.autograd.grad(each, (x, layer.weight), along, retain_graph=True) for each in (found, expected)]
    torch.testing.assert_close(*both, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("attention", [(), (4,)])
def test_without_graph_the_channels_lie_last_and_the_numbers_are_the_same(
    attention: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
):
    model = tiny_model(attention=attention).eval()
    x, t, labels = torch.randn(6, 1, 8, 8), torch.linspace(0.1, 1.5, 6), torch.tensor([0, 1, 2, 0, -1, 1])
    last, convolve = list[bool](), torch.nn.functional.conv2d

    def watched(x: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        last.append(x.is_contiguous(memory_format=torch.channels_last))
        return convolve(x, *rest, **options)

    monkeypatch.setattr(torch.nn.functional, "conv2d", watched)
    expected = model(x, t, labels).detach()
    assert last and not any(last)
    last.clear()
    with torch.no_grad():
        found = model(x, t, labels)
    assert last and all(last)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
