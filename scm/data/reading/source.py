"""A source of images: a fixed order of images, each of which any thread may read and decode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from scm.base.registry import part

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

SOURCES = "scm.data.sources"
"""The package whose files are the sources, each named by its value of `data.source`."""


@dataclass(frozen=True)
class Wanted:
    """What is to be read, from the section `data` of params.yaml.

    Attributes:
        source: name of a file of `scm.data.sources`.
        path: a folder or an archive; sources that carry their own images ignore it.
        labels: False = the images get no labels.
        max_pixels: images that claim more are refused undecoded.
        on_bad_image: "error" = a sample without its label or its image stops the listing; "skip" = it is left out.
    """

    source: str
    path: Path
    labels: bool
    max_pixels: int
    on_bad_image: str


@dataclass
class ImageSource:
    """The images of one source in a fixed order. Use it in a `with` block, which closes the archive.

    Attributes:
        name: what messages call it, for example the archive's path.
        classes: names by label; empty = the images have no labels.
        labels: of every image file, usable or not: index into `classes`, -1 = none.
        file_name: what messages call the image of this number: its path inside the source.
        load: reads and decodes an image; raises one of `images.IMAGE_FAULTS`. Threads may call it concurrently.
        skipped: files that are not images, as {"file", "reason"}.
        resources: what `with` closes.
    """

    name: str
    classes: list[str]
    labels: Sequence[int] | np.ndarray
    file_name: Callable[[int], str]
    load: Callable[[int], Image.Image]
    skipped: list[dict[str, str]] = field(default_factory=list)
    resources: ExitStack = field(default_factory=ExitStack)

    def __len__(self) -> int:
        return len(self.labels)

    def __enter__(self) -> ImageSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.resources.close()

    def key(self, number: int) -> str:
        """Name of the sample in the shards, which depends on its number alone."""
        return f"{number:08d}"


def open_source(wanted: Wanted) -> ImageSource:
    """Lists the images of a source without decoding any.

    The same files give the same images, keys and classes whether they lie in a folder, a zip or a tar.

    Raises:
        UserError: nothing to read, a mixed or empty class, a path or link that leads outside, a damaged archive.
        ValueError: there is no source of this name.
    """
    with ExitStack() as stack:
        source: ImageSource = part(SOURCES, wanted.source).list_images(wanted, stack)
        source.resources = stack.pop_all()
    return source
