"""How far a long pass over images is, how fast it goes and how long it will take."""

import time
from collections.abc import Callable

SAY_EVERY = 10.0
"""Seconds between two lines."""


class Progress:
    """Says a line every `SAY_EVERY` seconds.

    Args:
        total: images of this process.
        say: prints a line.
        what: is done with them, e.g. encoded.
    """

    def __init__(self, total: int, say: Callable[[str], None], what: str) -> None:
        self.total, self.say, self.what, self.done, self.skipped = total, say, what, 0, 0
        self.started = self.last = time.monotonic()

    def skip(self, images: int) -> None:
        """Counts what an earlier run has done."""
        self.done += images
        self.skipped += images

    def add(self, images: int) -> None:
        self.done += images
        now = time.monotonic()
        if now - self.last < SAY_EVERY:
            return
        self.last = now
        rate = (self.done - self.skipped) / (now - self.started)
        left = int((self.total - self.done) / rate)
        self.say(
            f"{self.done / self.total:4.0%}  {self.done:,} of {self.total:,} images {self.what}, {rate:,.1f}/s, "
            f"ETA {left // 60}:{left % 60:02d}"
        )
