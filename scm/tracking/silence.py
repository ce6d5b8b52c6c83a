"""Remembers for some minutes that a store did not answer, so that one stage waits for it and the next ones do not."""

import hashlib
import time
from contextlib import suppress
from pathlib import Path

from scm.base.files import write_text
from scm.params.project import TrackingSettings

MEMORY = 300.0
"""Seconds for which no stage asks a silent store again; `scm sync` always does."""


def note(settings: TrackingSettings, why: str) -> None:
    """Notes that the store does not answer."""
    with suppress(OSError):  # without the note, the next stage waits as well
        write_text(_file(settings), f"{_digest(settings)}\n{why}\n")


def forget(settings: TrackingSettings) -> None:
    """Forgets what was noted, as the store has answered."""
    with suppress(OSError):
        _file(settings).unlink(missing_ok=True)


def recent(settings: TrackingSettings) -> str | None:
    """Returns what was noted about this store in the last minutes; None if nothing was."""
    try:
        file = _file(settings)
        age = time.time() - file.stat().st_mtime
        digest, _, why = file.read_text(encoding="utf-8", errors="replace").partition("\n")
    except OSError:
        return None
    # An age below zero comes from a clock that was set back.
    known = digest == _digest(settings) and 0 <= age < MEMORY
    return f"{why.strip()}, {age:.0f} s ago" if known else None


def _file(settings: TrackingSettings) -> Path:
    return settings.home / ".work" / "mlflow-silent"


def _digest(settings: TrackingSettings) -> str:
    """Stands for the store's address, which may hold a password."""
    return hashlib.sha256(settings.store.encode("utf-8", "surrogateescape")).hexdigest()
