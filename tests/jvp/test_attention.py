"""The tangent of torch's scaled_dot_product_attention against torch.func.jvp of explicit attention, in float64."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.step_cost import LiveMemory
from scm.jvp import output_and_tangent
from scm.jvp.dual import Dual

SDPA = functional.scaled_dot_product_attention


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def explicit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    return torch.softmax(scores if bias is None else scores + bias, dim=-1) @ v


def qkv(queries: int, keys: int, channels: int, heads: int = 2, shared: int = 2):
    shapes = [(2, heads, queries, channels), (2, shared, keys, channels), (2, shared, keys, channels)]
    return [tuple(drawn(*shape, seed=i + 10 * j) for i, shape in enumerate(shapes)) for j in range(2)]


@pytest.mark.parametrize("channels", [32, 40, 64, 128])
@pytest.mark.parametrize(("queries", "keys"), [(5, 7), (128, 512), (131, 1037), (300, 77)])
def test_blocks_agree_with_explicit_attention(queries, keys, channels):
    primals, tangents = qkv(queries, keys, channels)
    expected = torch.func.jvp(explicit, primals, tangents)
    for ours, true in zip(output_and_tangent(SDPA, primals, tangents), expected, strict=True):
        assert torch.allclose(ours, true, rtol=0, atol=1e-11)


@pytest.mark.parametrize("form", ["causal", "seen", "bias", "scale", "shared heads", "constant keys"])
def test_each_option_agrees(form):
    heads, shared = (4, 2) if form == "shared heads" else (2, 2)
    primals, tangents = qkv(200, 190, 32, heads, shared)
    seen = torch.ones(200, 190, dtype=torch.bool).tril()
    hidden = torch.zeros(200, 190, dtype=torch.float64).masked_fill(~seen, -torch.inf)
    options = {"causal": {"is_causal": True}, "seen": {"attn_mask": seen}, "bias": {"attn_mask": hidden},
               "scale": {"scale": 0.3}, "shared heads": {"enable_gqa": True}}.get(form, {})  # fmt: skip
    bias = hidden if form in ("causal", "seen", "bias") else None

    def reference(q, k, v):
        k, v = (x.repeat_interleave(heads // shared, dim=1) for x in (k, v))
        return explicit(q, k, v, bias, options.get("scale"))

    if form == "constant keys":
        tangents = (tangents[0], torch.zeros_like(tangents[1]), torch.zeros_like(tangents[2]))
        q = SDPA(Dual(primals[0], tangents[0]), *primals[1:])
        output, tangent = q.primal, q.tangent
    else:
        output, tangent = output_and_tangent(lambda q, k, v: SDPA(q, k, v, **options), primals, tangents)
    expected_output, expected = torch.func.jvp(reference, primals, tangents)
    assert torch.allclose(output, expected_output, rtol=0, atol=1e-12)
    assert torch.allclose(tangent, expected, rtol=0, atol=1e-11)


def test_a_bias_may_have_a_tangent_of_its_own():
    (q, k, v), _ = qkv(9, 11, 32)
    bias, along = drawn(9, 11, seed=30), drawn(9, 11, seed=31)
    expected = torch.func.jvp(lambda b: explicit(q, k, v, b), (bias,), (along,))[1]
    tangent = output_and_tangent(lambda b: SDPA(q, k, v, attn_mask=b), (bias,), (along,))[1]
    assert torch.allclose(tangent, expected, rtol=0, atol=1e-12)


def test_a_query_that_sees_nothing_has_no_tangent():
    primals, tangents = qkv(3, 4, 32)
    seen = torch.tensor([[True] * 4, [False] * 4, [True] * 4])
    tangent = output_and_tangent(lambda q, k, v: SDPA(q, k, v, attn_mask=seen), primals, tangents)[1]
    assert tangent.isfinite().all() and not tangent[..., 1, :].any() and tangent[..., 0, :].any()


def test_only_the_primal_has_a_graph_and_its_gradients_are_torchs():
    primals, tangents = qkv(140, 130, 32)
    ours, plain = ([x.clone().requires_grad_() for x in primals] for _ in range(2))
    output, tangent = output_and_tangent(SDPA, tuple(ours), tangents)
    assert not tangent.requires_grad
    output.square().sum().backward()
    SDPA(*plain).square().sum().backward()
    for a, b in zip(ours, plain, strict=True):
        assert a.grad is not None and torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"attn_mask": torch.ones(5, 5, dtype=torch.bool).tril()}])
def test_dropout_has_one_mask_for_output_and_tangent(options):
    primals, tangents = qkv(5, 5, 32)

    def function(q, k, v):
        torch.manual_seed(3)
        return SDPA(q, k, v, dropout_p=0.4, **options)

    output, tangent = output_and_tangent(function, primals, tangents)
    with sdpa_kernel(SDPBackend.MATH):
        expected_output, expected = torch.func.jvp(function, primals, tangents)
    assert torch.allclose(output, expected_output, atol=1e-12) and torch.allclose(tangent, expected, atol=1e-12)


def test_memory_grows_linearly_with_the_tokens():
    peaks = []
    for tokens in (1024, 4096):
        primals, tangents = qkv(tokens, tokens, 32)
        with LiveMemory() as memory:
            output_and_tangent(SDPA, primals, tangents)
        peaks.append(memory.peak)
    assert peaks[1] < 4.2 * peaks[0] and peaks[1] < 0.15 * 4 * 4096**2 * 8  # 2 samples x 2 heads of explicit scores
