"""DiT: its parts against their formulas, its sizes against the published ones, and what bounds its tangent."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from scm.jvp import output_and_tangent
from scm.networks import Model, NetworkSettings
from scm.networks.architectures import dit
from scm.networks.architectures.dit import Block, modulate, to_image, to_tokens
from tests.support.models import FAMILIES, TINY, tiny_model

SIZES = {"S": (384, 12, 6, 33), "B": (768, 12, 12, 130), "L": (1024, 24, 16, 458), "XL": (1152, 28, 16, 675)}
"""Width, blocks, heads and millions of parameters with patches of 2 (arXiv 2212.09748, tables 1 and 4)."""


def blocks_of(model: Model) -> list[Block]:
    return [part for part in model.modules() if isinstance(part, Block)]


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_its_number_of_parameters(size):
    """The blocks' are DiT's to the last; of the rest what differs is written out."""
    width, blocks, heads, millions = SIZES[size]
    shape = {"resolution": 32, "channels": 4, "classes": 1000, "multipliers": (1,), "attention": (), "patch": 2}
    with torch.device("meta"):
        settings = NetworkSettings(
            **shape, architecture="dit", width=width, blocks=blocks, channels_per_head=width // heads
        )
        model = Model(settings)
    network, of_blocks = model.network, nn.ModuleList(blocks_of(model))
    assert count(network) == pytest.approx(millions * 1e6, rel=0.01)
    gains = [parameter for name, parameter in of_blocks.named_parameters() if name.endswith("_gain")]
    assert len(gains) == 2 * blocks and {gain.shape for gain in gains} == {torch.Size([])}
    assert count(of_blocks) - len(gains) == blocks * (18 * width**2 + 15 * width)
    published = blocks * (18 * width**2 + 15 * width)
    published += 256 * width + width + width**2 + width  # the time, by 256 frequencies
    published += 1001 * width  # the classes, and none, which here is the bias
    published += 4 * 2**2 * width + width + 256 * width  # patches, and their places
    published += 2 * width**2 + 2 * width + 2 * 4 * 2**2 * (width + 1)  # the last layer, whose output has a variance
    ours = published + len(gains) + (width - 256) * width - 256 * width - 4 * 2**2 * (width + 1)
    assert count(network) == ours
    assert size != "XL" or published == 675_129_632  # as DiT's own program prints


def test_patches_are_cut_row_by_row_and_put_together_again():
    x = torch.arange(2 * 3 * 6 * 6.0).reshape(2, 3, 6, 6)
    tokens = to_tokens(x, 2)
    assert torch.equal(tokens, functional.unfold(x, 2, stride=2).transpose(1, 2))
    assert torch.equal(to_image(tokens, 2), x)


@pytest.mark.parametrize("modulation", ["double_norm", "scale_shift"])
def test_a_block_is_its_formula(modulation):
    """x + g attend(norm(x) s + b) and then x + g mlp(norm(x) s + b), with s, b and g by the modulation."""
    torch.manual_seed(0)
    block = Block(8, 2, 0.0, modulation).double()
    nn.init.normal_(block.affine_proj.weight)
    gains = [1.0, 1.0]
    if modulation == "double_norm":
        gains = [0.7, -0.3]
        for gain, value in zip((block.attn_gain, block.mlp_gain), gains, strict=True):
            assert gain is not None
            nn.init.constant_(gain, value)
    x, embedding = torch.randn(3, 5, 8, dtype=torch.float64) * 4, torch.randn(3, 8, dtype=torch.float64)
    found = block(x, embedding)

    def unit(a):
        return a / (a.square().mean(-1, keepdim=True).sqrt() + 1e-4)

    for sample in range(3):
        s = (block.affine_proj.weight @ embedding[sample] + block.affine_proj.bias).split(8)
        if modulation == "double_norm":
            s = [a / (a.square().mean() + 1e-4) ** 0.5 for a in s]
        else:
            s = [a + (index in (0, 3)) for index, a in enumerate(s)]
        y = unit(x[sample]) * s[0] + s[1]
        q, k, v = (block.attn_qkv(y)[:, part * 8 : part * 8 + 8].reshape(5, 2, 4).transpose(0, 1) for part in range(3))
        weights = torch.softmax(unit(q) @ unit(k).transpose(1, 2) / 2, dim=2)
        attended = torch.stack([(weights[head] @ v[head]) for head in range(2)], dim=1).reshape(5, 8)
        expected = x[sample] + gains[0] * s[2] * block.attn_proj(attended)
        y = unit(expected) * s[3] + s[4]
        hidden = block.mlp_in(y)
        expected = expected + gains[1] * s[5] * block.mlp_proj(hidden * torch.sigmoid(hidden))
        assert torch.allclose(found[sample], expected, atol=1e-10)


@pytest.mark.parametrize("family", ["dit", "dit-trigflow"])
def test_a_new_network_is_zero_and_its_blocks_are_the_identity(family):
    model = Model(NetworkSettings(**{**TINY.to_dict(), **FAMILIES[family]}))
    x, embedding = torch.randn(2, 16, 16), torch.randn(2, 16)
    assert all(torch.equal(block(x, embedding), x) for block in blocks_of(model))
    assert not model(torch.randn(2, 1, 8, 8), torch.tensor([0.3, 1.2])).any()


def test_scales_shifts_and_gates_have_unit_size_whatever_their_layer_learns():
    """So the tangent of a norm in t is bounded, where adaLN's grows with the weights."""
    x, scale, shift = torch.randn(2, 5, 16), *torch.randn(2, 2, 16)
    for factor in (1, 1000):
        y = modulate(x, factor * scale, factor * shift, "double_norm")
        assert y.square().mean() < 5 and dit.gated(factor * scale, torch.ones([])).square().mean() < 1.001
    assert modulate(x, 1000 * scale, 1000 * shift, "scale_shift").square().mean() > 1e5


def test_labels_and_places_matter():
    model, t = tiny_model(**FAMILIES["dit-trigflow"]), torch.tensor([0.5, 0.5])
    x = torch.randn(2, 1, 8, 8)
    one, other, none = (model(x, t, torch.tensor([label, label])) for label in (0, 1, -1))
    assert not torch.allclose(one, other, atol=1e-3) and torch.equal(none, model(x, t, None))
    moved = model(x.roll((2, 4), (2, 3)), t, None).roll((-2, -4), (2, 3))
    assert not torch.allclose(moved, none, atol=1e-3)


def test_its_tangent_is_the_limit_of_finite_differences():
    model = tiny_model(**FAMILIES["dit-trigflow"], guidance=True, segments=True).double()
    draws = torch.Generator().manual_seed(3)
    x, along_x = torch.randn(2, 4, 1, 8, 8, generator=draws, dtype=torch.float64)
    t, along_t = torch.rand(2, 4, generator=draws, dtype=torch.float64)

    def function(x, t):
        return model(x, t, torch.tensor([0, 2, 1, -1]), guidance=t.new_full((4,), 1.5), segment=t.new_full((4,), 0.1))

    _, tangent = output_and_tangent(function, (x, t), (along_x, along_t))
    h = 1e-6
    with torch.no_grad():
        ahead, behind = (function(x + s * h * along_x, t + s * h * along_t) for s in (1, -1))
    assert torch.allclose(tangent, (ahead - behind) / (2 * h), atol=1e-7)


def test_dropout_acts_if_the_grid_of_patches_is_small_enough():
    settings = NetworkSettings(**{**TINY.to_dict(), **FAMILIES["dit-trigflow"]})
    for most, expected in ((4, 0.3), (3, 0.0)):
        blocks = blocks_of(Model(settings, dropout=0.3, dropout_max_resolution=most))
        assert {block.dropout_probability for block in blocks} == {expected}


def test_patches_that_do_not_divide_the_image_are_refused():
    with pytest.raises(ValueError, match="patches of 3 pixels do not divide 8 pixels"):
        Model(NetworkSettings(**{**TINY.to_dict(), **FAMILIES["dit"], "patch": 3}))
