"""A source of small images, some of which cannot be read, and the reading of it."""

import numpy as np
from PIL import Image

from scm.data.preparation.ingest import Plan, Workers, ingest
from scm.data.reading.source import ImageSource

COUNT = 23
PLAN = Plan(8, 3, "skip", shard_images=4)
TWO = Workers(2)
BAD = {2, 8, 9, 10, 11}
"""Images that cannot be read: one of the first shard, all of the third."""


def pixels(number):
    return np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def source(before=lambda number: None):
    """COUNT images; `before` is called when one is read, by whichever thread does."""

    def load(number):
        before(number)
        if number in BAD:
            raise OSError("image file is truncated")
        return Image.fromarray(pixels(number))

    return ImageSource("things", ["even", "odd"], [number % 2 for number in range(COUNT)], lambda n: f"thing {n}", load)


def run(work, workers=TWO, images=None, said=lambda text: None, stopping=lambda: False, plan=PLAN):
    """Makes the shards in the work folder; those that are there already are kept."""
    ingest(images or source(), plan, work, workers, said, stopping)
