"""Other people's networks, unmodified: the output is theirs, the tangent torch.func.jvp's, in float64."""

from collections.abc import Generator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from scm.jvp import output_and_tangent


class BasicBlock(nn.Module):
    """A residual block as torchvision writes it: activations and the sum in place."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False), nn.BatchNorm2d(outs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False), nn.BatchNorm2d(outs)
        self.down = None
        if stride != 1 or ins != outs:
            self.down = nn.Sequential(nn.Conv2d(ins, outs, 1, stride, bias=False), nn.BatchNorm2d(outs))

    def forward(self, x):
        identity = x if self.down is None else self.down(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


def resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 7, 2, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
        BasicBlock(6, 6, 1), BasicBlock(6, 8, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


def normed(ins: int, outs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(ins, outs, 1), nn.GroupNorm(max(1, outs // 8), outs), nn.SiLU())


class Shuffled(nn.Module):
    """Two branches of channels, one with a depthwise convolution, which are shuffled afterwards (ShuffleNet v2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.left = nn.Sequential(
            nn.Conv2d(half, half, 3, 1, 1, groups=half), nn.GroupNorm(1, half), normed(half, half)
        )
        self.right = normed(half, half)

    def forward(self, x):
        left, right = x.chunk(2, dim=1)
        x = torch.cat([self.left(left), self.right(right)], dim=1)
        batch, channels, height, width = x.shape
        return (
            x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(batch, -1, height, width)
        )


class ShuffledUNet(nn.Module):
    """A U-Net of sCM-mnist's kind: shuffled blocks, a scale from normalised embeddings of t, bilinear upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.exp(-torch.arange(4.0)))
        self.first, self.encoder, self.middle = nn.Conv2d(1, 8, 3, 1, 1), Shuffled(8), Shuffled(8)
        self.down, self.decoder, self.last = nn.Conv2d(8, 8, 3, 2, 1), Shuffled(16), nn.Conv2d(16, 1, 1)
        self.scale = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 8))

    def forward(self, x, t):
        angles = t.to(torch.float64).outer(self.frequencies.to(torch.float64))
        scale = self.scale(torch.cat([angles.sin(), angles.cos()], dim=1).to(x.dtype)) + 1
        scale = scale / torch.sqrt(torch.mean(scale**2, dim=1, keepdim=True) + 1e-8)
        skip = self.encoder(self.first(x))
        h = self.middle(self.down(functional.silu(skip * scale.unsqueeze(2).unsqueeze(3))))
        h = functional.interpolate(h, size=skip.shape[2:], mode="bilinear", align_corners=False)
        return self.last(self.decoder(torch.cat([h, skip], dim=1)))


@contextmanager
def contiguous_norms(network: nn.Module) -> Generator[None]:
    """torch.func.jvp fails at a group_norm of another layout, as torch 2.13 has it."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.GroupNorm)]
    hooks = [layer.register_forward_pre_hook(lambda layer, args: (args[0].contiguous(),)) for layer in layers]
    yield
    for hook in hooks:
        hook.remove()


def agrees(network: nn.Module, function, *shapes: tuple[int, ...]) -> None:
    draws = torch.Generator().manual_seed(1)
    primals = tuple(torch.rand(shape, generator=draws, dtype=torch.float64) for shape in shapes)
    tangents = tuple(torch.randn(shape, generator=draws, dtype=torch.float64) for shape in shapes)
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad(), contiguous_norms(network):
        expected = torch.func.jvp(lambda *values: function(network, *values), primals, tangents)[1]
    assert expected.abs().max() > 1e-3
    parameters = list(network.parameters())

    def gradients(output: torch.Tensor) -> list[torch.Tensor | None]:
        return list(torch.autograd.grad(output.square().sum(), parameters, allow_unused=True))

    plain = function(network, *primals)
    output, tangent = output_and_tangent(lambda *values: function(network, *values), primals, tangents)
    assert torch.equal(output, plain) and not tangent.requires_grad
    assert torch.allclose(tangent, expected, rtol=1e-9, atol=1e-11)
    for ours, theirs in zip(gradients(output), gradients(plain), strict=True):
        assert (ours is None and theirs is None) or torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11)


def test_a_resnet_as_torchvision_writes_it():
    torch.manual_seed(0)
    network = resnet().double().eval()
    agrees(network, lambda network, x: network(x), (3, 3, 16, 16))


def test_a_u_net_as_scm_mnist_writes_it():
    torch.manual_seed(0)
    agrees(ShuffledUNet().double(), lambda network, x, t: network(x, t), (2, 1, 8, 8), (2,))


def test_diffusers_u_net():
    """Along the image and the time, of which it asks torch.is_tensor."""
    diffusers = pytest.importorskip("diffusers", reason="needs the extra latents: pip install '.[latents]'")
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    ).double()  # fmt: skip
    agrees(network, lambda network, x, t: network(x, t).sample, (2, 1, 8, 8), (2,))


def test_diffusers_transformer():
    diffusers = pytest.importorskip("diffusers", reason="needs the extra latents: pip install '.[latents]'")
    torch.manual_seed(0)
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=2, out_channels=2, num_layers=2, sample_size=4,
        patch_size=2, num_embeds_ada_norm=10, norm_num_groups=2,
    ).double().eval()  # fmt: skip
    labels = torch.tensor([1, 3])
    agrees(network, lambda network, x, t: network(x, timestep=t, class_labels=labels).sample, (2, 2, 4, 4), (2,))
