"""The reference that generated images are measured against: an extractor, and statistics of the real images by it.

Built once by the stage `reference` and stored as files, then read by selection, evaluation and report:

    extractor.*, dinov2/     the extractor's weights, so that the folder needs nothing else
    statistics.safetensors   the real images' feature sums (float64) and labels, and features of some of them (float32)
    held_out.safetensors     the same of held-out images, and pictures of the training images; only if there are any
    header.json              the extractor, shape of an image, classes, and the hashes of the other files

"Real images" are those that the models are trained on; held-out images are always called so.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor

from scm.base import weights
from scm.base.documents import read_json
from scm.base.files import replacing_folder, sha256, write_json
from scm.base.forms import FileName, Natural, Sha256, Whole, require, shown
from scm.base.randomness import generator
from scm.base.weights import load_any
from scm.errors import UserError
from scm.evaluation.extractor import LARGEST_BATCH, Extractor, load_extractor, require_finite
from scm.evaluation.extrapolation import extrapolated
from scm.evaluation.frechet import distance_between
from scm.evaluation.held_out import HeldOut, held_out_of
from scm.evaluation.kernel import kernel_distance
from scm.evaluation.measuring import RealImages
from scm.evaluation.precision_recall import MOST_IMAGES, precision_recall, spread
from scm.evaluation.statistics import Statistics, statistics_of

FORMAT = 4
STATISTICS, HELD_OUT, HEADER = "statistics.safetensors", "held_out.safetensors", "header.json"
KEPT = ("task", "held_out_accuracy", "identity", "statistics_sha256")
"""Attributes of a reference that its header holds as they are."""


TENSORS = {"sum", "outer_sum", "count", "labels", "features"}
"""Names in statistics.safetensors."""
HELD_OUT_TENSORS = {"sum", "outer_sum", "count", "features", "pictures", "distances"}
"""Names in held_out.safetensors."""
DRAWS = 8
"""Sets of draws from the training images over which a floor is averaged."""


class Header(TypedDict):
    """header.json, as far as it is read back."""

    extractor: str
    weights_sha256: Sha256 | None
    shape: tuple[Whole, Whole, Whole]
    classes: list[str]
    files: dict[FileName, Sha256]
    task: str | None
    held_out_accuracy: float | None
    held_out: Natural
    identity: str
    statistics_sha256: Sha256 | None


@dataclass(frozen=True)
class Reference:
    """The extractor and the real images' statistics, against which generated images are measured.

    Attributes:
        classes: names of the classes; empty for unlabelled data.
        shape: [C, H, W] of an image.
        task: what the pipeline's classifier learnt, "class" or "rotation"; None for other extractors.
        held_out_accuracy: the classifier's accuracy on images that it was not trained on, from 0 to 1; None as above.
        labels: int64 [N], the real images' labels in order; sampling with these gives the real class distribution.
        features: float32 [M, F], features of M real images chosen at random, for all figures but FD: 10,000 at most, or
            50,000 if images are held out. They are rounded because their last bits depend on the batch, so equal images
            would differ.
        statistics: what the distance is measured against: the real images', or published ones.
        statistics_sha256: hash of the file of published statistics; None = the real images' statistics.
        identity: hash of the real images' pixels and labels, of the seed that chose the features, and of the held-out
            images.
        held_out: the held-out images; None if there are none.
    """

    classes: tuple[str, ...]
    shape: tuple[int, ...]
    task: str | None
    held_out_accuracy: float | None
    labels: Tensor
    features: Tensor
    statistics: Statistics
    extractor: Extractor
    identity: str
    statistics_sha256: str | None = None
    held_out: HeldOut | None = None

    @torch.no_grad()
    def features_of(self, images: Tensor) -> Tensor:
        """Features of images uint8 [N, C, H, W], as float64 [N, F] on the extractor's device.

        Raises:
            ValueError: the images are not uint8 of the reference's channels and resolution.
        """
        if images.dtype != torch.uint8 or images.shape[1:] != self.shape:
            raise ValueError(f"the reference measures uint8 [N, {self.shape}], not {images.dtype} {list(images.shape)}")
        device = next(self.extractor.buffers(), next(self.extractor.parameters(), images)).device
        parts = [self.extractor(some.to(device)).double() for some in images.split(LARGEST_BATCH)]
        return require_finite(torch.cat(parts), self.extractor.name)

    def distance_of(self, features: Tensor) -> float:
        """Frechet distance between generated images with these features [N, F] and the real ones."""
        return distance_between(self.statistics, statistics_of(features))

    @torch.no_grad()
    def further(self, features: Tensor, labels: Tensor, neighbours: int) -> dict[str, float]:
        """All figures of generated images but the Frechet distance.

        Precision and recall depend on the number of images, so both sides have equally many: generated images at equal
        steps, and the first of the real `features`, whose order is random. The kernel distance does so to save time.

        Args:
            features: [N, F], of the generated images, as `features_of` returns them.
            labels: int64 [N], the classes that were asked for.
            neighbours: k of `precision_recall`.

        Returns:
            "kid", "precision", "recall", and, if the extractor has learnt classes, "accuracy": the fraction of images
            that it assigns to the requested class.

        Raises:
            UserError: fewer than two images, or not more than k.
        """
        figures: dict[str, float] = {}
        count = min(len(self.features), len(features), MOST_IMAGES)
        some, real = spread(features, count).float(), self.features[:count].to(features.device)
        figures["kid"] = kernel_distance(real, some)
        figures["precision"], figures["recall"] = precision_recall(real, some, neighbours)
        if self.task == "class" and (classes := self.extractor.classes_of(features)) is not None:
            right = classes == labels.to(features.device)
            figures["accuracy"] = int(right.sum()) / len(right)
        return figures

    @torch.no_grad()
    def without_bias(self, features: Tensor, distance: float) -> dict[str, float]:
        """The Frechet distance `distance` of samples [N, F] extrapolated to infinitely many samples, as "fd_inf".

        Empty if there are too few samples.
        """
        found = extrapolated(features, self.distance_of, distance)
        return {} if found is None else {"fd_inf": found}

    @torch.no_grad()
    def floors(self, count: int, neighbours: int, device: torch.device | str = "cpu") -> dict[str, float]:
        """The figures of `count` draws with replacement from the training images: what a figure falls to at best.

        The draws come from the images whose features are kept, and are compared with these, or with held-out images.

        Returns:
            "fd_floor"; with held-out images also "fd_held_out_floor", "precision_held_out_floor",
            "recall_held_out_floor", and "copies_expected", the share of held-out images that count as copies.
        """
        training = self.features.to(device).double()
        of_all, found = statistics_of(training), list[dict[str, float]]()
        for draw in range(DRAWS):
            chosen = torch.randint(len(training), (count,), generator=generator(0, "floor", draw))
            drawn = training[chosen.to(device)]
            found.append({"fd": distance_between(of_all, statistics_of(drawn))})
            found[-1] |= self.held_out.figures(drawn, neighbours) if self.held_out else {}
        floors = {f"{name}_floor": sum(each[name] for each in found) / DRAWS for name in found[0]}
        return floors | ({"copies_expected": self.held_out.expected} if self.held_out else {})

    @property
    def protocol(self) -> str:
        """SHA-256 of all that defines the figures; figures with equal hashes are comparable.

        For a given network, it follows from the images' pixels and the weights' file, since computed features differ
        in their last bits from machine to machine. The pipeline's own classifier has no file that others have, so its
        weights and the real images' statistics enter the hash.
        """
        extractor = [self.extractor.name, self.extractor.preprocessing, self.extractor.weights_sha256]
        known = [*extractor, self.identity, self.statistics_sha256]
        digest = hashlib.sha256(f"{known}\n".encode())
        if self.extractor.weights_sha256 is None:
            held_out = {f"held_out.{name}": value for name, value in self._held_out_tensors.items()}
            tensors = {**self.extractor.state_dict(), **self._tensors, **held_out}
            for name in sorted(tensors):
                value = tensors[name].detach().cpu().contiguous()
                digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
                digest.update(value.numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Writes the folder, whole or not at all."""
        with replacing_folder(folder) as temporary:
            names = self.extractor.save(temporary)
            names.append(STATISTICS)
            weights.write(temporary / STATISTICS, self._tensors)
            if self.held_out is not None:
                names.append(HELD_OUT)
                weights.write(temporary / HELD_OUT, self._held_out_tensors)
            header = {
                **{key: getattr(self, key) for key in KEPT},
                "format": FORMAT,
                "extractor": self.extractor.name,
                "preprocessing": self.extractor.preprocessing,
                "weights_sha256": self.extractor.weights_sha256,
                "shape": list(self.shape),
                "classes": list(self.classes),
                "images": len(self.labels),
                "held_out": 0 if self.held_out is None else int(self.held_out.statistics["count"]),
                "features": self.extractor.num_features,
                "protocol": self.protocol,
                "files": {name: sha256(temporary / name) for name in names},
            }
            write_json(temporary / HEADER, header)

    @property
    def _tensors(self) -> dict[str, Tensor]:
        return {**self.statistics, "labels": self.labels, "features": self.features}

    @property
    def _held_out_tensors(self) -> dict[str, Tensor]:
        if self.held_out is None:
            return {}
        names = ("features", "pictures", "distances")
        return {**self.held_out.statistics, **{name: getattr(self.held_out, name) for name in names}}


def build_reference(
    extractor: Extractor,
    real: RealImages,
    task: str | None = None,
    held_out_accuracy: float | None = None,
    statistics: Statistics | None = None,
    statistics_sha256: str | None = None,
    unseen: RealImages | None = None,
) -> Reference:
    """The reference of real images that `extractor` has measured; the other arguments are as in `Reference`.

    Args:
        statistics: published statistics to measure the Frechet distance against; None = the real images'.
        unseen: the held-out images, if there are any.
    """
    held_out, identity = None, real.identity
    if unseen is not None:
        assert real.pictures is not None  # kept wherever images are held out
        held_out = held_out_of(unseen.statistics, unseen.features, real.features, real.pictures)
        identity = hashlib.sha256(json.dumps([identity, unseen.identity]).encode()).hexdigest()
    return Reference(
        real.classes, real.shape, task, held_out_accuracy, real.labels, real.features,
        statistics or real.statistics, extractor, identity, statistics_sha256, held_out,
    )  # fmt: skip


def load_reference(folder: Path, device: torch.device | str = "cpu") -> Reference:
    """Reads what `Reference.save` wrote and puts the extractor on `device`.

    Raises:
        UserError: a file is missing, has another format, or was changed after it was written.
    """
    remedy, path = "run `scm run --force reference`", folder / HEADER
    header = read_json(path, dict[str, Any], damaged=remedy)
    if header.get("format") != FORMAT:
        raise UserError(f"{path} has format {shown(header.get('format'))}, not {FORMAT}: {remedy}")
    require(header, Header, str(path), remedy)
    for name, digest in header["files"].items():
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing: {remedy}")
        if sha256(folder / name) != digest:
            raise UserError(f"{folder / name} was changed after it was written: {remedy}")
    extractor = load_extractor(header["extractor"], folder, header["shape"][-1], device)
    extractor.weights_sha256 = header["weights_sha256"]
    tensors = _tensors_of(folder / STATISTICS, TENSORS, remedy)
    labels, features = tensors.pop("labels"), tensors.pop("features")
    held_out = None
    if header["held_out"]:
        more = _tensors_of(folder / HELD_OUT, HELD_OUT_TENSORS, remedy)
        named = {name: more.pop(name) for name in ("features", "pictures", "distances")}
        held_out = HeldOut(statistics=more, training=features, **named)
    shape, kept = tuple(header["shape"]), {key: header[key] for key in KEPT}
    about = {
        "labels": labels,
        "features": features,
        "statistics": tensors,
        "extractor": extractor,
        "held_out": held_out,
    }
    return Reference(tuple(header["classes"]), shape, **about, **kept)


def _tensors_of(path: Path, names: set[str], remedy: str) -> dict[str, Tensor]:
    tensors, _ = load_any(path, remedy, remedy)
    if tensors.keys() != names:
        raise UserError(f"{path} holds no statistics: {remedy}")
    return tensors
