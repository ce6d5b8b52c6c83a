"""The extractors that `reference.extractor` names: read from somebody's files, and loaded from data/reference."""

import http.client
import shlex
import urllib.error
from pathlib import Path

import torch

from scm.base.files import sha256 as digest_of
from scm.errors import UserError
from scm.evaluation.extractors import classifier, dinov2, exported, inception
from scm.evaluation.extractors.base import Extractor, reason, verify

ADDRESSES = ("https://", "http://")


def read(
    name: str, weights: str, sha256: str | None, root: Path, resolution: int, device: torch.device | str = "cpu"
) -> Extractor:
    """An extractor that somebody else has trained, on `device`.

    Args:
        name: `reference.extractor`, other than classifier.
        weights: `reference.weights`: a path from `root`, or an address, whose file is downloaded once into torch's
            cache; for dinov2 a folder, or a name on the Hugging Face hub.
        sha256: `reference.sha256`.
        root: the project's folder.
        resolution: pixels on a side of the images that it will see.
        device: where to compute.

    Raises:
        UserError: the file is missing, has another hash, or holds something else.
    """
    if name == dinov2.Dinov2.name:
        place = dinov2.located(weights, _own(root, weights))
        digest = verify(place / dinov2.WEIGHTS, sha256, "reference.sha256")
        extractor: Extractor = dinov2.read(place)
    else:
        place = located("reference.weights", weights, sha256, root)
        digest = verify(place, sha256, "reference.sha256")
        if name == inception.InceptionV3.name:
            extractor = inception.read(place)
        else:
            extractor = exported.read(place, resolution, device)
    extractor.weights_sha256 = digest
    return extractor.to(device)


def load(name: str, folder: Path, resolution: int, device: torch.device | str) -> Extractor:
    """Reads what `Extractor.save` wrote into a folder whose files are known to be unchanged; on `device`."""
    if name == classifier.Classifier.name:
        extractor: Extractor = classifier.load_classifier(folder / classifier.FILE)
    elif name == inception.InceptionV3.name:
        extractor = inception.load(folder)
    elif name == dinov2.Dinov2.name:
        extractor = dinov2.load(folder)
    else:
        extractor = exported.read(folder / exported.FILE, resolution, device)
    return extractor.to(device)


def located(key: str, value: str, sha256: str | None, root: Path) -> Path:
    """The file that a key of params.yaml names: a path from `root`, or an address that is downloaded once.

    Downloads lie in torch's cache, which other programs fill as well.

    Args:
        key: e.g. reference.weights, whose hash stands beside it.
        value: of the key.
        sha256: of the file.

    Raises:
        UserError: it is not there, cannot be had, or comes with another hash.
    """
    if not value.startswith(ADDRESSES):
        path = _own(root, value)
        if not path.is_file():
            raise UserError(f"{key} = {value}: there is no such file; docs/evaluation.md says where to get it")
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
        raise UserError(
            f"{key} = {value} cannot be downloaded ({why}): where there is a network run {command}, and copy the file "
            "to the same place here"
        ) from None
    return path


def _own(root: Path, value: str) -> Path:
    """A path as the user writes it, from the project's folder; ~ is the user's own."""
    return root / (Path(value).expanduser() if value.startswith("~/") else value)
