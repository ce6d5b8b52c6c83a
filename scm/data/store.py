"""Files at an address, by fsspec: a folder, a web server, an object store; what fails in passing is tried again."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import fsspec

from scm.errors import UserError

T = TypeVar("T")

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before the second attempt, the third, ..., after which it is given up."""
CHUNK = 8 * 2**20
"""Bytes read at a time: one request to an object store; of a web server what has arrived."""
BUFFER = 4 * 2**20
"""Bytes of a web server's answer that wait to be read before it has to pause."""
CONNECT, SILENCE = 30.0, 60.0
"""Seconds after which a web server counts as out of reach, and as fallen silent."""
PACKAGES = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
"""Protocols whose package is one of this project's extras."""
PASSING = (408, 425, 429)
"""Refusals by a web server (4xx) that are worth another attempt."""


class Source:
    """A folder somewhere.

    Attributes:
        address: as the user wrote it, without a slash at the end.

    Raises:
        UserError: nothing here reads addresses of this kind.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        protocol = address.partition("://")[0] if "://" in address else "file"
        self._web = protocol in ("http", "https")
        options: dict[str, Any] = {}
        if self._web:
            import aiohttp

            limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENCE)
            # trust_env: through the environment's proxies. The buffer is aiohttp's: with its 64 KiB the threads that
            # read would be woken a hundred times as often.
            options["client_kwargs"] = {"timeout": limits, "trust_env": True, "read_bufsize": BUFFER}
        try:
            self._files, self._root = fsspec.url_to_fs(self.address, **options)
        except ImportError as error:
            extra = PACKAGES.get(protocol)
            command = f"run `pip install -e '.[{extra}]'`" if extra else "install that package"
            problem = f"the package that reads {protocol}:// is missing ({error})"
            raise UserError(f"runtime.shards = {address}: {problem}: {command}") from None
        except ValueError as error:
            remedy = "use a folder, http(s)://, s3:// or gs://"
            raise UserError(f"runtime.shards = {address}: {reason_of(error)}: {remedy}") from None

    def place(self, name: str) -> str:
        """The address of one file, for messages."""
        return f"{self.address}/{name}"

    def content(self, name: str) -> bytes:
        """A small file as a whole."""
        with _noting_failures():
            return self._files.cat_file(f"{self._root.rstrip('/')}/{name}")

    def chunks(self, name: str, size: int) -> Iterator[bytes]:
        """A file in parts.

        Args:
            size: bytes that it should have.
        """
        # A web server is asked once, and not for the size before; an object store is asked for each chunk.
        options = {"block_size": 0, "size": size} if self._web else {"block_size": CHUNK, "cache_type": "none"}
        with _noting_failures(), self._files.open(f"{self._root.rstrip('/')}/{name}", "rb", **options) as stream:
            while chunk := stream.read(CHUNK):
                yield chunk


class Failed(Exception):
    """Something could not be read.

    Attributes:
        lasting: another attempt would be in vain.
        remedy: what the user can do.
    """

    def __init__(self, reason: str, lasting: bool, remedy: str) -> None:
        super().__init__(reason)
        self.lasting, self.remedy = lasting, remedy


class Stopped(Exception):
    """Another thread has failed, or the user has interrupted."""


@contextmanager
def _noting_failures() -> Iterator[None]:
    """Whatever goes wrong in reading, as Failed: file systems raise what their own packages do."""
    try:
        yield
    except Exception as error:
        status = getattr(error, "status", None)
        refused = isinstance(status, int) and 400 <= status < 500 and status not in PASSING
        if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            raise Failed("not found", True, "runtime.shards must name a copy of data/latents") from error
        remedy = "check runtime.shards and the network, then run the same command to go on"
        if isinstance(error, PermissionError) or status in (401, 403) or "credentials" in str(error).lower():
            refused, remedy = True, "check runtime.shards and your credentials for it (docs/data.md)"
        raise Failed(reason_of(error), refused, remedy) from error


def again(
    attempt: Callable[[], T], place: str, say: Callable[[str], None], pauses: Sequence[float], stop: threading.Event
) -> T:
    """What `attempt` returns; where it raises Failed it is tried again after each pause.

    Args:
        place: what is read, for messages.
        say: prints a line.
        pauses: seconds.
        stop: ends a pause.

    Raises:
        UserError: it fails for good.
        Stopped: `stop` was set in a pause.
    """
    for number, pause in enumerate((*pauses, None), start=1):
        try:
            return attempt()
        except Failed as error:
            if error.lasting or pause is None:
                tries = f"; tried {number} times" if number > 1 else ""
                raise UserError(f"{place} cannot be read ({error}{tries}): {error.remedy}") from error
            say(f"{place} cannot be read ({error}); again in {pause:g} s")
            if stop.wait(pause):
                raise Stopped from None
    raise AssertionError("unreachable")


def reason_of(error: BaseException) -> str:
    """What an exception says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
