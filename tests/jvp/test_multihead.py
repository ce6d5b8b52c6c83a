"""nn.MultiheadAttention with tangents against torch.func.jvp of torch's own, in float64."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from scm.jvp import Refused, output_and_tangent

BATCH, QUERIES, KEYS, CHANNELS, HEADS = 2, 7, 9, 12, 3


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(**options) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(CHANNELS, HEADS, **options).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made


def agree(function, primals, tangents) -> None:
    """`function` gives tensors; its outputs and tangents are torch's."""
    with sdpa_kernel(SDPBackend.MATH):
        expected = torch.func.jvp(function, primals, tangents)
    for index in range(len(expected[0])):
        output, tangent = output_and_tangent(lambda *x, index=index: function(*x)[index], primals, tangents)
        assert output.shape == expected[0][index].shape
        assert torch.allclose(output, expected[0][index], rtol=0, atol=1e-12)
        assert torch.allclose(tangent, expected[1][index], rtol=0, atol=1e-12)


def called(made, options, need_weights):
    def function(*parts):
        output, weights = made(*parts, need_weights=need_weights, **options)
        return (output, weights) if need_weights else (output,)

    return function


LATER = torch.ones(QUERIES, QUERIES, dtype=torch.bool).triu(1)
PADDING = torch.arange(QUERIES) >= torch.tensor([QUERIES, 4])[:, None]


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize(
    ("options", "call"),
    [
        ({}, {}),
        ({"batch_first": True}, {}),
        ({"bias": False}, {}),
        ({"add_bias_kv": True, "add_zero_attn": True}, {"key_padding_mask": PADDING, "attn_mask": LATER}),
        ({}, {"attn_mask": LATER, "is_causal": True}),
        ({}, {"attn_mask": LATER, "is_causal": True, "key_padding_mask": PADDING}),
        ({}, {"attn_mask": drawn(BATCH * HEADS, QUERIES, QUERIES, seed=5)}),
        ({}, {"key_padding_mask": PADDING}),
    ],
)
def test_self_attention_agrees(options, call, need_weights):
    made = layer(**options)
    shape = (BATCH, QUERIES, CHANNELS) if made.batch_first else (QUERIES, BATCH, CHANNELS)
    function = called(made, call, need_weights)
    agree(lambda x: function(x, x, x), (drawn(*shape, seed=1),), (drawn(*shape, seed=2),))


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("options", [{}, {"kdim": 5, "vdim": 6}, {"kdim": 5, "vdim": 6, "bias": False}])
def test_attention_to_others_agrees(options, need_weights):
    shapes = [(QUERIES, BATCH, CHANNELS), (KEYS, BATCH, options.get("kdim", CHANNELS))]
    shapes.append((KEYS, BATCH, options.get("vdim", CHANNELS)))
    primals, tangents = (tuple(drawn(*shape, seed=s + i) for i, shape in enumerate(shapes)) for s in (0, 10))
    agree(called(layer(**options), {}, need_weights), primals, tangents)


@pytest.mark.parametrize("need_weights", [True, False])
def test_one_sequence_alone_agrees(need_weights):
    function = called(layer(), {"average_attn_weights": False, "attn_mask": LATER}, need_weights)
    agree(lambda x: function(x, x, x), (drawn(QUERIES, CHANNELS, seed=1),), (drawn(QUERIES, CHANNELS, seed=2),))


def test_parameters_receive_torchs_gradients():
    ours, plain = layer(), layer()
    x, dx = drawn(QUERIES, BATCH, CHANNELS, seed=1), drawn(QUERIES, BATCH, CHANNELS, seed=2)
    output, tangent = output_and_tangent(lambda x: ours(x, x, x, need_weights=False)[0], (x,), (dx,))
    output.square().sum().backward()
    plain(x, x, x, need_weights=False)[0].square().sum().backward()
    assert not tangent.requires_grad
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None and torch.allclose(a.grad, b.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("need_weights", [True, False])
def test_dropout_has_one_mask_for_output_and_tangent(need_weights):
    made, (x, dx) = layer(dropout=0.4), (drawn(QUERIES, BATCH, CHANNELS, seed=seed) for seed in (1, 2))

    def function(x):
        torch.manual_seed(3)
        return made(x, x, x, need_weights=need_weights)[:1]

    agree(function, (x,), (dx,))


def test_what_has_no_tangent_is_refused_with_the_remedy():
    x = drawn(QUERIES, BATCH, CHANNELS, seed=1)
    made = layer()
    with pytest.raises(Refused, match="pass the mask too"):
        output_and_tangent(lambda x: made(x, x, x, is_causal=True)[0], (x,), (x,))
    weights = [made.in_proj_weight, made.in_proj_bias, None, None, False, 0.0, made.out_proj.weight, made.out_proj.bias]
    with pytest.raises(Refused, match="pass key and value"):
        output_and_tangent(
            lambda x: functional.multi_head_attention_forward(x, x, x, CHANNELS, HEADS, *weights, static_k=x)[0],
            (x,),
            (x,),
        )
