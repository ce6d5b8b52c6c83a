"""Activations that the backward pass computes again: the same bits, no tangent twice, and a third of the memory."""

import pytest
import torch

from scm.jvp import Dual, attention, output_and_tangent, recomputed, rules
from scm.networks import layers
from tests.jvp.test_compile import results
from tests.support.models import FAMILIES, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_output_tangent_and_gradients_have_the_same_bits(family):
    expected = results(tiny_model(dropout=0.4, **FAMILIES[family]).train())
    model = tiny_model(dropout=0.4, **FAMILIES[family]).train()
    layers.recompute_blocks(model, recomputed)
    found = results(model)
    assert len(found) == len(expected) and all(map(torch.equal, found, expected))


def test_the_second_evaluation_carries_no_tangent():
    asked: list[type] = []

    def function(x):
        asked.append(type(x))
        return x.sin() * x

    x = torch.randn(4, requires_grad=True)
    output, tangent = output_and_tangent(lambda x: recomputed(function, x), (x,), (torch.ones(4),))
    assert asked == [Dual] and not tangent.requires_grad
    output.sum().backward()
    assert asked == [Dual, torch.Tensor]
    assert torch.allclose(x.grad, x.detach().cos() * x.detach() + x.detach().sin())
    assert torch.equal(tangent, x.grad)


@pytest.mark.parametrize("recomputed", [recomputed, layers.recomputed])
def test_a_network_without_gradients_is_evaluated_once(recomputed):
    asked = []
    with torch.no_grad():
        recomputed(lambda x: asked.append(1) or x * 2, torch.ones(2, requires_grad=True))
    assert asked == [1]


def test_long_attention_is_evaluated_by_torchs_own_both_times(monkeypatch):
    """The kernel's graph keeps other tensors, which the second evaluation would not find."""
    wanted: list[bool] = []
    monkeypatch.setattr(rules, "has_kernel", lambda primals: wanted.append(attention._kernel_wanted[0]))
    attend, q = torch.nn.functional.scaled_dot_product_attention, torch.randn(1, 1, 8, 16, requires_grad=True)
    for function in (attend, lambda *values: recomputed(attend, *values)):
        output, _ = output_and_tangent(lambda q, f=function: f(q, q, q), (q,), (torch.ones_like(q),))
        output.sum().backward()
    assert wanted == [True, False]
