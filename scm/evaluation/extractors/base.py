"""What all figures of images compare: features, from a network that learns no more."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from scm.base.files import sha256
from scm.errors import UserError

LARGEST_BATCH = 256
"""Images that an extractor is given at a time; bounds the memory and changes no figure beyond rounding."""


class Extractor(nn.Module, ABC):
    """Maps uint8 images [B, C, H, W] to features [B, F], in a precision of its own.

    Attributes:
        name: value of `reference.extractor`.
        preprocessing: what happens to an image before the network sees it, in words; part of `Reference.protocol`.
        num_features: length F of a feature vector; torchmetrics reads this name.
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


def colour(images: Tensor) -> Tensor:
    """Images [B, 1 or 3, H, W] with three channels; grey is repeated."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def in_parts(function: Callable[[Tensor], Tensor], images: Tensor, batch: int) -> Tensor:
    """function(images) computed for `batch` images at a time, which bounds the memory."""
    return torch.cat([function(some) for some in images.split(batch)])


def require_finite(features: Tensor, name: str) -> Tensor:
    """The features, unless one is no finite number.

    Args:
        name: of the extractor.
    """
    bad = int((~features.isfinite().all(dim=1)).sum())
    if bad:
        problem = f"the features of {bad} of {len(features)} images are not finite"
        raise UserError(f"reference.extractor = {name}: {problem}: use other weights, or another extractor")
    return features


def verify(path: Path, expected: str | None, key: str) -> str:
    """Compares a file with what params.yaml says of it, before anything in it is read; returns its SHA-256.

    Args:
        expected: the value of `key`.
        key: where it stands, e.g. reference.sha256.

    Raises:
        UserError: it is another file, or params.yaml says nothing, as figures may not follow from an unknown file.
    """
    found = sha256(path)
    if expected is None:
        remedy = f"if that is the file you mean and you trust where it came from, write {key}: {found}"
        raise UserError(f"{path} has the SHA-256 {found}, and params.yaml names none: {remedy}")
    if found != expected:
        raise UserError(f"{path} has the SHA-256 {found}, not {key} = {expected}: correct one of the two")
    return found


def reason(error: BaseException) -> str:
    """The first line of an error's text, or its kind."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
