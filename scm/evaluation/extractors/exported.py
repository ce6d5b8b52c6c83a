"""The user's own network as an extractor: a .pt2 file of torch.export that maps uint8 [B, 3, R, R] to [B, F].

Such a file is a program, and torch reads parts of it with Python's pickle: whoever wrote it can run anything here.
So its SHA-256 has to stand in params.yaml, and is compared before the file is opened.
"""

import shutil
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from scm.errors import UserError
from scm.evaluation.extractor import Extractor, colour, in_parts
from scm.evaluation.weight_files import GivenWeights, reason

FILE = "extractor.pt2"
EDM2_STATISTICS = None
BATCH = 32
"""Images in one forward pass; changes the rounding alone."""
ROUNDING = 1e-2
"""How much features may differ with the batch, relative to their size; half precision stays below it."""
HINT = 'export it with dynamic_shapes=({0: torch.export.Dim("batch")},)'


class Exported(Extractor):
    """The program of a file, in its own precision."""

    name = "exported"
    preprocessing = "the exported program's own"

    def __init__(self, path: Path, program: nn.Module, num_features: int) -> None:
        super().__init__()
        self._path, self.program, self.num_features = path, program, num_features
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return in_parts(self.program, colour(images).contiguous(), BATCH)

    def save(self, folder: Path) -> list[str]:
        shutil.copyfile(self._path, folder / FILE)
        return [FILE]


def read_exported(path: Path, resolution: int, device: torch.device | str) -> Exported:
    """The program of a file on `device`, tried out on random images of three channels.

    Raises:
        UserError: It is no such file, or maps these images to something else than features.
    """
    try:
        program = move_to_device_pass(torch.export.load(path), torch.device(device)).module()
    except Exception as error:  # a damaged file makes torch and its unpickler raise whatever they like
        problem = f"is no file of torch.export ({reason(error)})"
        raise UserError(f"{path} {problem}: write it with torch.export.save") from None
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (BATCH, 3, resolution, resolution), generator=generator, dtype=torch.uint8).to(device)
    whole, again, alone = (_tried(path, program, some) for some in (images, images, images[:1]))
    if not whole.shape[1]:
        raise UserError(f"{path} gives no features at all: export another network")
    if not whole.isfinite().all():
        raise UserError(f"{path} gives features of random images that are not finite: export another network")
    scale = whole.double().square().mean().sqrt()
    if not torch.equal(whole, again) or (whole[:1] - alone).abs().max() > ROUNDING * scale:
        problem = "gives other features of the same image each time, or beside other images"
        raise UserError(f"{path} {problem}: export the network after network.eval()")
    return Exported(path, program, whole.shape[1])


def read_extractor(given: GivenWeights) -> tuple[Exported, str]:
    path, digest = given.verified()
    return read_exported(path, given.resolution, given.device), digest


def load_extractor(folder: Path, resolution: int, device: torch.device | str) -> Exported:
    """Reads what `Exported.save` wrote."""
    return read_exported(folder / FILE, resolution, device)


def _tried(path: Path, program: nn.Module, images: Tensor) -> Tensor:
    """The program's features of images; refuses what no extractor may return."""
    try:
        with torch.no_grad():
            features = program(images)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not take uint8 {list(images.shape)} ({reason(error)}): {HINT}") from None
    if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != len(images):
        found = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise UserError(f"{path} maps uint8 {list(images.shape)} to {found}, not to [{len(images)}, F]: {HINT}")
    if not features.is_floating_point():
        raise UserError(f"{path} gives {features.dtype}, not floating-point features: export another network")
    return features
