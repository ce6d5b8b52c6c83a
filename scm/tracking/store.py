"""MLflow's store: opened by one process at a time, with short waits, and with its faults reported in one line."""

import logging
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from scm.base import locks
from scm.errors import Interrupted, UserError, printable
from scm.params.addresses import without_secrets
from scm.params.project import TrackingSettings
from scm.tracking import silence, sqlite_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

PATIENCE = 30.0
"""Seconds that a stage waits for MLflow at its end."""
REASONS = (
    (r"Failed to establish a new connection|NameResolutionError|timed out", "the tracking server does not answer"),
    (r"SSLError|SSL: ",
     "no secure connection: does the server speak http:// instead of https://, or is its certificate unknown here?"),
    (r"error code 40[13]\b",
     "the tracking server refuses access: are MLFLOW_TRACKING_USERNAME and _PASSWORD or MLFLOW_TRACKING_TOKEN right?"),
    (r"not in a valid JSON format|Failed to parse|error code 404|Exceeded \d+ redirects",
     "the address answers, but not as MLflow's server does: is it right, or is there a page to log in before it?"),
    (r"too many \d+ error responses|Connection aborted|Connection reset|Connection broken|Broken pipe",
     "the tracking server fails or breaks off, its log says why: is its disk full or read-only?"),
    (r"database is locked", "the store is locked or busy: another process holds it"),
    (r"file is not a database|disk image is malformed|sqlite3\.OperationalError\) (table|index|duplicate column)",
     "the store is damaged: move its file away, and `scm sync` makes it anew"),
    (r"readonly database|unable to open database file",
     "the store cannot be written: may you write its file and its folder?"),
    (r"invalid interpolation syntax|Bad value substitution|Path doesn't exist: \S*db_migrations",
     "MLflow cannot open a store if the folder in which it is installed has % in its path: make .venv elsewhere"),
)  # fmt: skip
"""Parts of errors, and what to say instead of each. A server that refuses a file may break off before reading it."""
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
        if settings.store_file is not None:
            sqlite_store.prepare(settings, settings.store_file)
        client = MlflowClient(tracking_uri=settings.store)
        client.search_experiments(max_results=1)
    silence.forget(settings)
    return client


def quieten() -> None:
    """Sets short waits and silences chatter before mlflow is imported; the user's own variables keep their values."""
    ours = DEFAULTS["MLFLOW_LOGGING_LEVEL"]  # perhaps inherited
    if os.environ.get("MLFLOW_LOGGING_LEVEL", ours) == ours:
        # It prints a stack for each fault of the database, which we report.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
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


def asked(settings: TrackingSettings, work: "Callable[[MlflowClient], object]", patience: float) -> str | None:
    """Opens the store and runs `work` as `fault_of` does, unless the store has lately kept somebody waiting."""
    why = silence.recent(settings)
    if why is not None:
        return why
    reached, start = threading.Event(), time.monotonic()

    def opened() -> None:
        client = connect(settings)
        reached.set()
        work(client)

    why, late = fault_of(opened, patience), time.monotonic() - start >= patience
    if why is not None and late and settings.store_file is not None:
        why = f"locked or busy, {why}"
    if why is not None and (late or not reached.is_set()):
        silence.note(settings, why)
    return why


def answered(settings: TrackingSettings, command: str, work: Callable[[], Result]) -> Result:
    """Runs `work`; a fault of the store becomes a UserError in one line, whose remedy is to run `command` again."""
    try:
        return work()
    except (UserError, Interrupted):
        raise
    except Exception as error:  # MLflow, its database driver and the network each raise their own
        raise UserError(f"mlflow: {reason(error)} ({settings.shown}): run `{command}` again later") from None


def warn(why: str, settings: TrackingSettings) -> None:
    """Prints one line in a process's life: later faults have the same cause and the same remedy."""
    if not warned.is_set():
        warned.set()
        message = f"mlflow: {printable(why)} ({printable(settings.shown)}); figures are kept in files"
        print(f"{message}, `scm sync` sends them later", file=sys.stderr, flush=True)


def reason(error: Exception) -> str:
    """The error in one line for the user, without the secrets of a server's address."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, LookupError | TypeError | AttributeError):  # MLflow's own, about an answer that it cannot read
        text = f"MLflow failed ({type(error).__name__}: {text})"
    known = (words for pattern, words in REASONS if re.search(pattern, text))
    first = without_secrets(next(known, text.splitlines()[0]))
    return first if len(first) <= LONGEST_REASON else first[:LONGEST_REASON] + "…"
