"""Long attention is explicit attention without its scores: the same numbers, tangents and gradients, in float64."""

import pytest
import torch
from torch import Tensor

from scm.jvp import output_and_tangent
from scm.networks import layers
from scm.networks.layers import LONG, attention, explicit_attention, split_heads


def drawn(tokens: int, seed: int) -> Tensor:
    """A layer's q, k and v together, for two heads of 32 channels."""
    height = 32 if tokens % 32 == 0 else 1
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 3 * 2 * 32, height, tokens // height, generator=generator, dtype=torch.float64)


def by(form, qkv):
    return form(*split_heads(qkv, 2).unbind(3))


@pytest.mark.parametrize("tokens", [LONG - 1, LONG, LONG + 31])
def test_both_forms_give_the_same_output_tangent_and_gradients(tokens):
    ours, explicit = (drawn(tokens, seed=1).requires_grad_() for _ in range(2))
    along = drawn(tokens, seed=2)
    output, tangent = output_and_tangent(lambda x: by(attention, x), (ours,), (along,))
    expected, expected_tangent = output_and_tangent(lambda x: by(explicit_attention, x), (explicit,), (along,))
    assert output.shape == expected.shape
    assert torch.allclose(output, expected, rtol=0, atol=1e-12)
    assert torch.allclose(tangent, expected_tangent, rtol=0, atol=1e-12)
    output.square().sum().backward()
    expected.square().sum().backward()
    assert ours.grad is not None and explicit.grad is not None
    assert torch.allclose(ours.grad, explicit.grad, rtol=0, atol=1e-11)


def test_short_attention_keeps_its_bits_and_long_attention_stores_no_scores(monkeypatch):
    called = []
    monkeypatch.setattr(layers, "explicit_attention", lambda *x: called.append(x) or explicit_attention(*x))
    assert torch.equal(by(attention, drawn(LONG - 1, seed=1)), by(explicit_attention, drawn(LONG - 1, seed=1)))
    assert len(called) == 1
    by(attention, drawn(LONG, seed=1))
    assert len(called) == 1
