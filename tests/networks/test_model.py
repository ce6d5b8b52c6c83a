"""The paper's changes to the network (sec. 4.1), the types that it computes in, and its purity."""

import pytest
import torch

from scm.networks import Model
from scm.networks.unet import Block, pnorm
from scm.objectives import Batch, ConsistencyDistillation, ConsistencyTraining, Diffusion
from tests.helpers import TINY, tiny_model


def test_double_normalisation_is_the_papers_formula():
    """y = norm(x) * pnorm(s) + pnorm(b), pnorm(a) = a / sqrt(mean a^2 + eps): no "+ 1", and both parts of unit size."""
    block = Block(4, 4, 6, kind="encoder").double()
    x, embedding = torch.randn(2, 4, 3, 3, dtype=torch.float64) * 7, torch.randn(2, 6, dtype=torch.float64)
    scale, shift = block.emb_scale(embedding), block.emb_shift(embedding)
    expected = torch.empty_like(x)
    for sample in range(2):
        s = scale[sample] / (scale[sample].square().mean() + 1e-4) ** 0.5
        b = shift[sample] / (shift[sample].square().mean() + 1e-4) ** 0.5
        for i in range(3):
            for j in range(3):
                pixel = x[sample, :, i, j]
                expected[sample, :, i, j] = pixel / (1e-4 + pixel.square().mean() ** 0.5) * s + b
    assert torch.allclose(block._modulate(x, embedding), expected, atol=1e-12)
    assert pnorm(scale).square().mean(dim=1).tolist() == pytest.approx([1, 1], abs=1e-3)


def test_the_forward_writes_nothing():
    model = tiny_model(dropout=0.3).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([0, -1]))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_labels_matter_and_no_label_is_a_zero_row():
    model, x, t = tiny_model(), torch.randn(2, 1, 8, 8), torch.tensor([0.5, 0.5])
    one, other = model(x, t, torch.tensor([0, 0])), model(x, t, torch.tensor([1, 1]))
    assert not torch.allclose(one, other, atol=1e-3)
    assert torch.equal(model(x, t, torch.tensor([-1, -1])), model(x, t, None))


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
