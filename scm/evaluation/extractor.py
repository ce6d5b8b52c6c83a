"""The features that all figures of images compare, from a network that no longer learns."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from scm.base.registry import part
from scm.errors import UserError
from scm.evaluation.weight_files import GivenWeights

EXTRACTORS = "scm.evaluation.extractors"
"""The package whose files are the extractors, each named by its value of `reference.extractor`."""

LARGEST_BATCH = 256
"""Most images in one call of an extractor; bounds the memory and changes no figure beyond rounding."""


class Extractor(nn.Module, ABC):
    """Maps uint8 images [B, C, H, W] to features [B, F], in a precision of its own.

    Attributes:
        name: value of `reference.extractor`.
        preprocessing: describes how an image is prepared for the network; part of `Reference.protocol`.
        num_features: length F of a feature vector.
        weights_sha256: of the file that somebody else's weights came from; None where the pipeline trained them.
    """

    name: ClassVar[str]
    preprocessing: ClassVar[str]
    num_features: int
    weights_sha256: str | None = None

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor: ...

    @abstractmethod
    def save(self, folder: Path) -> list[str]:
        """Writes into `folder` all that loading needs, and returns the files' names relative to it."""

    def classes_of(self, features: Tensor) -> Tensor | None:
        """The classes [N] of images with these features [N, F]; None = this extractor does not classify."""
        return None


def colour(images: Tensor) -> Tensor:
    """Images [B, 1 or 3, H, W] with three channels; grey is repeated."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def in_parts(function: Callable[[Tensor], Tensor], images: Tensor, batch: int) -> Tensor:
    """Computes function(images) for `batch` images at a time, which bounds the memory."""
    return torch.cat([function(some) for some in images.split(batch)])


def require_finite(features: Tensor, name: str) -> Tensor:
    """Returns the features of the extractor `name`, all of which must be finite."""
    bad = int((~features.isfinite().all(dim=1)).sum())
    if bad:
        problem = f"the features of {bad} of {len(features)} images are not finite"
        raise UserError(f"reference.extractor = {name}: {problem}: use other weights, or another extractor")
    return features


def read_extractor(name: str, given: GivenWeights) -> Extractor:
    """The extractor `name` with weights that somebody else has trained, on its device, with `weights_sha256`.

    Raises:
        UserError: the file is missing, has another hash, or holds something else.
    """
    extractor: Extractor
    extractor, extractor.weights_sha256 = part(EXTRACTORS, name).read_extractor(given)
    return extractor.to(given.device)


def load_extractor(name: str, folder: Path, resolution: int, device: torch.device | str) -> Extractor:
    """Reads what `Extractor.save` wrote into a folder whose files are known to be unchanged; on `device`."""
    extractor: Extractor = part(EXTRACTORS, name).load_extractor(folder, resolution, device)
    return extractor.to(device)
