"""MLflow's store: opened carefully, with short waits, and with its faults in one line."""

import fcntl
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from scm.errors import Interrupted, UserError
from scm.tracking.records import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
from scm.tracking import store as store_module

PATIENCE = 30.0
"""Seconds that a stage waits for MLflow at its end."""

BROKEN_OFF = ("too many 500 error responses", "Connection aborted", "Connection reset", "Broken pipe")
"""Of a server that refuses a file, which it may do before it has read it."""

_defaults = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def fault_of(work: Callable[[], object], patience: float) -> str | None:
    """Does something with MLflow in a thread of its own; what went wrong, None if nothing did.

    Args:
        patience: seconds after which the caller goes on, whatever the server does.
    """
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


def quieten() -> None:
    """For before mlflow is imported: short waits, no chatter, unless the user's own variables say otherwise."""
    for name, value in _defaults.items():
        os.environ.setdefault(name, value)
    # MLflow 3.17 maps its tables with a loader that SQLAlchemy 2.1 deprecates; nothing that we could do differently.
    warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated")
    warnings.filterwarnings("ignore", message=".*type hint .*is inferred as AnyType")  # about hints of MLflow's own


def connect(settings: Settings) -> "MlflowClient":
    """Opens the store and makes one request, so that a dead server shows at once. Raises what mlflow raises."""
    quieten()
    from mlflow import MlflowClient

    with _sole_opener(settings.store):
        client = MlflowClient(tracking_uri=settings.store)
        client.search_experiments(max_results=1)
    return client


def reason(error: Exception) -> str:
    """One line for the user, without the passwords that a server's address may hold."""
    text = str(error) or type(error).__name__
    if "Failed to establish a new connection" in text or "NameResolutionError" in text:
        text = "the tracking server does not answer"
    elif any(fault in text for fault in BROKEN_OFF):
        text = "the tracking server fails or breaks off, its log says why: is its disk full or read-only?"
    first = without_password(text.strip().splitlines()[0])
    return first if len(first) <= 200 else first[:200] + "…"


def without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]+@", "//", text)


@contextmanager
def _sole_opener(store: str) -> Iterator[None]:
    """Holds the lock beside an SQLite file; a server needs none."""
    if not store.startswith("sqlite:///"):
        yield
        return
    database = Path(store.removeprefix("sqlite:///").partition("?")[0])
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(database.name + ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


Result = TypeVar("Result")


def is_new(settings: Settings) -> bool:
    """Whether the store is a file that does not exist yet, which a mere question must not make."""
    store = settings.store
    return store.startswith("sqlite:///") and not Path(store.removeprefix("sqlite:///").partition("?")[0]).exists()


def answered(settings: Settings, command: str, work: Callable[[], Result]) -> Result:
    """Does what needs the registry; a fault of MLflow, its database driver or the network becomes one line."""
    try:
        return work()
    except (UserError, Interrupted):
        raise
    except Exception as error:  # each of the three raises its own
        address = store_module.without_password(settings.store)
        raise UserError(f"mlflow: {store_module.reason(error)} ({address}): run `{command}` again later") from None
