"""MLflow's store: opened by one process at a time, with short waits, and with its faults reported in one line."""

import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from scm.base import locks
from scm.errors import Interrupted, UserError
from scm.params.project import TrackingSettings

if TYPE_CHECKING:
    from mlflow import MlflowClient

PATIENCE = 30.0
"""Seconds that a stage waits for MLflow at its end."""
BROKEN_OFF = ("too many 500 error responses", "Connection aborted", "Connection reset", "Broken pipe")
"""Parts of the errors that a client sees when a server refuses a file, possibly before reading all of it."""
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}  # fmt: skip
"""Values that these variables take unless the user has set them."""
LONGEST_REASON = 200
"""Characters that are kept of an error's first line."""
Result = TypeVar("Result")

warned = threading.Event()
"""Set once this process has printed its warning."""


def connect(settings: TrackingSettings) -> "MlflowClient":
    """Opens the store and makes one request, so that a dead server shows at once. Raises what mlflow raises."""
    quieten()
    from mlflow import MlflowClient

    with sole_opener(settings):
        client = MlflowClient(tracking_uri=settings.store)
        client.search_experiments(max_results=1)
    return client


def quieten() -> None:
    """Sets short waits and silences chatter before mlflow is imported; the user's own variables keep their values."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    # MLflow 3.17 maps its tables with a loader that SQLAlchemy 2.1 deprecates; nothing that we could do differently.
    warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated")
    warnings.filterwarnings("ignore", message=".*type hint .*is inferred as AnyType")  # about hints of MLflow's own


@contextmanager
def sole_opener(settings: TrackingSettings) -> Iterator[None]:
    """Holds the lock beside an SQLite file; a server needs none."""
    file = settings.store_file
    if file is None:
        yield
        return
    with locks.held(file.with_name(f"{file.name}.lock")):
        yield


def is_new(settings: TrackingSettings) -> bool:
    """True if the store is a file that does not exist yet; a command that only asks must not create it."""
    file = settings.store_file
    return file is not None and not file.exists()


def fault_of(work: Callable[[], object], patience: float) -> str | None:
    """Runs `work` in a thread, for at most `patience` seconds; returns what went wrong, None if nothing did."""
    faults: list[str] = []

    def guarded() -> None:
        try:
            work()
        except Exception as error:  # whatever MLflow, its database driver or the network raise must not end the caller
            faults.append(reason(error))

    thread = threading.Thread(target=guarded, name="mlflow", daemon=True)
    thread.start()
    thread.join(patience)
    if thread.is_alive():
        faults.append(f"no answer within {patience:.0f} s")
    return faults[-1] if faults else None


def answered(settings: TrackingSettings, command: str, work: Callable[[], Result]) -> Result:
    """Runs `work`; a fault of the store becomes a UserError in one line, whose remedy is to run `command` again."""
    try:
        return work()
    except (UserError, Interrupted):
        raise
    except Exception as error:  # MLflow, its database driver and the network each raise their own
        address = without_password(settings.store)
        raise UserError(f"mlflow: {reason(error)} ({address}): run `{command}` again later") from None


def warn(why: str, settings: TrackingSettings) -> None:
    """Prints one line in a process's life: later faults have the same cause and the same remedy."""
    if not warned.is_set():
        warned.set()
        message = f"mlflow: {why} ({without_password(settings.store)}); figures are kept in files"
        print(f"{message}, `scm sync` sends them later", file=sys.stderr, flush=True)


def reason(error: Exception) -> str:
    """The error in one line for the user, without any password in a server's address."""
    text = str(error) or type(error).__name__
    if "Failed to establish a new connection" in text or "NameResolutionError" in text:
        text = "the tracking server does not answer"
    elif any(fault in text for fault in BROKEN_OFF):
        text = "the tracking server fails or breaks off, its log says why: is its disk full or read-only?"
    first = without_password(text.strip().splitlines()[0])
    return first if len(first) <= LONGEST_REASON else first[:LONGEST_REASON] + "…"


def without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]+@", "//", text)
