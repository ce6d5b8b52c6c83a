"""Layers, draws, writes and wrappers of docs/jvp.md's table, each row a function of one tensor."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from benchmarks.conformance import Operation
from benchmarks.operations import IMAGE, VOLUME, Applied, constant, layer, plain, weight
from scm.jvp import recomputed

FIRST = torch.tensor([0])


class _Round(torch.autograd.Function):
    """Rounds, and lets gradients pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


class _Running(nn.Module):
    """A buffer that is written in each forward."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Any) -> Any:
        y = x - self.mean
        self.mean.mul_(0.9).add_(x.detach().mean(dim=(0, 1)), alpha=0.1)
        return y * x


def _written(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function that changes a tensor of its own in place."""

    def function(x: Any) -> Any:
        h = x * 1.5
        change(h)
        return h * x

    return function


def _on_zeros(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def function(x: Any) -> Any:
        y = make(x)
        y[:, :2] = x[:, :2]
        return y * 2

    return function


def _aliased(x: Any) -> Any:
    h = x * 2
    skip = h
    h += x.sin()
    return skip * h


def _base(x: Any) -> Any:
    h = x * 2
    v = h.reshape(2, -1)[:, 3:9]
    v += 1
    v *= x.flatten(1)[:, 3:9]
    return h.exp()


def _column(x: Any) -> Any:
    h = x * 2
    h[:, 1] += x[:, 0] * x[:, 2]
    h[:, ::2] *= 3
    return h * h


def _noise_in_place(x: Any) -> Any:
    h = x * 1
    h.mul_(torch.rand_like(h)).add_(torch.randn(6, dtype=x.dtype))
    return h * x


def _without_grad(x: Any) -> Any:
    with torch.no_grad():
        scale = x.abs().mean()
    return x / scale.detach()


def _autocast(function: Callable[[Any], Any]) -> Callable[[], Callable[[Any], Any]]:
    def cast(x: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return function(x)

    return lambda: cast


def _steps(h: Any, x: Any) -> Any:
    h -= x.sin()
    h *= x
    h /= x * x + 1
    h **= 2
    return h


def _added(target: Any, x: Any) -> Any:
    target += x
    return target


def _zeroed(x: Any) -> Any:
    x[:, 0] = 0
    return x * x


NORMS = {
    "LayerNorm": layer(lambda: nn.LayerNorm(6)),
    "RMSNorm": layer(lambda: nn.RMSNorm(6)),
    "GroupNorm": layer(lambda: nn.GroupNorm(2, 4), *IMAGE),
    "LocalResponseNorm": layer(lambda: nn.LocalResponseNorm(2), *IMAGE),
    "BatchNorm1d, training": layer(lambda: nn.BatchNorm1d(4)),
    "BatchNorm2d, training": layer(lambda: nn.BatchNorm2d(4), *IMAGE),
    "BatchNorm2d, eval": layer(lambda: nn.BatchNorm2d(4).eval(), *IMAGE),
    "torch.batch_norm, training": layer(
        lambda: Applied(
            nn.BatchNorm2d(4),
            lambda m, x: torch.batch_norm(x, m.weight, m.bias, m.running_mean, m.running_var, True, 0.1, 1e-5, False),
        ),
        *IMAGE,
    ),
    "InstanceNorm2d": layer(lambda: nn.InstanceNorm2d(4, affine=True), *IMAGE),
    "InstanceNorm2d with statistics": layer(lambda: nn.InstanceNorm2d(4, track_running_stats=True), *IMAGE),
    "weight_norm of a layer": layer(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 3))),
    "spectral_norm of a layer": layer(lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 3).double())),
    "a buffer of running means": layer(_Running),
}  # fmt: skip
LAYERS = {
    "Linear, Bilinear": layer(lambda: Applied(nn.Bilinear(6, 6, 3), lambda m, x: m(x, x.sin()))),
    "Conv1d": layer(lambda: nn.Conv1d(4, 3, 3, padding=1)),
    "Conv2d: stride, dilation, groups": layer(lambda: nn.Conv2d(4, 6, 3, 2, 2, 2, groups=2), *IMAGE),
    "Conv2d: padding same, reflect": layer(lambda: nn.Conv2d(4, 3, 3, padding="same", padding_mode="reflect"), *IMAGE),
    "Conv3d": layer(lambda: nn.Conv3d(4, 3, 3), *VOLUME),
    "ConvTranspose1d": layer(lambda: nn.ConvTranspose1d(4, 3, 4, 2)),
    "ConvTranspose2d": layer(lambda: nn.ConvTranspose2d(4, 3, 4, 2, 1), *IMAGE),
    "ConvTranspose3d": layer(lambda: nn.ConvTranspose3d(4, 3, 2, 2), *VOLUME),
    "x as a convolution's weights": plain(lambda x: F.conv2d(weight(1, 4, 8, 8), x), 3, 4, 3, 3),
    "AvgPool1d, 2d, 3d": plain(
        lambda x: F.avg_pool2d(x, 2).sum() + F.avg_pool3d(x[None], 2) + F.avg_pool1d(x[0], 2).sum(), *IMAGE
    ),
    "MaxPool1d, 2d, 3d": plain(
        lambda x: F.max_pool2d(x, 2).sum() + F.max_pool3d(x[None], 2) + F.max_pool1d(x[0], 2).sum(), *IMAGE
    ),
    "MaxPool2d with indices, MaxUnpool2d": plain(
        lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), [2, 2]), *IMAGE
    ),
    "AdaptiveAvgPool2d, AdaptiveMaxPool2d": plain(
        lambda x: F.adaptive_avg_pool2d(x, 2) * F.adaptive_max_pool2d(x, 2), *IMAGE
    ),
    "LPPool2d": plain(lambda x: F.lp_pool2d(x.abs() + 0.1, 2, 2), *IMAGE),
    "interpolate: nearest, bilinear, bicubic, area": plain(
        lambda x: sum(
            F.interpolate(x * i, 4, mode=m) for i, m in enumerate(("nearest", "bilinear", "bicubic", "area"))
        ),
        *IMAGE,
    ),
    "affine_grid": plain(lambda x: F.affine_grid(x, [2, 4, 5, 5], False).sin(), 2, 2, 3),
    "grid_sample": plain(
        lambda x: F.grid_sample(
            x, F.affine_grid(x[:, 0, :2, :3] * 0.1 + torch.eye(2, 3), [2, 4, 5, 5], False), align_corners=False
        ),
        *IMAGE,
    ),
    "RNN, LSTM": layer(lambda: Applied(nn.LSTM(6, 5, 2, batch_first=True), lambda m, x: m(x)[0])),
    "GRU, bidirectional": layer(lambda: Applied(nn.GRU(6, 5, bidirectional=True), lambda m, x: m(x)[0])),
    "PReLU, Threshold": layer(lambda: nn.Sequential(nn.PReLU(), nn.Threshold(0.1, 0.2))),
    "Upsample, ZeroPad2d, Flatten": layer(
        lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.ZeroPad2d(1), nn.Flatten()), *IMAGE
    ),
}
ATTENTION = {
    "scaled_dot_product_attention": plain(lambda x: F.scaled_dot_product_attention(x, x.sin(), x * 2), 2, 2, 5, 4),
    "… is_causal": plain(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), 2, 2, 5, 4),
    "… with masks": plain(
        lambda x: F.scaled_dot_product_attention(x, x, x, weight(5, 5) > -1)
        + F.scaled_dot_product_attention(x, x, x, x @ x.mT),
        2, 2, 5, 4,
    ),
    "… enable_gqa, scale": plain(
        lambda x: F.scaled_dot_product_attention(x, x[:, :1], x[:, :1], enable_gqa=True, scale=0.3), 2, 2, 5, 4
    ),
    "… with dropout": plain(lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.2), 2, 2, 5, 4),
    "MultiheadAttention": layer(lambda: Applied(nn.MultiheadAttention(6, 2), lambda m, x: m(x, x, x)[0])),
    "MultiheadAttention with dropout, training": layer(
        lambda: Applied(nn.MultiheadAttention(6, 2, dropout=0.3), lambda m, x: m(x, x, x)[0])
    ),
    "TransformerEncoderLayer, dropout 0": layer(lambda: nn.TransformerEncoderLayer(6, 2, 8, 0.0, batch_first=True)),
    "TransformerEncoderLayer, eval": layer(lambda: nn.TransformerEncoderLayer(6, 2, 8, norm_first=True).eval()),
    "TransformerEncoderLayer, training": layer(lambda: nn.TransformerEncoderLayer(6, 2, 8)),
    "TransformerDecoderLayer, dropout 0": layer(
        lambda: Applied(nn.TransformerDecoderLayer(6, 2, 8, 0.0), lambda m, x: m(x, x.sin()))
    ),
}  # fmt: skip
DRAWS = {
    "Dropout": layer(lambda: nn.Dropout(0.4)),
    "Dropout, eval": layer(lambda: nn.Dropout(0.4).eval()),
    "dropout(training=True)": plain(lambda x: F.dropout(x, 0.3, training=True)),
    "torch.dropout": plain(lambda x: torch.dropout(x, 0.3, True)),
    "Dropout1d": layer(lambda: nn.Dropout1d(0.4)),
    "Dropout2d": layer(lambda: nn.Dropout2d(0.4), *IMAGE),
    "Dropout3d": layer(lambda: nn.Dropout3d(0.4), *VOLUME),
    "AlphaDropout, FeatureAlphaDropout": layer(
        lambda: nn.Sequential(nn.AlphaDropout(0.4), nn.FeatureAlphaDropout(0.4)), *IMAGE
    ),
    "RReLU": layer(lambda: nn.RReLU()),
    "rand_like, randn_like, randint_like": plain(
        lambda x: x * torch.rand_like(x) + torch.randn_like(x) * x + torch.randint_like(x, 5)
    ),
    "rand, randn, randperm": plain(
        lambda x: x * torch.rand(6) + torch.randn(6, dtype=x.dtype) * x[:, torch.randperm(4)]
    ),
    "bernoulli, poisson": plain(
        lambda x: (
            x * torch.bernoulli(torch.full_like(x, 0.5)) * x.detach().sigmoid().bernoulli() + torch.poisson(x.exp())
        )
    ),
    "multinomial": plain(
        lambda x: x.gather(1, torch.multinomial(torch.ones(2, 4), 3)) + x.softmax(1).multinomial(3), 2, 4
    ),
    "normal_, uniform_, exponential_": plain(
        lambda x: x * torch.empty_like(x).normal_() + x.new_empty(6).uniform_() * x + (x * 1).exponential_()
    ),
    "gumbel_softmax": plain(lambda x: F.gumbel_softmax(x)),
    "normal(mean=x)": plain(lambda x: torch.normal(x, 0.5)),
    "fractional_max_pool2d": plain(lambda x: F.fractional_max_pool2d(x, 2, output_size=3), *IMAGE),
    "a generator of one's own": plain(
        lambda x: x * torch.empty_like(x).normal_(generator=torch.Generator().manual_seed(3)), 2, 4
    ),
    "noise in place": plain(_noise_in_place),
}
WRITES = {
    "ReLU, SiLU, ELU (inplace=True)": layer(
        lambda: nn.Sequential(
            nn.Linear(6, 6), nn.ReLU(True), nn.Linear(6, 6), nn.SiLU(True), nn.Linear(6, 6), nn.ELU(1, True)
        )
    ),
    "Dropout(inplace=True), Hardtanh(inplace=True)": layer(
        lambda: nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.3, True), nn.Linear(6, 6), nn.Hardtanh(inplace=True))
    ),
    "Dropout2d(inplace=True)": layer(lambda: nn.Sequential(nn.Conv2d(4, 6, 1), nn.Dropout2d(0.3, True)), *IMAGE),
    "h += x, with another name for h": plain(_aliased),
    "h -= x, h *= x, h /= x, h **= 2": plain(lambda x: _steps(x * 1, x)),
    "add_, mul_, addcmul_, lerp_": plain(
        lambda x: (x * 1).add_(x.sin(), alpha=0.3).mul_(x).addcmul_(x, x).lerp_(torch.ones_like(x), 0.2)
    ),
    "clamp_, relu_, exp_, sigmoid_": plain(
        lambda x: (x * 1).clamp_(-1, 1).exp_() * (x * 2).sigmoid_() + torch.relu_(x * 2)
    ),
    "h[:, 1] += …, h[:, ::2] *= 3": plain(_column),
    "h[:2] = 0, h[mask] = x, h[..., 0] = x": plain(
        _written(lambda h: (h.__setitem__(0, 0), h.__setitem__(h > 0, 2.0), h.__setitem__((..., 0), h[..., 1] * 2)))
    ),
    "a view changes its base": plain(_base),
    "masked_fill_, index_put_, index_fill_": plain(
        _written(
            lambda h: h.masked_fill_(h > 1, 0).index_put_((FIRST,), h[1] * 2).index_fill_(2, torch.tensor(1), 3)
        )
    ),
    "scatter_, scatter_add_, index_add_": plain(
        _written(
            lambda h: h.scatter_(1, torch.zeros(2, 1, 6, dtype=torch.long), h[:, 1:2] * 2).index_add_(
                1, torch.tensor([2]), h[:, :1] * 1
            )
        )
    ),
    "copy_, zero_, fill_": plain(_written(lambda h: (h[:, 0].zero_(), h[:, 1].fill_(2), h[:, 2].copy_(h[:, 3])))),
    "y[:, :2] = x[:, :2] on zeros_like(x)": plain(_on_zeros(torch.zeros_like)),
    "y[:, :2] = x[:, :2] on x.new_zeros(…)": plain(_on_zeros(lambda x: x.new_zeros(2, 4, 6))),
    "y[:, :2] = x[:, :2] on torch.zeros(…)": plain(_on_zeros(lambda x: torch.zeros(2, 4, 6, dtype=torch.float64))),
    "copy_ into torch.zeros(…)": plain(lambda x: torch.zeros(2, 4, 6, dtype=torch.float64).copy_(x)),
    "torch.zeros(…) += x": plain(lambda x: _added(torch.zeros(2, 4, 6, dtype=torch.float64), x)),
    "torch.ones(…).mul_(x)": plain(lambda x: torch.ones(2, 4, 6, dtype=torch.float64).mul_(x)),
    "out=": plain(lambda x: torch.mul(x, 2, out=torch.empty(2, 4, 6, dtype=torch.float64))),
    "x += 1 on the input": plain(lambda x: _added(x, 1)),
    "relu(x, inplace=True) on the input": plain(lambda x: F.relu(x, inplace=True)),
    "x[:, 0] = 0 on x.clone()": plain(lambda x: _zeroed(x.clone())),
    "unsqueeze_": plain(lambda x: (x * 1).unsqueeze_(0)),
    "detach_": plain(lambda x: (x * 1).detach_() * x),
}  # fmt: skip
LEAVING = {
    "item()": plain(lambda x: x * x.sum().item()),
    "int(x), a float as an index": plain(lambda x: x[int(x.sum())]),
    "numpy()": plain(lambda x: x * x.numpy()),
    "torch.tensor([x])": plain(lambda x: torch.tensor([x.sum()]) * x),
    "x.data": plain(lambda x: x.data * x),
    "float(x), math.sqrt(x)": plain(lambda x: x * float(x.sum())),
    "tolist()": plain(lambda x: x * x[0, 0].tolist()[0]),
    "to(complex)": plain(lambda x: x.to(torch.complex128).abs()),
    "view_as_complex": plain(lambda x: torch.view_as_complex(x.reshape(-1, 2)).abs()),
    "transpose_ of an intermediate": plain(lambda x: (x * 1).transpose_(1, 2) * 2),
    "data_ptr()": plain(lambda x: x * (x.data_ptr() > 0)),
    "as_strided": plain(lambda x: (x * 1).as_strided((2, 2), (1, 2))),
    "view(dtype)": plain(lambda x: x.view(torch.int64).view(torch.float64) * x),
    "fft (complex)": plain(lambda x: torch.fft.rfft(x).abs()),
    "torch.complex(x, x)": plain(lambda x: torch.complex(x, x).abs()),
    "to_sparse()": plain(lambda x: x.to_sparse().to_dense()),
    "autograd.grad inside the function": plain(lambda x: torch.autograd.grad((x * x).sum(), x)[0]),
    "an autograd.Function": plain(lambda x: _Round.apply(x) * 2),
    "an output of several tensors": plain(lambda x: (x, x)),
}
WRAPPERS = {
    "checkpoint(use_reentrant=False)": layer(
        lambda: Applied(nn.Sequential(nn.Linear(6, 6), nn.Tanh()), lambda m, x: checkpoint(m, x, use_reentrant=False))
    ),
    "checkpoint(use_reentrant=False) with dropout": layer(
        lambda: Applied(
            nn.Sequential(nn.Linear(6, 6), nn.Dropout2d()), lambda m, x: checkpoint(m, x, use_reentrant=False)
        )
    ),
    "checkpoint(use_reentrant=True)": plain(lambda x: checkpoint(torch.sin, x * 1, use_reentrant=True)),
    "scm.jvp.recomputed": layer(lambda: Applied(nn.Sequential(nn.Linear(6, 6), nn.Tanh()), recomputed)),
    "autocast(bfloat16): Linear, softmax": Operation(
        lambda: Applied(nn.Linear(6, 6), lambda m, x: _autocast(lambda x: F.softmax(m(x), -1) * m(x.tanh()))()(x)),
        dtype=torch.float32,
    ),
    "autocast(bfloat16): Conv2d, GroupNorm": Operation(
        lambda: Applied(
            nn.Sequential(nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), nn.SiLU()), lambda m, x: _autocast(m)()(x)
        ),
        IMAGE, torch.float32,
    ),
    "autocast(bfloat16): scaled_dot_product_attention": Operation(
        _autocast(lambda x: F.scaled_dot_product_attention(x, x, x)), (2, 2, 5, 4), torch.float32
    ),
    "torch.compile (backend eager)": Operation(lambda: torch.compile(lambda x: torch.sin(x) * x, backend="eager")),
    "torch.no_grad(), detach()": constant(lambda: _without_grad),
}  # fmt: skip
ROWS: dict[str, Operation] = {
    **NORMS, **LAYERS, **ATTENTION, **DRAWS, **WRITES, **LEAVING, **WRAPPERS,
}  # fmt: skip
