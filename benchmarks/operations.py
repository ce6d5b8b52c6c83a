"""Arithmetic, shapes, indexing and types of docs/jvp.md's table, each row a function of one tensor."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.conformance import Operation

PADDINGS = ("constant", "reflect", "replicate", "circular")
IMAGE, VOLUME = (2, 4, 6, 6), (2, 4, 4, 4, 4)


def weight(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Applied(nn.Module):
    """A layer with a call of its own."""

    def __init__(self, layer: nn.Module, call: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, x: Any) -> Any:
        return self.call(self.layer, x)


def plain(function: Callable[[Any], Any], *shape: int) -> Operation:
    return Operation(lambda: function, shape or (2, 4, 6))


def constant(make: Callable[[], Any]) -> Operation:
    """What differs from central differences by design."""
    return Operation(make, differences=False)


def layer(make: Callable[[], nn.Module], *shape: int) -> Operation:
    return Operation(make, shape or (2, 4, 6))


ACTIVATIONS = {
    name: plain(getattr(F, name))
    for name in (
        "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "softsign",
        "tanhshrink", "softshrink", "hardshrink", "hardtanh", "hardsigmoid", "hardswish", "logsigmoid", "sigmoid",
        "tanh", "glu",
    )
}  # fmt: skip
ELEMENTWISE = {
    name: plain(getattr(torch, name))
    for name in ("abs", "atan", "ceil", "cos", "erf", "exp", "expm1", "floor", "frac", "neg", "reciprocal", "round",
                 "sign", "sin", "sinc", "sinh", "square", "trunc")
}  # fmt: skip


def _positive(function: Callable[[Any], Any]) -> Operation:
    return plain(lambda x: function(x * x + 0.5))


ON_POSITIVE = {
    f"{name} of x² + 0.5": _positive(getattr(torch, name))
    for name in ("sqrt", "rsqrt", "log", "log1p", "log2", "lgamma")
}
ARITHMETIC = {
    "x + y, x - y, x * y, x / y": plain(lambda x: (x + x.sin() - 2) * (3 - x) / (x * x + 1) + 2 / (x.abs() + 1)),
    "x ** 3, 2 ** x (rpow), x ** x": plain(lambda x: x**3 + 2**x + x.abs() ** x),
    "tan, asin, acosh, atanh, logit": plain(
        lambda x: (x / 4).tan() + (x / 9).asin() + (x.abs() + 2).acosh() + (x / 9).atanh() + x.sigmoid().logit()
    ),
    "x % 2, fmod": plain(lambda x: x % 2 + torch.fmod(x, 0.7)),
    "7 % x": plain(lambda x: 7 % (x.abs() + 1)),
    "x // 2": plain(lambda x: x // 2 * x),
    "abs(x), +x, -x": plain(lambda x: abs(x) + (+x) * (-x)),
    "x @ W, W @ x, x @ x.mT": plain(lambda x: x @ weight(6, 6) + weight(4, 4) @ x + x @ x.mT @ x),
    "x.T, x.mT": plain(lambda x: x.T @ x + x.mT.mT, 4, 4),
    "addcmul, addcdiv, lerp": plain(lambda x: torch.addcmul(x, x, x) + torch.addcdiv(x, x, x * x + 1).lerp(x, 0.3)),
    "atan2, hypot, logaddexp": plain(lambda x: torch.atan2(x, x + 3) + torch.hypot(x, x + 1) + torch.logaddexp(x, -x)),
    "maximum, minimum, fmax": plain(lambda x: torch.maximum(x, -x) + torch.minimum(x, x * x) + torch.fmax(x, 2 * x)),
    "clamp": plain(lambda x: x.clamp(-0.5, 0.5) + x.clamp(min=0) + torch.clamp(x, max=x * x)),
    "clamp at a bound": constant(lambda: lambda x: (x - x.detach() + x.detach().round()).clamp(-1, 1) * 3),
    "nan_to_num": plain(lambda x: torch.nan_to_num(torch.where(x > 0, x, torch.nan)) * x),
    "bmm, baddbmm": plain(lambda x: torch.bmm(x, x.mT) + torch.baddbmm(weight(4, 4), x, x.mT)),
    "outer, dot, mv": plain(lambda x: torch.outer(x, x).mv(x) * torch.dot(x, x), 5),
    "einsum": plain(lambda x: torch.einsum("bij,bkj->bik", x, x * 2) + torch.einsum("bij->b", x)[:, None, None]),
    "tensordot, kron": plain(lambda x: torch.tensordot(x, x, dims=2) + torch.kron(x, x).sum(), 3, 3),
    "cross": plain(lambda x: torch.cross(x, x.cos(), dim=-1), 5, 3),
    "cdist": plain(lambda x: torch.cdist(x, x * 2), 5, 3),
}
REDUCTIONS = {
    "sum, mean, prod": plain(lambda x: x.sum(1) + x.mean(dim=1) * x.prod(1) + x.sum()),
    "var, std": plain(lambda x: x.var(1, unbiased=False) + x.std(dim=1)),
    "norm, vector_norm": plain(lambda x: x.norm(dim=1) + torch.linalg.vector_norm(x, 3, dim=1)),
    "logsumexp": plain(lambda x: x.logsumexp(1)),
    "amax, amin": plain(lambda x: x.amax(1) * x.amin(1)),
    "max, min with indices": plain(lambda x: x.max(dim=1).values * x.min(dim=1)[0]),
    "sort, topk, median, kthvalue": plain(
        lambda x: x.sort(dim=1).values[:, 0] * x.topk(2, dim=1).values[:, 1] + x.median(1)[0] + x.kthvalue(2, 1).values
    ),
    "argmax, argsort as indices": plain(lambda x: x.gather(1, x.argmax(1, keepdim=True)) + x.gather(1, x.argsort(1))),
    "cumsum, cumprod": plain(lambda x: x.cumsum(1) * x.cumprod(2)),
    "logcumsumexp": plain(lambda x: x.logcumsumexp(1)),
    "cummax, cummin": plain(lambda x: x.cummax(1).values + torch.cummin(x, 2)[0]),
    "diff, trapezoid": plain(lambda x: x.diff(dim=1) + torch.trapezoid(x, dim=1)[:, None]),
    "any, all, count_nonzero, isnan": plain(lambda x: x * (x > 0).any() * x.isnan().logical_not() + x.count_nonzero()),
    "linalg.det, inv, solve": plain(
        lambda x: torch.linalg.det(x) * torch.linalg.inv(x) + torch.linalg.solve(x, x * x), 4, 4
    ),
    "linalg.qr, svdvals": plain(lambda x: torch.linalg.qr(x)[1].abs() + torch.linalg.svdvals(x), 4, 4),
}
SHAPES = {
    "reshape, view, flatten, unflatten": plain(
        lambda x: x.reshape(2, -1).view(2, 6, 4).flatten().unflatten(0, (4, 12)).sin()
    ),
    "transpose, permute, movedim, swapaxes": plain(
        lambda x: x.transpose(1, 2).permute(2, 0, 1).movedim(0, 2) * x.swapaxes(1, 2)
    ),
    "squeeze, unsqueeze, expand, broadcast_to": plain(
        lambda x: x.unsqueeze(1).squeeze(1).expand(3, 2, 4, 6) + x[:, :1].broadcast_to(2, 4, 6)
    ),
    "cat, stack, hstack, vstack": plain(
        lambda x: torch.cat([x, x * x, torch.ones(2, 1, 6)], 1).sum(1) + torch.stack([x, -x]).prod(0).sum(1)
        + torch.hstack([x, x]).sum(1) + torch.vstack([x, x])[:2, 0]
    ),
    "split, chunk, unbind, tensor_split": plain(
        lambda x: x.split(2, 1)[0] * x.chunk(2, 1)[1] + x.unbind(1)[2][:, None] + x.tensor_split(2, dim=1)[0]
    ),
    "iteration, unpacking, len": plain(lambda x: sum(row * len(x) for row in x) + [*x][1]),
    "tile, repeat": plain(lambda x: x.repeat(1, 2, 1) * x.tile(1, 2, 1) + 2),
    "roll, flip, rot90": plain(lambda x: x.roll(1, 1) * x.flip(1) + x.rot90(2, (1, 2))),
    "tril, triu, diagonal, diag_embed": plain(
        lambda x: x.tril() + x.triu(1) * 2 + x.diagonal(dim1=1, dim2=2).diag_embed(), 2, 4, 4
    ),
    "unfold, fold": plain(
        lambda x: F.fold(F.unfold(x, 3, padding=1), (6, 6), 3, padding=1) + x.unfold(2, 2, 2).sum(), *IMAGE
    ),
    "meshgrid, broadcast_tensors": plain(
        lambda x: torch.meshgrid(x, x * 2, indexing="ij")[1] * torch.broadcast_tensors(x, weight(5, 5))[0], 5
    ),
    "pad: constant, reflect, replicate, circular": plain(
        lambda x: sum(F.pad(x * i, (1, 2), mode=mode) for i, mode in enumerate(PADDINGS))
    ),
    "pixel_shuffle, pixel_unshuffle": plain(lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2).sin(), 2), *IMAGE),
    "channel_shuffle": plain(lambda x: F.channel_shuffle(x, 2) * x, *IMAGE),
    "atleast_3d, block_diag": plain(lambda x: torch.atleast_3d(x) * 2 + torch.block_diag(x, x).sum(), 3, 3),
}  # fmt: skip
INDEXING = {
    "x[1:, ::2], x[..., None], x[:, [0, 2]]": plain(lambda x: x[1:, ::2].sum() + x[..., None][:, [0, 2], :, 0]),
    "x[mask], masked_select": plain(lambda x: x[x > 0].sum() * x + x.masked_select(x < 0).prod()),
    "where, masked_fill": plain(lambda x: torch.where(x > 0, x * x, 0.1 * x) + x.masked_fill(x > 1, 0.5)),
    "==, !=, <, <=, >, >= as masks": plain(
        lambda x: x * (x > 0) + x * (x <= 1) - x * (x == 0) + x * (x != 2) * (x < 3) * (x >= -1)
    ),
    "if x.sum() > 0, while, bool(x)": plain(lambda x: x * 2 if x.sum() > 0 else x * 3 if bool((x * x).sum()) else x),
    "gather, take_along_dim": plain(
        lambda x: (
            x.gather(1, torch.tensor([0, 2, 1]).expand(2, 3).unsqueeze(-1)) * x.take_along_dim(x.argsort(1), 1)[:, :3]
        )
    ),
    "index_select, take": plain(
        lambda x: x.index_select(1, torch.tensor([2, 0])) * x.take(torch.tensor([5, 7])).sum()
    ),
    "scatter, scatter_add": plain(
        lambda x: x.scatter(1, torch.zeros(2, 1, 6, dtype=torch.long), x[:, :1] * 2)
        + x.scatter_add(1, torch.ones(2, 4, 6, dtype=torch.long), x * x)
    ),
    "scatter_reduce, index_reduce": plain(
        lambda x: x.scatter_reduce(1, torch.ones(2, 4, 6, dtype=torch.long), x * x, "mean")
    ),
    "index_put, index_add, index_copy": plain(
        lambda x: x.index_add(1, torch.tensor([0, 0]), x[:, 2:]) * x.index_copy(1, torch.tensor([1]), x[:, :1] * 2)
        + x.index_put((torch.tensor([0]),), x[1] * 2)
    ),
    "slice_scatter, select_scatter": plain(
        lambda x: x.slice_scatter(x[:, :2] * 3, 1, 2, 4) * x.select_scatter(x[:, 0].sin(), 1, 1)
    ),
    "searchsorted, bucketize, one_hot": plain(
        lambda x: x * torch.bucketize(x, torch.tensor([-1.0, 0, 1])) + F.one_hot(x.argmax(-1), 6)
    ),
    "embedding of labels": layer(
        lambda: Applied(nn.Embedding(5, 6), lambda m, x: m(torch.tensor([0, 3]))[:, None] * x)
    ),
    "embedding with x as weights": plain(lambda x: F.embedding(torch.tensor([[0, 3], [2, 2]]), x), 4, 6),
    "embedding with max_norm, x as weights": plain(
        lambda x: F.embedding(torch.tensor([0]), x * 1, max_norm=0.1), 4, 6
    ),
}  # fmt: skip
TYPES = {
    "to(dtype), float(), type_as": plain(
        lambda x: x.to(torch.float64) * x.double() + x.type_as(torch.ones(1).double())
    ),
    "long() (a constant)": plain(lambda x: x * x.long() + x.to(torch.int32).to(x.dtype)),
    "detach() (a constant)": constant(lambda: lambda x: x.detach() * x),
    "item() of a constant": plain(lambda x: x * x.detach().round().amax().item()),
    "zeros_like, ones_like, full_like, new_zeros": plain(
        lambda x: (
            x * torch.ones_like(x) + torch.zeros_like(x) + torch.full_like(x, 2) * x.new_zeros(2, 1, 1) + x.new_ones(6)
        )
    ),
    "clone, contiguous, positive": plain(lambda x: x.mT.contiguous() * x.clone().mT + x.positive().mT),
    "x in float32": Operation(lambda: lambda x: (x * x).to(torch.float64).exp().float(), dtype=torch.float32),
}
SOFTMAX = {
    "softmax, log_softmax, softmin": plain(lambda x: F.softmax(x, 1) + F.log_softmax(x, -1) + F.softmin(x, 2)),
    "normalize, cosine_similarity": plain(
        lambda x: F.normalize(x, dim=1) + F.cosine_similarity(x, x.sin(), 1)[:, None]
    ),
    "mse, l1, smooth_l1, huber": plain(
        lambda x: F.mse_loss(x, x.sin()) + F.l1_loss(x, 2 * x) + F.smooth_l1_loss(x, x * x) + F.huber_loss(x, x.exp())
    ),
    "cross_entropy, nll_loss, kl_div": plain(
        lambda x: F.cross_entropy(x, torch.tensor([1, 2]))
        + F.kl_div(F.log_softmax(x, 1), F.softmax(x * 2, 1), reduction="sum"),
        2, 4,
    ),
    "binary_cross_entropy(_with_logits)": plain(
        lambda x: (
            F.binary_cross_entropy_with_logits(x, x.sigmoid()) + F.binary_cross_entropy(x.sigmoid(), (x > 0).double())
        )
    ),
}  # fmt: skip
OPERATIONS: dict[str, Operation] = {
    **ACTIVATIONS, **ELEMENTWISE, **ON_POSITIVE, **ARITHMETIC, **REDUCTIONS, **SHAPES, **INDEXING, **TYPES, **SOFTMAX,
}  # fmt: skip
