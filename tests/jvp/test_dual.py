"""The tangent that rides along against torch.func.jvp and finite differences, in float64."""

import pytest
import torch
from torch.nn import functional

from scm.jvp import Refused, output_and_tangent
from tests.support.models import FAMILIES, tiny_model

WEIGHTS = torch.tensor([1.0, 2, -1, 3, 0.5, -0.2], dtype=torch.float64)


def inputs() -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...], torch.Tensor]:
    draws = torch.Generator().manual_seed(3)
    x, along_x = torch.randn(2, 4, 1, 8, 8, generator=draws, dtype=torch.float64)
    t, along_t = torch.rand(2, 4, generator=draws, dtype=torch.float64)
    return (x, t), (along_x, along_t), torch.tensor([0, 2, 1, -1])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_networks_tangent_is_torch_func_jvps(family, dropout):
    """In train mode, with the same dropout mask for value and tangent."""
    model = tiny_model(dropout=dropout, **FAMILIES[family]).double().train()
    primals, tangents, labels = inputs()

    def function(x, t):
        return model(x, t, labels)

    torch.manual_seed(5)
    expected_output, expected = torch.func.jvp(function, primals, tangents)
    torch.manual_seed(5)
    output, tangent = output_and_tangent(function, primals, tangents)
    assert torch.allclose(output, expected_output, rtol=0, atol=1e-12)
    assert torch.allclose(tangent, expected, rtol=0, atol=1e-11)
    assert expected.abs().max() > 0.1


def test_the_networks_tangent_is_the_limit_of_finite_differences():
    model = tiny_model().double()
    (x, t), (along_x, along_t), labels = inputs()
    _, tangent = output_and_tangent(lambda x, t: model(x, t, labels), (x, t), (along_x, along_t))
    h = 1e-6
    with torch.no_grad():
        ahead, behind = (model(x + s * h * along_x, t + s * h * along_t, labels) for s in (1, -1))
    assert torch.allclose(tangent, (ahead - behind) / (2 * h), atol=1e-7)


def test_only_the_value_has_a_graph_and_its_gradients_are_unchanged():
    model = tiny_model().double()
    primals, tangents, labels = inputs()
    model(*primals, labels).square().mean().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    output, tangent = output_and_tangent(lambda x, t: model(x, t, labels), primals, tangents)
    assert output.requires_grad and not tangent.requires_grad
    output.square().mean().backward()
    for name, parameter in model.named_parameters():
        if name in expected:
            assert torch.allclose(parameter.grad, expected[name], atol=1e-13), name


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.tanh(x) + functional.gelu(x),  # no rule of their own
        lambda x: x.exp().sum(dim=1, keepdim=True) * x,
        lambda x: 2.0 / (x * x + 1.5) - x / 3,
        lambda x: 1.0 - torch.clamp(x, -0.5, 0.5),
        lambda x: torch.softmax(x, 1) @ x.transpose(0, 1),
        lambda x: torch.cat([x, torch.ones_like(x)], dim=1)[:, 1:].mean(dim=1),
        lambda x: functional.linear(x, torch.full((2, 3), 0.3, dtype=x.dtype), torch.ones(2, dtype=x.dtype)),
        lambda x: functional.layer_norm(x, [3]),
        lambda x: torch.sin(x) * torch.cos(2 * x) + torch.log(x * x + 1) - torch.tan(x / 9),
        lambda x: x.chunk(3, dim=1)[2] + x[:, 1:2],
        lambda x: functional.group_norm(x.reshape(1, 6, 2), 3, WEIGHTS, WEIGHTS, 0.1),
        lambda x: torch.linalg.vector_norm(x, dim=[1], keepdim=True) * x,
        lambda x: torch.linalg.vector_norm(x, dim=[0, 1]) + x.sum(),
        lambda x: torch.add(x, x * x, alpha=0.3),
        lambda x: torch.lerp(x, x * x, 0.3) + torch.lerp(torch.ones_like(x), x, 0.2) + torch.lerp(x, WEIGHTS[0], 0.1),
        lambda x: x.reshape(-1).unbind(0)[1] * -x,
        lambda x: torch.div(x, 0.3, rounding_mode="floor") + torch.div(x, x * x + 1),  # forms that rules do not cover
        lambda x: torch.clamp(WEIGHTS[:3] * 1.5, min=x) + torch.clamp(x, 0.1) + torch.clamp(x, None, 0.2),
        lambda x: torch.clamp(x, WEIGHTS[5], WEIGHTS[4]),
        lambda x: torch.lerp(x, 2 * x, x * x) + torch.lerp(x, x * x, weight=0.3),
        lambda x: functional.group_norm(x.reshape(1, 6, 2), 3),
        lambda x: functional.group_norm(x.reshape(1, 6, 2), 2, x[0, 0] * WEIGHTS),
        lambda x: functional.linear(x, weight=WEIGHTS.reshape(2, 3)) + functional.linear(x, weight=x[:2]),
        lambda x: torch.cat(tensors=[x, x]) + torch.add(x[0], other=x[1]) + torch.sum(input=x),
        lambda x: functional.silu(input=x) * functional.softmax(x, dim=-1) * torch.softmax(input=x, dim=0),
        lambda x: x * x.size(0) * x.dim() * x.numel() + x * torch.gt(x, 0).to(x.dtype),
    ],
)
def test_each_operation_with_and_without_a_rule(function):
    draws = torch.Generator().manual_seed(0)
    x, along = torch.randn(2, 4, 3, generator=draws, dtype=torch.float64)
    expected_output, expected = torch.func.jvp(function, (x,), (along,))
    output, tangent = output_and_tangent(function, (x,), (along,))
    assert torch.allclose(output, expected_output, atol=1e-14)
    assert torch.allclose(tangent, expected, atol=1e-14)


@pytest.mark.parametrize("function", [lambda x: x.add_(1), lambda x: functional.silu(x, inplace=True)])
def test_what_writes_in_place_is_refused(function):
    with pytest.raises(Refused, match="writes in place"):
        output_and_tangent(function, (torch.ones(2),), (torch.ones(2),))


def test_a_function_that_ignores_its_input_has_no_tangent():
    x = torch.ones(2)
    output, tangent = output_and_tangent(lambda x: torch.zeros(3), (x,), (x,))
    assert output.shape == tangent.shape == (3,) and not tangent.any()


def test_dropout_has_one_mask_for_output_and_tangent():
    layer, x = torch.nn.Dropout(0.4), torch.randn(1000, dtype=torch.float64)
    output, tangent = output_and_tangent(layer, (x,), (torch.ones_like(x),))
    assert torch.equal(output, x * tangent) and sorted(tangent.unique().tolist()) == pytest.approx([0, 1 / 0.6])
    output, tangent = output_and_tangent(layer.eval(), (x,), (torch.ones_like(x),))
    assert torch.equal(output, x) and torch.equal(tangent, torch.ones_like(x))
