"""Small images with a structure that a classifier can learn, without any download."""

import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scm.base.distributed import Ranks
from scm.base.files import sha256
from scm.data.shards.shards import HELD_OUT, INDEX, read_index, write_index
from scm.evaluation.augmentation import augment
from scm.evaluation.extractor import Extractor
from scm.evaluation.extractors.classifier import ClassifierSettings, train_classifier
from scm.evaluation.measuring import RealImages, collect, measure
from scm.evaluation.reference import Reference, build_reference
from tests.support.shards import write_shards

SETTINGS = ClassifierSettings(width=8, features=16, epochs=3, batch=32, lr=5e-3, held_out=0.25)


def striped_images() -> tuple[Tensor, Tensor]:
    """240 noisy images [1, 8, 8] of three classes: lying, standing and no stripes."""
    random = torch.Generator().manual_seed(1)
    labels = torch.arange(240) % 3
    stripes = (torch.arange(8) % 2 * 160.0)[None, :].expand(8, 8)
    patterns = torch.stack([stripes.T, stripes, torch.full((8, 8), 80.0)])
    images = patterns[labels] + 90 * torch.rand(240, 8, 8, generator=random)
    return images[:, None].to(torch.uint8), labels


@pytest.fixture(scope="session")
def striped() -> tuple[Tensor, Tensor]:
    return striped_images()


def shards_of(folder: Path, images: Tensor, labels: Tensor, classes: list[str], shard_images: int = 100) -> Path:
    """The images as a folder of shards."""
    size = {"channels": images.shape[1], "resolution": images.shape[2]}
    samples = (
        (f"{number:06d}", image.permute(1, 2, 0).numpy(), int(label))
        for number, (image, label) in enumerate(zip(images, labels, strict=True))
    )
    write_shards(samples, folder, shard_images, classes=classes, **size)
    return folder


def with_held_out(folder: Path, images: Tensor, labels: Tensor, classes: list[str]) -> Path:
    """The images as shards of which every fourth image is held out."""
    held = torch.arange(len(images)) % 4 == 0
    index = read_index(shards_of(folder, images[~held], labels[~held], classes))
    shards_of(folder / HELD_OUT, images[held], labels[held], classes)
    write_index({**index, HELD_OUT: sha256(folder / HELD_OUT / INDEX)}, folder)
    return folder


def reference_of(
    images: Tensor,
    labels: Tensor,
    classes: list[str],
    settings: ClassifierSettings = SETTINGS,
    seed: int = 0,
    held_out: bool = False,
) -> Reference:
    """The reference of these images, by a classifier of them."""
    task = "class" if len(classes) > 1 else "rotation"
    extractor, reached = train_classifier(
        images, labels, settings, task=task, outputs=len(classes) if task == "class" else 4, seed=seed, augment=augment
    )
    with tempfile.TemporaryDirectory() as folder:
        shards = (with_held_out if held_out else shards_of)(Path(folder) / "shards", images, labels, classes)
        real = _measured(extractor, shards, Path(folder) / "work", seed)
        unseen = _measured(extractor, shards / HELD_OUT, Path(folder) / "unseen", seed) if held_out else None
        return build_reference(extractor, real, task, reached, unseen=unseen)


def _measured(extractor: Extractor, shards: Path, work: Path, seed: int) -> RealImages:
    measure(extractor, shards, work, seed, Ranks(0, 1, torch.device("cpu")), lambda line: None)
    return collect(shards, work, seed)


def reference_of_stripes(held_out: bool = False) -> Reference:
    """The reference of the striped images by a classifier that has hardly learned, for what needs no good one."""
    settings = ClassifierSettings(width=8, features=8, epochs=1, batch=32, lr=5e-3, held_out=0.25)
    return reference_of(*striped_images(), ["lying", "standing", "none"], settings, held_out=held_out)
