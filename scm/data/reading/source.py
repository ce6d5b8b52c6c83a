"""A source of images: a fixed order of images, each of which any thread may read and decode."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from scm.base.registry import part
from scm.data.reading.skipped import Skipped
from scm.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

SOURCES = "scm.data.sources"
"""The package whose files are the sources, each named by its value of `data.source`."""

UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode's categories of what no name of a class may hold: control characters, lone surrogates, ends of lines."""


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
        skipped: files of the source that are no images of it, as {"file", "reason"}.
        resources: what `with` closes.
    """

    name: str
    classes: list[str]
    labels: Sequence[int] | np.ndarray
    file_name: Callable[[int], str]
    load: Callable[[int], Image.Image]
    skipped: Collection[dict[str, str]] = field(default_factory=Skipped)
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
        UserError: nothing to read, a mixed or empty class, a path or link that leads outside, a damaged archive,
            a class name that is no printable text.
        ValueError: there is no source of this name.
    """
    with ExitStack() as stack:
        source: ImageSource = part(SOURCES, wanted.source).list_images(wanted, stack)
        _check_names(source)
        source.resources = stack.pop_all()
    return source


def _check_names(source: ImageSource) -> None:
    """Refuses a class name that cannot be written or would do something when it is printed."""
    for name in source.classes:
        if not name.strip() or any(unicodedata.category(char) in UNPRINTABLE for char in name):
            problem = f"the class {name!a} has a name that is no valid text without control characters"
            raise UserError(f"{source.name}: {problem}: give it another one")
