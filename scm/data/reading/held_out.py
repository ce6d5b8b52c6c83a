"""Divides a source into the images that train and the held-out images, which no training sees.

An image's side follows from its name alone. So images that are added later move none of the others to the other side,
and a model that was trained with the same share before has not seen what is held out now.
"""

import hashlib
import re

import numpy as np

from scm.data.reading.containers import shown
from scm.data.reading.skipped import Skipped
from scm.data.reading.source import ImageSource
from scm.errors import UserError

FEWEST = 100
"""Fewest images on either side. Among 100 held-out images, 5 decide what counts as a copy."""


def divided(source: ImageSource, share: float) -> tuple[ImageSource, ImageSource | None]:
    """The images of a source that train, and those that are held out; the source itself, and None, if `share` is 0.

    Args:
        share: `data.held_out`, the probability of an image to be held out.

    Raises:
        UserError: one of the sides would have too few images, or none of a class.
    """
    if share == 0:
        return source, None
    held = np.fromiter((_is_held_out(source.file_name(number), share) for number in range(len(source))), dtype=bool)
    key, remedy = f"{source.name}: data.held_out = {share:g}", "add images, choose another share, or write 0.0"
    if min(held.sum(), (~held).sum()) < FEWEST:
        sides = f"{held.sum():,} images held out and {(~held).sum():,} to train on"
        raise UserError(f"{key} leaves {sides}, and either needs at least {FEWEST}: {remedy}")
    labels = np.asarray(source.labels)
    for side, told in ((held, "held out"), (~held, "to train on")):
        present = set(labels[side].tolist())
        if empty := [name for label, name in enumerate(source.classes) if label not in present]:
            raise UserError(f"{key} leaves no image of the class {shown(empty[0])} {told}: {remedy}")
    return _part(source, ~held, source.name), _part(source, held, f"{source.name}, held-out images", skipped=False)


def _is_held_out(name: str, share: float) -> bool:
    name = re.sub(r"-of-\d{4,}", "", name)  # which changes when train-00002-of-00003 is added
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _part(source: ImageSource, side: np.ndarray, name: str, skipped: bool = True) -> ImageSource:
    """The images of one side, in the source's order; the source stays open for them."""
    numbers = np.flatnonzero(side)
    return ImageSource(
        name=name,
        classes=source.classes,
        labels=np.asarray(source.labels)[numbers],
        file_name=lambda number: source.file_name(int(numbers[number])),
        load=lambda number: source.load(int(numbers[number])),
        skipped=source.skipped if skipped else Skipped(),
    )
