"""Trials of the Triton kernel without a GPU: `interpret` it on the CPU, or `compile` it for sm_90; prints JSON."""

import json
import sys

import torch
from torch import Tensor
from torch.nn import functional

from scm.jvp.flash import Attention, attention, kernel, launch_of

SIZES = [(1024, 1024, 64), (70, 45, 32), (33, 130, 64), (65, 64, 128)]
TYPES = {"fp32": torch.float32, "fp16": torch.float16}


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1) @ v


def drawn(queries: int, keys: int, channels: int, heads: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(queries)
    shapes = [(1, heads, tokens, channels) for tokens in (queries, keys, keys)] * 2
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def errors(queries: int, keys: int, channels: int, dtype: torch.dtype) -> list[float]:
    """The largest of output, tangent and log-sum-exp, each relative to its largest value."""
    values = drawn(queries, keys, channels, 1 if queries >= 1024 else 3, dtype)
    ours = attention(tuple(values[:3]), tuple(values[3:]), channels**-0.5)
    wide = [x.double() for x in values]
    lse = torch.logsumexp(wide[0] @ wide[1].transpose(-1, -2) * channels**-0.5, dim=-1)
    true = (*torch.func.jvp(explicit, tuple(wide[:3]), tuple(wide[3:])), lse)
    return [float((a.double() - b).abs().max() / b.abs().max()) for a, b in zip(ours, true, strict=True)]


def gradients_differ() -> float:
    """By how much gradients of the output differ from torch's; the tangent has none."""
    values = drawn(40, 50, 32, 2, torch.float32)
    ours, plain = ([x.clone().requires_grad_() for x in values[:3]] for _ in range(2))
    output, tangent = Attention.apply(0.3, *ours, *values[3:])
    assert not tangent.requires_grad
    output.square().sum().backward()
    functional.scaled_dot_product_attention(*plain, scale=0.3).square().sum().backward()
    return max(float((a.grad - b.grad).abs().max()) for a, b in zip(ours, plain, strict=True))


def interpret() -> dict[str, object]:
    found = {f"{name} {size}": errors(*size, dtype) for name, dtype in TYPES.items() for size in SIZES}
    return {"errors": found, "gradients": gradients_differ()}


def compiled() -> dict[str, int]:
    """Bytes of shared memory a block, of the kernel for each type and size of a head."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    found = {}
    for name in ("fp32", "fp16", "bf16"):
        for channels in (32, 64, 128):
            dtype = torch.float32 if name == "fp32" else torch.float16
            block, warps, stages = launch_of(dtype, channels)
            types = [f"*{name}"] * 8 + ["*fp32", "i32", "i32", "fp32", "constexpr", "constexpr"]
            source = ASTSource(
                fn=kernel,
                signature=dict(zip(kernel.arg_names, types, strict=True)),
                constexprs={"CHANNELS": channels, "BLOCK": block},
            )
            options = {"num_warps": warps, "num_stages": stages}
            result = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
            assert result.asm["cubin"]
            found[f"{name} {channels}"] = result.metadata.shared
    return found


if __name__ == "__main__":
    print(json.dumps({"interpret": interpret, "compile": compiled}[sys.argv[1]]()))
