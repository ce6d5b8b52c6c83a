"""The extractor that needs no download: a small classifier that the pipeline trains on the user's own images.

Inception and DINOv2 were made for photographs of 224 pixels and more; on small images of other kinds their features
say little. A classifier of the data's own classes has features that separate these classes, and its held-out accuracy
tells how far to trust them. Without classes (or with one) it learns by how many quarter turns an image is rotated,
which needs no labels and still makes it look at shape (Gidaris et al. 2018, arXiv 1803.07728).

Everything drawn is named by (seed, purpose, epoch), so that the same seed gives the same weights bit for bit.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from scm.base.distributed import Ranks
from scm.base.documents import parse_json
from scm.base.files import awaited, read_sealed, remove, sha256, write_sealed
from scm.base.forms import Rule, Whole, at_least
from scm.base.randomness import generator, global_draws, seed_of
from scm.base.weights import filled, load_any, write
from scm.data.shards.shards import read_images, read_index
from scm.errors import UserError
from scm.evaluation.augmentation import augment
from scm.evaluation.extractor import Extractor

Task = Literal["class", "rotation"]
FILE, TAUGHT = "extractor.safetensors", "classifier.json"
EDM2_STATISTICS = None
Augment = Callable[[Tensor, torch.Generator], Tensor]

TURNS = 4
"""Classes of the rotation task: 0, 1, 2 or 3 quarter turns."""
SMALLEST_MAP = 4
"""Strided convolutions follow each other until the feature map is at most this wide."""
WIDEST = 4
"""Channels double with every strided convolution, up to this multiple of the first layer's."""
MEASURING_BATCH = 256
"""Images in one forward pass when nothing is learnt; bounds the memory and changes no figure."""


class Classifier(Extractor):
    """A strided convolutional classifier, whose last hidden layer gives the features.

    With GroupNorm and without dropout, an image's features depend on that image alone. The network is trained in
    float32 and measures in float64, in which features do not depend on the batch.

    Attributes:
        settings: The five arguments, enough to build the same module again.
    """

    name: ClassVar[str] = "classifier"
    preprocessing: ClassVar[str] = "x / 127.5 - 1"

    def __init__(self, channels: int, resolution: int, width: int, features: int, outputs: int) -> None:
        """Builds the module with torch's default initialisation.

        Args:
            channels: C of the images.
            resolution: Height and width of the images in pixels.
            width: Channels of the first layer; a multiple of 8.
            features: Length F of a feature vector.
            outputs: Number of classes K (or of rotations).

        Raises:
            UserError: The width is no positive multiple of 8, the size of a normalised group.
        """
        super().__init__()
        if width < 8 or width % 8:
            raise UserError(f"reference.classifier.width = {width} must be a positive multiple of 8, for example 32")
        self.settings = {"channels": channels, "resolution": resolution, "width": width}
        self.settings |= {"features": features, "outputs": outputs}
        self.num_features = features
        layers = [_convolution(channels, width, stride=1)]
        size, current = resolution, width
        while size > SMALLEST_MAP:
            following = min(2 * current, WIDEST * width)
            layers.append(_convolution(current, following, stride=2))
            size, current = math.ceil(size / 2), following
        layers.append(_convolution(current, current, stride=1))
        self.body = nn.Sequential(*layers)
        self.hidden = nn.Linear(current * size * size, features)
        self.output = nn.Linear(features, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, F] of images [B, C, H, W], uint8 or float, with values from 0 to 255."""
        # In channels-last order, images would take other kernels, which round differently.
        x = images.to(self.hidden.weight.dtype, memory_format=torch.contiguous_format) / 127.5 - 1
        return functional.silu(self.hidden(self.body(x).flatten(1)))

    def logits(self, images: Tensor) -> Tensor:
        """Unnormalised log-probabilities [B, K] of the classes for images [B, C, H, W] as in `forward`."""
        return self.output(self(images))

    def save(self, folder: Path) -> list[str]:
        """Writes the weights as float32 safetensors with the settings in the header, and nothing else."""
        weights = {name: weight.detach().float().cpu().contiguous() for name, weight in self.state_dict().items()}
        write(folder / FILE, weights, {"settings": json.dumps(self.settings, sort_keys=True)})
        return [FILE]

    def classes_of(self, features: Tensor) -> Tensor:
        return self.output(features).argmax(dim=1)


def _convolution(channels: int, following: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, following, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(following // 8, following),
        nn.SiLU(),
    )


def held_out_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Divides images at random into those that train and those that only measure, evenly over the classes.

    Images are shuffled and sorted by class, and every 1/fraction-th one is held out: floor(N * fraction) in all, and
    of each class its share to within one image.

    Args:
        labels: int64 [N], any values.
        fraction: Fraction of the images to hold out, between 0 and 1.
        seed: The user's seed.

    Returns:
        The positions of the training images and of the held-out images, both int64.

    Raises:
        UserError: One of the two parts would be empty.
    """
    shuffled = torch.randperm(len(labels), generator=generator(seed, "held out"))
    by_class = shuffled[labels[shuffled].sort(stable=True).indices]
    position = torch.arange(len(labels) + 1, dtype=torch.float64)
    held = (position * fraction + 1e-9).floor().diff() > 0
    if held.all() or not held.any():
        raise UserError(
            f"reference.classifier.held_out = {fraction} of {len(labels)} images leaves "
            f"{int((~held).sum())} to train the classifier and {int(held.sum())} to measure it: add images"
        )
    return by_class[~held], by_class[held]


@dataclass(frozen=True)
class ClassifierSettings:
    """How a classifier is built and trained: the block `reference.classifier` of params.yaml.

    Attributes:
        width: Channels of the first layer; a multiple of 8.
        features: Length F of a feature vector.
        epochs: Passes over the training images.
        batch: Images of one step.
        lr: Adam's highest learning rate; it falls to 0 along a cosine.
        held_out: Fraction of the images that only measures the classifier.
    """

    width: int
    features: int
    epochs: int
    batch: int
    lr: float
    held_out: float


class Taught(TypedDict):
    """What a finished training leaves beside its classifier."""

    task: Task
    held_out_accuracy: Annotated[float, at_least(0), Rule(lambda share: share <= 1, "must be at most 1")]


class Built(TypedDict):
    """How a saved classifier was built: the arguments of `Classifier`."""

    channels: Whole
    resolution: Whole
    width: Whole
    features: Whole
    outputs: Whole


def train_classifier(
    images: Tensor,
    labels: Tensor,
    settings: ClassifierSettings,
    *,
    task: Task,
    outputs: int,
    seed: int,
    augment: Augment,
    device: torch.device | str = "cpu",
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[Classifier, float]:
    """Trains a classifier with Adam.

    Args:
        images: uint8 [N, C, H, W].
        labels: int64 [N] from 0 to outputs - 1; not read by task "rotation".
        task: "class" learns the labels, "rotation" the number of quarter turns.
        outputs: Number of classes; `TURNS` for task "rotation".
        augment: Distorts a float batch [B, C, H, W] with draws from the given CPU generator.
        progress: Receives a line about ten times.

    Returns:
        The classifier in evaluation mode and float64, on `device`, and its accuracy on the held-out images, 0 to 1.

    Raises:
        UserError: Too few images, or a width that cannot be built.
    """
    # Split the data and build the network; both follow from the seed alone.
    split = held_out_split(labels.cpu(), settings.held_out, seed)
    images, labels = images.to(device), labels.to(device)
    training, measuring = (part.to(device) for part in split)
    with global_draws(seed_of(seed, "extractor initialisation")):
        model = Classifier(images.shape[1], images.shape[-1], settings.width, settings.features, outputs)
    model.to(device)
    # Train in float32, with the learning rate along a cosine.
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
    steps = settings.epochs * math.ceil(len(training) / settings.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.backends.cudnn.flags(deterministic=True, benchmark=False):
        for epoch in range(settings.epochs):
            total = 0.0
            for chosen, random in _batches(training, settings.batch, seed, epoch):
                inputs, targets = _asked(images[chosen], labels[chosen], task, random)
                loss = functional.cross_entropy(model.logits(augment(inputs.float(), random)), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.item() * len(chosen)
            if (epoch + 1) % max(1, settings.epochs // 10) == 0:
                progress(f"classifier: epoch {epoch + 1} of {settings.epochs}, loss {total / len(training):.4f}")
    # Measure in float32, then keep float64 for features.
    model.eval()
    reached = held_out_accuracy(model, images[measuring], labels[measuring], task)
    return model.double(), reached


def _batches(training: Tensor, batch: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, torch.Generator]]:
    """Yields the positions of each step's images, and the generator of that epoch's distortions."""
    order = torch.randperm(len(training), generator=generator(seed, "extractor order", epoch)).to(training.device)
    random = generator(seed, "extractor augmentation", epoch)
    for chosen in training[order].split(batch):
        yield chosen, random


def _asked(images: Tensor, labels: Tensor, task: Task, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs and targets: the images and their labels, or turned images and their turns."""
    if task == "class":
        return images, labels
    turns = torch.randint(TURNS, (len(images),), generator=random).to(images.device)
    turned = images.clone()
    for count in range(1, TURNS):
        turned[turns == count] = images[turns == count].rot90(count, dims=(-2, -1))
    return turned, turns


def held_out_accuracy(model: Classifier, images: Tensor, labels: Tensor, task: Task) -> float:
    """Fraction of images [N, C, H, W] that are classified correctly; task "rotation" shows each in all four turns."""
    if task == "class":
        return accuracy(model, images, labels)
    turned = ((images.rot90(turns, dims=(-2, -1)), torch.full_like(labels, turns)) for turns in range(TURNS))
    return sum(accuracy(model, *each) for each in turned) / TURNS


@torch.no_grad()
def accuracy(model: Classifier, images: Tensor, labels: Tensor) -> float:
    """Fraction of images [N, C, H, W] whose most probable class is their label [N]."""
    device = model.hidden.weight.device
    right = 0
    for some, wanted in zip(images.split(MEASURING_BATCH), labels.split(MEASURING_BATCH), strict=True):
        right += int((model.logits(some.to(device)).argmax(dim=1) == wanted.to(device)).sum())
    return right / len(images)


def load_classifier(path: Path) -> Classifier:
    """Reads what `Classifier.save` wrote, in evaluation mode and float64 on the CPU.

    Raises:
        UserError: The file is missing or is not such a file.
    """
    remedy = "run `scm run reference`"
    tensors, metadata = load_any(path, remedy, f"delete it and {remedy}")
    settings = parse_json(metadata.get("settings", "null"), Built, f"{path}: its settings", f"delete it and {remedy}")
    least = settings["features"] * settings["outputs"] + 9 * settings["width"] ** 2
    try:
        return filled(tensors, lambda: Classifier(**settings), least).eval().double()
    except ValueError as problem:
        raise UserError(f"{path} is no feature extractor ({problem}): delete it and {remedy}") from None


def train_extractor(
    settings: Mapping[str, Any], shards: Path, work: Path, seed: int, ranks: Ranks, progress: Callable[[str], None]
) -> tuple[Classifier, dict[str, Any]]:
    """Trains the classifier of a data set once; the first process trains it and the others wait for its file.

    Args:
        settings: the block `reference.classifier` of params.yaml.
        work: the folder of unfinished work, which all processes see; an interrupted stage finds its classifier there.

    Returns:
        The classifier on the device of `ranks`; and its "task" and "held_out_accuracy".
    """
    told = work / TAUGHT
    if ranks.rank == 0 and _taught(work) is None:
        remove(told)
        classes = read_index(shards)["classes"]
        task: Task = "class" if len(classes) > 1 else "rotation"
        model, reached = train_classifier(
            *read_images(shards),
            ClassifierSettings(**settings),
            task=task,
            outputs=len(classes) if task == "class" else TURNS,
            seed=seed,
            augment=augment,
            device=ranks.device,
            progress=progress,
        )
        progress(f"classifier: {reached:.1%} of the held-out images right ({task})")
        model.save(work)
        write_sealed(told, {"task": task, "held_out_accuracy": reached, "sha256": sha256(work / FILE)})
    taught = awaited(told, lambda _: _taught(work))
    return load_classifier(work / FILE).to(ranks.device), taught


def _taught(work: Path) -> dict[str, Any] | None:
    """What a finished training tells of its classifier; None if that or the classifier is missing or damaged."""
    told = read_sealed(work / TAUGHT)
    if told is None or not (work / FILE).is_file() or told.pop("sha256", None) != sha256(work / FILE):
        return None
    return told


def load_extractor(folder: Path, resolution: int, device: torch.device | str) -> Classifier:
    """Reads what `Classifier.save` wrote; its file tells the resolution."""
    return load_classifier(folder / FILE)
