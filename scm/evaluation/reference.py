"""What generated images are measured against: a trained extractor and what it says of the real images.

Built once by the stage `reference` and stored as three files, then read by selection, evaluation and report:

    extractor.safetensors    the classifier's weights, its settings in the header
    statistics.safetensors   the real images' feature sums (float64) and labels, and features of some of them (float32)
    header.json              classes, task, held-out accuracy, floor, and the hash of the two files above
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from scm.errors import UserError
from scm.evaluation.features import (
    TURNS,
    Augment,
    Classifier,
    ExtractorSettings,
    Task,
    load_classifier,
    save_classifier,
    train_classifier,
)
from scm.evaluation.frechet import FEWEST_SAMPLES, LARGEST_BATCH, FrechetDistance
from scm.evaluation.kernel import kernel_distance
from scm.evaluation.precision_recall import MOST_IMAGES, precision_recall, spread
from scm.files import read_json, replacing_folder, sha256, write_json
from scm.randomness import generator

FORMAT = 2
EXTRACTOR, STATISTICS, HEADER = "extractor.safetensors", "statistics.safetensors", "header.json"


@dataclass(frozen=True)
class Reference:
    """The ruler for generated images.

    Attributes:
        classes: Names of the classes; empty for unlabelled data.
        task: What the extractor learnt: "class" or "rotation".
        held_out_accuracy: The extractor's accuracy on images that it was not trained on, from 0 to 1.
        floor: Frechet distance between two random disjoint halves of the real images. The distance of finitely many
            samples is above 0 even for a perfect generator, roughly by a constant over their number; a half has half
            of that number, so that this is an upper bound for the bias of as many samples as there are real images.
        labels: int64 [N], the real images' labels in order: asking a model for these gives the real class distribution.
        features: float32 [M, F], features of M real images chosen at random, 10,000 at most, for all figures but FD.
            Rounded, so that the last bits, which depend on the batch, do not tell features of equal images apart.
        extractor: The classifier, in float64.
    """

    classes: tuple[str, ...]
    task: Task
    held_out_accuracy: float
    floor: float
    labels: Tensor
    features: Tensor
    extractor: Classifier
    frechet: FrechetDistance

    def distance(self, images: Tensor, batch: int = LARGEST_BATCH) -> float:
        """Frechet distance of generated images, uint8 [N, C, H, W], to all real images; `batch` does not change it.

        Raises:
            UserError: Fewer than two images.
            ValueError: The images are not uint8 of the reference's channels and resolution.
        """
        self._check(images)
        return self.frechet.distance(images, batch)

    def features_of(self, images: Tensor) -> Tensor:
        """Features [N, F] of images, uint8 [N, C, H, W], float64 on the extractor's device.

        Raises:
            ValueError: The images are not uint8 of the reference's channels and resolution.
        """
        self._check(images)
        return self.frechet.features(images)

    @torch.no_grad()
    def further(self, features: Tensor, labels: Tensor, neighbours: int) -> dict[str, float]:
        """All figures of generated images but the Frechet distance.

        Precision and recall take as many images on either side, as both depend on their number: of the generated ones
        evenly, of the real `features` the first, whose order is random. So does the kernel distance, to bound its time.

        Args:
            features: Of the generated images, [N, F], as `features_of` returns them.
            labels: int64 [N], the classes that were asked for.
            neighbours: k of `precision_recall`.

        Returns:
            "kid", "precision", "recall", and, where the extractor has learnt classes, "accuracy": the fraction of
            images that it takes for the asked class.

        Raises:
            UserError: Fewer than two images, or not more than k.
        """
        figures: dict[str, float] = {}
        count = min(len(self.features), len(features))
        some, real = spread(features, count).float(), self.features[:count].to(features.device)
        figures["kid"] = kernel_distance(real, some)
        figures["precision"], figures["recall"] = precision_recall(real, some, neighbours)
        if self.task == "class":
            right = self.extractor.output(features).argmax(dim=1) == labels.to(features.device)
            figures["accuracy"] = int(right.sum()) / len(right)
        return figures

    @property
    def protocol(self) -> str:
        """SHA-256 of all that defines the figures: the extractor's weights, the real images' statistics and features.

        Figures are comparable where this is equal.
        """
        digest = hashlib.sha256()
        tensors = {**self.extractor.state_dict(), **self._statistics}
        for name in sorted(tensors):
            value = tensors[name].detach().cpu().contiguous()
            digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
            digest.update(value.numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Writes the three files; the folder takes its place whole or not at all."""
        with replacing_folder(folder) as temporary:
            save_classifier(self.extractor, temporary / EXTRACTOR)
            save_file(self._statistics, temporary / STATISTICS)
            header = {
                "format": FORMAT,
                "classes": list(self.classes),
                "task": self.task,
                "held_out_accuracy": self.held_out_accuracy,
                "floor": self.floor,
                "images": len(self.labels),
                "features": self.extractor.num_features,
                "protocol": self.protocol,
                "files": {name: sha256(temporary / name) for name in (EXTRACTOR, STATISTICS)},
            }
            write_json(temporary / HEADER, header)

    @property
    def _statistics(self) -> dict[str, Tensor]:
        return {**self.frechet.real_statistics, "labels": self.labels, "features": self.features}

    def _check(self, images: Tensor) -> None:
        settings = self.extractor.settings
        wanted = (settings["channels"], settings["resolution"], settings["resolution"])
        if images.dtype != torch.uint8 or images.shape[1:] != wanted:
            raise ValueError(f"the reference measures uint8 [N, {wanted}], not {images.dtype} {list(images.shape)}")


def build(
    images: Tensor,
    labels: Tensor,
    classes: list[str],
    settings: ExtractorSettings,
    *,
    seed: int,
    augment: Augment,
    device: torch.device | str = "cpu",
    progress: Callable[[str], None] = lambda text: None,
) -> Reference:
    """Trains the extractor, on rotations where there are no two classes, and measures all real images with it.

    Args:
        images: The real images, uint8 [N, C, H, W].
        labels: int64 [N], -1 = no label.
        classes: Names of the classes; empty for unlabelled data.
        settings: How the extractor is built and trained.
        seed: The user's seed.
        augment: As in `train_classifier`.
        device: Where to compute.
        progress: Receives lines of text.

    Raises:
        UserError: Too few images to divide into two halves or to train and measure an extractor.
    """
    if len(images) < 2 * FEWEST_SAMPLES:
        raise UserError(
            f"the reference needs at least {2 * FEWEST_SAMPLES} images, not {len(images)}: add images to data.path"
        )
    task: Task = "class" if len(classes) > 1 else "rotation"
    extractor, reached = train_classifier(
        images,
        labels,
        settings,
        task=task,
        outputs=len(classes) if task == "class" else TURNS,
        seed=seed,
        augment=augment,
        device=device,
        progress=progress,
    )
    progress(f"classifier: {reached:.1%} of the held-out images right ({task})")
    frechet = FrechetDistance(extractor)
    order = torch.randperm(len(images), generator=generator(seed, "reference floor"))
    half = len(images) // 2
    frechet.add_real(images[order[:half]])
    floor = frechet.distance(images[order[half : 2 * half]])
    frechet.add_real(images[order[half:]])
    chosen = torch.randperm(len(images), generator=generator(seed, "precision and recall"))[:MOST_IMAGES]
    features = frechet.features(images[chosen]).float().cpu()
    return Reference(tuple(classes), task, reached, floor, labels.cpu(), features, extractor, frechet)


def load(folder: Path, device: torch.device | str = "cpu") -> Reference:
    """Reads what `Reference.save` wrote and puts the extractor on `device`.

    Raises:
        UserError: A file is missing, of another format, or not the one that the header was written for.
    """
    header: dict[str, Any] = read_json(folder / HEADER)
    remedy = "run `dvc repro --force reference`"
    if header.get("format") != FORMAT:
        raise UserError(f"{folder / HEADER} has format {header.get('format')}, not {FORMAT}: {remedy}")
    for name, digest in header["files"].items():
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing: {remedy}")
        if sha256(folder / name) != digest:
            raise UserError(f"{folder / name} was changed after it was written: {remedy}")
    extractor = load_classifier(folder / EXTRACTOR).to(device)
    try:
        tensors = load_file(folder / STATISTICS)
        labels, features = tensors.pop("labels"), tensors.pop("features")
    except (SafetensorError, KeyError) as error:
        raise UserError(f"{folder / STATISTICS} holds no statistics ({error}): {remedy}") from None
    frechet = FrechetDistance(extractor)
    frechet.real_statistics = tensors
    return Reference(
        tuple(header["classes"]),
        header["task"],
        header["held_out_accuracy"],
        header["floor"],
        labels,
        features,
        extractor,
        frechet,
    )
