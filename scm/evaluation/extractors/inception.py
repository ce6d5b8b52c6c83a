"""Inception-v3 as the Frechet Inception Distance defines it: the network of 2015-12-05, its 2,048 features of pool 3.

Its weights are those of the TensorFlow graph that the distance was defined with (Heusel et al. 2017, arXiv 1706.08500).
The files in use carry torchvision's names for them: pytorch-fid's pt_inception-2015-12-05-6726825d.pth and
torch-fidelity's weights-inception-2015-12-05-6726825d.pth. The network differs from torchvision's in three places:
average pools leave the padding out of the average, the last block takes a maximum where the others take an average, and
the classes are 1,008. Tested against torch-fidelity's own network, tests/golden/make_inception.py.
"""

import pickle
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from scm.base.weights import write
from scm.errors import UserError
from scm.evaluation.extractor import Extractor, colour, in_parts
from scm.evaluation.weight_files import GivenWeights, reason

FILE = "extractor.safetensors"
EDM2_STATISTICS = "fid"
REMEDY = "see docs/evaluation.md for the file to use"
SIDE = 299
"""Pixels on a side of what the network sees."""
CLASSES = 1008
BATCH = 32
"""Images in one forward pass: about 1 GB of activations; changes the rounding alone."""

Kernel = int | tuple[int, int]
Layer = tuple[str, int, Kernel]
"""Name in the state dict, output channels, kernel [height, width]."""
Pool = Literal["average", "maximum", "halve"]


class Convolution(nn.Module):
    """Convolution, batch normalisation with stored statistics, ReLU."""

    def __init__(self, channels: int, following: int, kernel: Kernel, stride: int = 1, padded: bool = True) -> None:
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if padded else 0
        self.conv = nn.Conv2d(channels, following, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(following, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


class InceptionBlock(nn.Module):
    """Chains of convolutions beside each other and a pool; their outputs are put together along the channels."""

    def __init__(self, channels: int, chains: list[list[Layer]], pool: Pool, pooled: int, fork: bool = False) -> None:
        """Builds the layers under their names.

        Args:
            channels: Of the input.
            chains: Each applied to the input, one layer after the other.
            pool: average or maximum over 3 x 3 pixels, followed by a convolution; or halve, which only takes maxima at
                half the resolution. With halve the last layer of each chain halves too.
            pooled: Channels of the convolution that follows the pool; 0 for halve.
            fork: The last two layers of a chain of several both take what the one before them gives.
        """
        super().__init__()
        self._pool, self._fork = pool, fork
        self._chains = [[name for name, _, _ in chain] for chain in chains]
        for chain in chains:
            current = channels
            for index, (name, following, kernel) in enumerate(chain):
                halves = pool == "halve" and index == len(chain) - 1
                forked = fork and len(chain) > 1 and index == len(chain) - 2
                layer = Convolution(current, following, kernel, stride=2 if halves else 1, padded=not halves)
                self.add_module(name, layer)
                current = current if forked else following
        self.branch_pool = Convolution(channels, pooled, 1) if pooled else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for names in self._chains:
            layers = [self.get_submodule(name) for name in names]
            ends = 2 if self._fork and len(layers) > 1 else 1
            value = x
            for layer in layers[:-ends]:
                value = layer(value)
            outputs += [layer(value) for layer in layers[-ends:]]
        if self._pool == "average":
            pooled = functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        elif self._pool == "maximum":
            pooled = functional.max_pool2d(x, 3, stride=1, padding=1)
        else:
            pooled = functional.max_pool2d(x, 3, stride=2)
        return torch.cat([*outputs, self.branch_pool(pooled)], dim=1)


def _at_35(channels: int, pooled: int) -> InceptionBlock:
    """The block of 35 x 35 pixels (A)."""
    chains: list[list[Layer]] = [
        [("branch1x1", 64, 1)],
        [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)],
        [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
    ]
    return InceptionBlock(channels, chains, "average", pooled)


def _to_17(channels: int) -> InceptionBlock:
    """From 35 to 17 pixels (B)."""
    chains: list[list[Layer]] = [
        [("branch3x3", 384, 3)],
        [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
    ]
    return InceptionBlock(channels, chains, "halve", 0)


def _at_17(channels: int, inner: int) -> InceptionBlock:
    """The block of 17 x 17 pixels (C), whose 7 x 7 kernels are products of a row and a column."""
    row, column = (1, 7), (7, 1)
    double = [("branch7x7dbl_1", inner, 1), ("branch7x7dbl_2", inner, column), ("branch7x7dbl_3", inner, row)]
    chains: list[list[Layer]] = [
        [("branch1x1", 192, 1)],
        [("branch7x7_1", inner, 1), ("branch7x7_2", inner, row), ("branch7x7_3", 192, column)],
        [*double, ("branch7x7dbl_4", inner, column), ("branch7x7dbl_5", 192, row)],
    ]
    return InceptionBlock(channels, chains, "average", 192)


def _to_8(channels: int) -> InceptionBlock:
    """From 17 to 8 pixels (D)."""
    both = [("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1))]
    chains: list[list[Layer]] = [[("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3)], [*both, ("branch7x7x3_4", 192, 3)]]
    return InceptionBlock(channels, chains, "halve", 0)


def _at_8(channels: int, pool: Pool) -> InceptionBlock:
    """The block of 8 x 8 pixels (E), whose chains end in a row and a column beside each other."""
    row, column = (1, 3), (3, 1)
    double = [("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3)]
    chains: list[list[Layer]] = [
        [("branch1x1", 320, 1)],
        [("branch3x3_1", 384, 1), ("branch3x3_2a", 384, row), ("branch3x3_2b", 384, column)],
        [*double, ("branch3x3dbl_3a", 384, row), ("branch3x3dbl_3b", 384, column)],
    ]
    return InceptionBlock(channels, chains, pool, 192, fork=True)


class InceptionV3(Extractor):
    """The network up to pool 3, in float32."""

    name = "inception"
    preprocessing = "299 x 299 by TensorFlow 1's bilinear resize, without antialias; (x - 128) / 128"
    num_features = 2048

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, stride=2, padded=False)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3, padded=False)
        self.Mixed_5b = _at_35(192, 32)
        self.Mixed_5c = _at_35(256, 64)
        self.Mixed_5d = _at_35(288, 64)
        self.Mixed_6a = _to_17(288)
        self.Mixed_6b = _at_17(768, 128)
        self.Mixed_6c = _at_17(768, 160)
        self.Mixed_6d = _at_17(768, 160)
        self.Mixed_6e = _at_17(768, 192)
        self.Mixed_7a = _to_8(768)
        self.Mixed_7b = _at_8(1280, "average")
        self.Mixed_7c = _at_8(2048, "maximum")
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return in_parts(self._features, images, BATCH)

    def _features(self, images: Tensor) -> Tensor:
        x = (resized(colour(images).to(self.Conv2d_1a_3x3.conv.weight.dtype), SIDE) - 128) / 128
        for name, layer in self.named_children():
            if name in ("Conv2d_3b_1x1", "Mixed_5b"):
                x = functional.max_pool2d(x, 3, stride=2)
            x = layer(x)
        return x.mean(dim=(2, 3))

    def save(self, folder: Path) -> list[str]:
        weights = {name: weight.detach().cpu().contiguous() for name, weight in self.state_dict().items()}
        write(folder / FILE, weights)
        return [FILE]


def resized(images: Tensor, side: int) -> Tensor:
    """Float images [B, C, H, W] at side x side pixels by TensorFlow 1's ResizeBilinear, corners not aligned.

    Pixel i of the result lies at i * H / side of the image, where later programs have (i + 1/2) * H / side - 1/2, so
    that it is moved towards the upper left by up to half a pixel of the larger of the two. No antialias.
    """
    for dimension in (2, 3):
        size = images.shape[dimension]
        scale = torch.tensor(size / side, dtype=torch.float32, device=images.device)  # rounded as TensorFlow's is
        place = torch.arange(side, dtype=images.dtype, device=images.device) * scale
        before = place.floor().long().clamp(max=size - 1)
        after = (before + 1).clamp(max=size - 1)
        share = place - before
        share = share[:, None] if dimension == 2 else share
        first, second = images.index_select(dimension, before), images.index_select(dimension, after)
        images = first + (second - first) * share
    return images


def read_inception(path: Path) -> InceptionV3:
    """The network with the weights of a .pth file (read without executing anything) or a .safetensors file.

    Raises:
        UserError: The file is missing, is no such file, or holds another network's weights.
    """
    state = _state(path)
    rows = state["fc.weight"].shape[0] if "fc.weight" in state else 0
    if rows != CLASSES or any(name.startswith("AuxLogits") for name in state):
        what = f"its last layer has {rows} classes, not {CLASSES}" if rows else "it has no layer fc"
        problem = f"is not the network of the Frechet Inception Distance ({what}; torchvision's gives other figures)"
        raise UserError(f"{path} {problem}: use pytorch-fid's or torch-fidelity's file, see docs/evaluation.md")
    return _with(state, path)


def read_extractor(given: GivenWeights) -> tuple[InceptionV3, str]:
    path, digest = given.verified()
    return read_inception(path), digest


def load_extractor(folder: Path, resolution: int, device: torch.device | str) -> InceptionV3:
    """Reads what `InceptionV3.save` wrote; it takes images of any resolution."""
    return _with(_state(folder / FILE), folder / FILE)


def _state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path} holds no weights (no pickle, or one that would run code): {REMEDY}") from None
    except Exception as error:  # torch's parser stumbles in many ways over what is no such file
        raise UserError(f"{path} holds no weights ({reason(error)}): {REMEDY}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} is no dictionary of weights: {REMEDY}")
    return state


def _with(state: dict[str, Tensor], path: Path) -> InceptionV3:
    """The network with these weights; the counts of training steps that some files carry are ignored."""
    model = InceptionV3()
    for name, current in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        given = state.get(name)
        if given is None or given.shape != current.shape:
            problem = "lacks" if given is None else f"has another shape ({list(given.shape)}) of"
            raise UserError(f"{path} {problem} {name}: {REMEDY}")
        current.copy_(given)
    return model
