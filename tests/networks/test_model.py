"""The paper's changes to the network (sec. 4.1), the types that it computes in, and its purity."""

import dataclasses

import pytest
import torch
from torch import nn

from scm.networks import Model, magnitude
from scm.networks.architectures import ddpmpp
from scm.networks.architectures.edm2 import Block
from scm.networks.layers import pnorm
from scm.networks.magnitude import fix_weights
from scm.objectives.diffusion import Diffusion
from scm.objectives.protocol import Batch
from scm.objectives.scd import ConsistencyDistillation
from scm.objectives.sct import ConsistencyTraining
from tests.support.models import FAMILIES, TINY, tiny_model


def test_double_normalisation_is_the_papers_formula():
    """y = norm(x) * pnorm(s) + pnorm(b), pnorm(a) = a / sqrt(mean a^2 + eps): no "+ 1", and both parts of unit size."""
    torch.manual_seed(0)
    block = Block(4, 4, 6, kind="encoder").double()
    x, embedding = torch.randn(2, 4, 3, 3, dtype=torch.float64) * 7, torch.randn(2, 6, dtype=torch.float64)
    scale, shift = block.emb_scale(embedding[:, :3]), block.emb_shift(embedding[:, 3:])
    expected = torch.empty_like(x)
    for sample in range(2):
        s = scale[sample] / (scale[sample].square().mean() + 1e-4) ** 0.5
        b = shift[sample] / (shift[sample].square().mean() + 1e-4) ** 0.5
        for i in range(3):
            for j in range(3):
                pixel = x[sample, :, i, j]
                expected[sample, :, i, j] = pixel / (1e-4 + pixel.square().mean() ** 0.5) * s + b
    assert torch.allclose(block.modulate(x, embedding), expected, atol=1e-12)
    size = scale.square().mean(dim=1)
    assert pnorm(scale).square().mean(dim=1).tolist() == pytest.approx((size / (size + 1e-4)).tolist(), rel=1e-9)
    assert pnorm(100 * scale).square().mean(dim=1).tolist() == pytest.approx([1, 1], abs=1e-3), "unit size"


def test_labels_matter_and_no_label_is_a_zero_row():
    model, x, t = tiny_model(), torch.randn(2, 1, 8, 8), torch.tensor([0.5, 0.5])
    one, other = model(x, t, torch.tensor([0, 0])), model(x, t, torch.tensor([1, 1]))
    assert not torch.allclose(one, other, atol=1e-3)
    assert torch.equal(model(x, t, torch.tensor([-1, -1])), model(x, t, None))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_all_its_weights_and_writes_nothing_in_its_forward(family):
    model = tiny_model(dropout=0.3, **FAMILIES[family], guidance=True, segments=True).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.3, 1.2])
    output = model(x, t, torch.tensor([0, -1]), guidance=torch.tensor([1.0, 2.0]), segment=torch.tensor([0.0, 0.7]))
    (output.square().mean() + model.log_weight(t).sum()).backward()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("family", ["edm2-trigflow", "ddpmpp-trigflow", "dit-trigflow"])
@pytest.mark.parametrize("name", ["guidance", "segment"])
def test_a_further_input_matters_once_its_layer_has_learned(family, name):
    changes = {**FAMILIES[family], {"guidance": "guidance", "segment": "segments"}[name]: True}
    model, x, t = tiny_model(**changes), torch.randn(2, 1, 8, 8), torch.tensor([0.5, 0.5])
    low, high = (model(x, t, None, **{name: torch.full((2,), value)}) for value in (0.0, 1.0))
    assert torch.equal(low, high)  # its layer starts at zero
    nn.init.normal_(next(p for key, p in model.named_parameters() if f"_{name}.linear" in key))
    low, high = (model(x, t, None, **{name: torch.full((2,), value)}) for value in (0.0, 1.0))
    assert not torch.allclose(low, high, atol=1e-3)


@pytest.mark.parametrize("family", ["edm2-trigflow", "ddpmpp-trigflow"])
def test_augmentation_that_is_told_matters_and_none_is_zeros(family):
    model, plain = (tiny_model(**FAMILIES[family], augment=augment) for augment in (True, False))
    x, t, told = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 0.5]), torch.randn(2, 9)
    assert torch.equal(model(x, t, None, augment=told), plain(x, t, None))  # its layer starts at zero
    nn.init.normal_(next(p for key, p in model.named_parameters() if "_augment." in key))
    assert not torch.allclose(model(x, t, None, augment=told), plain(x, t, None), atol=1e-3)
    assert torch.equal(model(x, t, None), plain(x, t, None))
    assert torch.equal(model(x, t, None, augment=torch.zeros(2, 9)), plain(x, t, None))
    with pytest.raises(ValueError, match="this network takes no augment"):
        plain(x, t, None, augment=told)


def test_headers_of_networks_without_augmentation_are_as_before():
    assert "augment" not in TINY.to_dict()
    augmented = dataclasses.replace(TINY, augment=True)
    assert type(TINY).from_dict(augmented.to_dict()) == augmented


@pytest.mark.parametrize("family", FAMILIES)
def test_inputs_of_any_type_are_computed_in_the_weights(family):
    model, labels = tiny_model(**FAMILIES[family]), torch.tensor([0, -1])
    x, t = torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.tensor([0.3, 1.2], dtype=torch.float64)
    expected = model(x.float(), t.float(), labels)
    assert model(x, t, labels).dtype == torch.float64 and torch.equal(model(x, t, labels).float(), expected)
    assert torch.equal(model.log_weight(t), model.log_weight(t.float()))
    assert torch.allclose(model.double()(x, t, labels), expected.double(), atol=1e-4)


def test_a_missing_or_unknown_input_is_an_error():
    x, t = torch.randn(1, 1, 8, 8), torch.tensor([0.5])
    with pytest.raises(ValueError, match="this network takes no guidance"):
        tiny_model()(x, t, None, guidance=t)
    with pytest.raises(ValueError, match="this network needs segment"):
        tiny_model(segments=True)(x, t, None)


@pytest.mark.parametrize("family", ["edm2-trigflow", "ddpmpp-trigflow"])
def test_dropout_acts_at_low_resolutions_alone(family):
    settings = dataclasses.replace(TINY, **FAMILIES[family], resolution=16, multipliers=(1, 1))
    model = Model(settings, dropout=0.4, dropout_max_resolution=8)
    blocks = {
        name: m for name, m in model.named_modules() if name.count(".") == 2 and hasattr(m, "dropout_probability")
    }
    chosen = {name: block.dropout_probability for name, block in blocks.items()}
    assert chosen and all(probability == (0.4 if ".8x8" in name else 0.0) for name, probability in chosen.items())


def test_adaptive_group_norm_and_its_double_normalisation():
    """Adaptive group norm is norm(x) (s + 1) + b; the paper's change of it norm(x) pnorm(s) + pnorm(b)."""
    x, embedding = torch.randn(2, 32, 3, 3, dtype=torch.float64), torch.randn(2, 8, dtype=torch.float64)
    for modulation in ("scale_shift", "double_norm"):
        block = ddpmpp.Block(32, 32, 8, modulation=modulation).double()
        s, b = block.affine(embedding)[:, :, None, None].split(32, dim=1)
        grouped = x.reshape(2, 8, 4 * 9)
        n = (grouped - grouped.mean(2, keepdim=True)) / (grouped.var(2, correction=0, keepdim=True) + 1e-6).sqrt()
        n = n.reshape(x.shape)
        if modulation == "double_norm":
            s, b = (a / (a.square().mean(1, keepdim=True) + 1e-4).sqrt() for a in (s, b))
            expected = n * s + b
        else:
            expected = n * (s + 1) + b
        assert torch.allclose(block.modulate(x, embedding), expected, atol=1e-12)


@pytest.mark.parametrize("name", ["diffusion", "sct", "scd"])
def test_bf16_is_fp32_to_its_rounding(name):
    """Losses agree to a few hundredths, gradients exist and are float32, and so are the figures."""
    common = {"sigma_d": 0.5, "p_mean": -1.0, "p_std": 1.4, "tangent_norm_c": 0.1, "tangent_warmup": 0}
    results = []
    for precision in (torch.float32, torch.bfloat16):
        model, teacher = tiny_model(1), tiny_model(2)
        model.precision = teacher.precision = precision
        objective = {
            "diffusion": Diffusion(0.5, -0.8, 1.6),
            "sct": ConsistencyTraining(**common),
            "scd": ConsistencyDistillation(**common, teacher=teacher),
        }[name]
        draws = torch.Generator().manual_seed(0)
        losses = objective(model, Batch(torch.randn(8, 1, 8, 8, generator=draws) * 0.5, torch.arange(8) % 3, draws), 9)
        losses.value.mean().backward()
        assert losses.value.dtype == torch.float32
        assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)
        results.append(losses)
    single, half = results
    assert torch.allclose(single.value, half.value, rtol=0.05, atol=0.02)
    assert not torch.equal(single.value, half.value)
    if name != "diffusion":
        assert torch.allclose(single.figures["tangent_norm"], half.figures["tangent_norm"], rtol=0.1)


def test_settings_survive_json():
    assert type(TINY).from_dict(TINY.to_dict()) == TINY
    assert sum(p.numel() for p in Model(TINY).parameters()) == sum(p.numel() for p in tiny_model().parameters())


def test_a_network_whose_weights_are_fixed_has_the_same_bits(monkeypatch):
    """And normalises them no more; half precision casts what is stored."""
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.3, 1.2])
    for precision in (torch.float32, torch.float16):
        model = tiny_model(1).eval()
        model.precision = precision
        with torch.no_grad():
            expected = model(x, t)
            fix_weights(model)
            with monkeypatch.context() as context:
                context.setattr(magnitude, "normalize", None)
                fix_weights(model)
                assert torch.equal(model(x, t), expected)
