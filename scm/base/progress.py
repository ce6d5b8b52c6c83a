"""Progress of a long pass over images: done so far, speed, time left."""

import time
from collections.abc import Callable

SAY_EVERY = 10.0
"""Seconds between two lines."""


def clock(seconds: float) -> str:
    """Formats a duration as minutes and seconds.

    >>> clock(125.9)
    '2:05'
    """
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


class Progress:
    """Prints a line at most every `SAY_EVERY` seconds.

    Args:
        total: number of images of this process.
        say: prints a line.
        what: what was done to the images, e.g. "encoded".
    """

    def __init__(self, total: int, say: Callable[[str], None], what: str) -> None:
        self.total, self.say, self.what, self.done, self.skipped = total, say, what, 0, 0
        self.started = self.last = time.monotonic()

    def skip(self, images: int) -> None:
        """Counts images that an earlier run finished."""
        self.done += images
        self.skipped += images

    def add(self, images: int) -> None:
        """Counts images that this run finished."""
        self.done += images
        now = time.monotonic()
        if now - self.last < SAY_EVERY:
            return
        self.last = now
        rate = (self.done - self.skipped) / (now - self.started)
        self.say(
            f"{self.done / self.total:4.0%}  {self.done:,} of {self.total:,} images {self.what}, {rate:,.1f}/s, "
            f"ETA {clock((self.total - self.done) / rate)}"
        )
