"""Files that params.yaml names: found, downloaded once, and checked against their SHA-256 before they are opened."""

import http.client
import shlex
import urllib.error
from dataclasses import dataclass
from pathlib import Path

import torch

from scm.base.files import sha256 as digest_of
from scm.errors import UserError

ADDRESSES = ("https://", "http://")


@dataclass(frozen=True)
class GivenWeights:
    """Somebody else's extractor, as the section `reference` of params.yaml names it.

    Attributes:
        weights: `reference.weights`: a path from `root`, or an address, whose file is downloaded once into torch's
            cache; for dinov2 a folder, or a name on the Hugging Face hub.
        sha256: `reference.sha256`.
        root: the project's folder.
        resolution: pixels on a side of the images that the extractor will see.
        device: where it will compute.
    """

    weights: str
    sha256: str | None
    root: Path
    resolution: int
    device: torch.device | str = "cpu"

    @property
    def path(self) -> Path:
        """`weights` as a path from the project's folder."""
        return own_path(self.root, self.weights)

    def verified(self) -> tuple[Path, str]:
        """The file, downloaded if need be, and its SHA-256, which is the one of params.yaml.

        Raises:
            UserError: the file is missing or has another hash.
        """
        path = located("reference.weights", self.weights, self.sha256, self.root)
        return path, verify(path, self.sha256, "reference.sha256")


WHERE = "docs/evaluation.md says where to get it"


def located(key: str, value: str, sha256: str | None, root: Path, where: str = WHERE) -> Path:
    """Finds the file that a key of params.yaml names: a path from `root`, or an address that is downloaded once.

    Downloads are kept in torch's cache, which other programs use as well, and must have the SHA-256 of params.yaml.

    Args:
        where: remedy if there is no such file.

    Raises:
        UserError: the file does not exist, cannot be downloaded, or has another hash.
    """
    if not value.startswith(ADDRESSES):
        path = own_path(root, value)
        if not path.is_file():
            raise UserError(f"{key} = {value}: there is no such file; {where}")
        return path
    path = Path(torch.hub.get_dir()) / "checkpoints" / value.rsplit("/", 1)[1]
    if path.is_file() and sha256 not in (None, digest_of(path)):  # of another address
        path = path.with_name(f"{str(sha256)[:12]}-{path.name}")
    if path.is_file():
        return path
    if sha256 is None:
        remedy = "write the one that its publisher gives, or download it yourself and give its path"
        raise UserError(f"{key} = {value} needs a SHA-256 beside it, as what is sent has to be checked: {remedy}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(value, str(path), hash_prefix=sha256, progress=False)
    except (http.client.HTTPException, OSError, RuntimeError, ValueError) as error:
        why = str(error.reason) if isinstance(error, urllib.error.URLError) and error.reason else reason(error)
        command = f"curl -fL --create-dirs -o {shlex.quote(str(path))} {shlex.quote(value)}"
        remedy = f"where there is a network run {command}, and copy the file to the same place here"
        raise UserError(f"{key} = {value} cannot be downloaded ({why}): {remedy}") from None
    return path


def own_path(root: Path, value: str) -> Path:
    """The path that the user has written, relative to the project's folder; ~/ is the user's home."""
    return root / (Path(value).expanduser() if value.startswith("~/") else value)


def verify(path: Path, expected: str | None, key: str) -> str:
    """Compares a file with the hash `expected` under `key` of params.yaml before it is opened; returns its SHA-256.

    Raises:
        UserError: the hashes differ, or params.yaml has none: figures may not follow from an unknown file.
    """
    found = digest_of(path)
    if expected is None:
        remedy = f"if that is the file you mean and you trust where it came from, write {key}: {found}"
        raise UserError(f"{path} has the SHA-256 {found}, and params.yaml names none: {remedy}")
    if found != expected:
        raise UserError(f"{path} has the SHA-256 {found}, not {key} = {expected}: correct one of the two")
    return found


def reason(error: BaseException) -> str:
    """The first line of an error's text, or its type if it has no text."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
