"""EDM's and EDM2's own answers on fixed inputs (tests/golden), and networks with the weights that gave them."""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from scm import trigflow
from scm.networks import Model, NetworkSettings, flavoured

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


def edm2_tiny() -> Model:
    """The golden network: EDM2's modulation and embedding; its weights lie under EDM2's names."""
    settings = NetworkSettings(
        resolution=16, channels=4, classes=10, width=64, multipliers=(1, 2), blocks=1, attention=(8,),
        channels_per_head=64, **flavoured("edm2"),
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
        channels_per_head=64, **flavoured("ddpmpp"),
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
