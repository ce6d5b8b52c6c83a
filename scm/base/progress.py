"""Tell how far a long pass over images has come, how fast it goes and how long it will take."""

import time
from collections.abc import Callable

SAY_EVERY = 10.0
"""Seconds between two lines."""


def clock(seconds: float) -> str:
    """Whole minutes and seconds.

    >>> clock(125.9)
    '2:05'
    """
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


class Progress:
    """Says a line at most every `SAY_EVERY` seconds.

    Args:
        total: images of this process.
        say: prints a line.
        what: the participle for an image that is done, e.g. encoded.
    """

    def __init__(self, total: int, say: Callable[[str], None], what: str) -> None:
        self.total, self.say, self.what, self.done, self.skipped = total, say, what, 0, 0
        self.started = self.last = time.monotonic()

    def skip(self, images: int) -> None:
        """Counts images that an earlier run has done."""
        self.done += images
        self.skipped += images

    def add(self, images: int) -> None:
        """Counts images that are done now."""
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
