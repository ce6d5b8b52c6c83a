"""`scm serve` as a process of its own, and the same HTTP around a product that draws when a test says so."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scm.params.project import Project
from scm.product import web
from scm.product.hosts import hosts_of
from scm.product.model import Dropped
from tests.support import projects as shipped
from tests.support.fake_results import write_fake_results
from tests.support.models import save_model

ROOT = Path(__file__).parents[2]
START = 120.0
"""Seconds that a server may take to start, with torch and mlflow to import."""
PAGE = "<!doctype html><style>b{}</style><script>0</script>"
JSON = "application/json"
GOOD = {"class": "one", "seed": 3}


@dataclass(frozen=True)
class Server:
    url: str
    process: subprocess.Popen

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def end(self, number: int = signal.SIGTERM, seconds: float = 60.0) -> int:
        """Sends a signal and returns the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(seconds)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def make_product(root: Path) -> Project:
    """A project with small random models and made-up results."""
    root.mkdir()
    shipped.make_project(root)
    save_model(root, "teacher", label_dropout=0.1)
    save_model(root, "scd", seed=1, t_mid=0.8)
    return Project.open(write_fake_results(root))


def start(*arguments: str, folder: Path, program: tuple[str, ...] = ("-m", "scm.cli")) -> Server:
    """`scm serve` as a process of its own, on a free port, ready to answer; its errors go into `folder`/serve.log."""
    command = [sys.executable, *program, "serve", *arguments, "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    log = (folder / "serve.log").open("w")
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    log.close()
    assert process.stdout is not None
    began, line = time.monotonic(), process.stdout.readline()
    assert " on http://" in line and time.monotonic() - began < START, (folder / "serve.log").read_text()
    return Server(line.split(" on ")[1].split(" ")[0].rstrip("/"), process)


@dataclass
class Answer:
    """An answer as it came; code 0 = the connection was closed without one."""

    code: int
    headers: dict[str, str]
    text: str

    @property
    def message(self) -> str:
        return json.loads(self.text)["message"]


def request(
    method: str = "POST", path: str = "/invocations", body: bytes | dict[str, Any] | None = None, **headers: str | None
) -> bytes:
    """The bytes of a request; a header that is None is left out, and `_` in its name stands for `-`."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    own = {"host": "127.0.0.1", "content-type": JSON if method == "POST" else None, "content-length": str(len(data))}
    given = {**own, **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items() if value is not None)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + data


def connected(port: int, seconds: float = 60.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), seconds)


def read_answer(connection: socket.socket) -> Answer:
    """Reads one answer, by its content-length; what the server broke off counts as none."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while b"\r\n\r\n" not in data and (part := connection.recv(2**16)):
            data += part
        head, _, text = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers.get("content-length", 0))
        while len(text) < length and (part := connection.recv(2**16)):
            text += part
        if first:
            return Answer(int(first.split()[1]), headers, text[:length].decode())
    return Answer(0, {}, "")


def exchange(port: int, *sent: bytes, seconds: float = 60.0) -> Answer:
    """Sends bytes on a connection of their own and reads one answer."""
    with connected(port, seconds) as connection:
        with contextlib.suppress(ConnectionError):
            for each in sent:
                connection.sendall(each)
        return read_answer(connection)


@dataclass
class Patient:
    """A product whose drawings wait until the test lets them go, and stop when they are not wanted."""

    max_rows: int = 8
    png: str = "png"
    going: threading.Event = field(default_factory=threading.Event)
    begun: list[Any] = field(default_factory=list)
    drawn: list[Any] = field(default_factory=list)
    dropped: list[Any] = field(default_factory=list)

    def wishes(self, rows: list[dict[str, Any]]) -> list[Any]:
        return [row["seed"] for row in rows]

    def draw(self, wishes: list[Any], wanted: Callable[[], bool]) -> list[dict[str, Any]]:
        self.begun += wishes
        while not self.going.wait(0.005):
            if not wanted():
                self.dropped += wishes
                raise Dropped
        self.drawn += wishes
        return [{"png": self.png, "seed": seed} for seed in wishes]


@contextlib.contextmanager
def served(product: Any, seconds: float = 30.0, allowed: tuple[str, ...] = ()) -> Iterator[int]:
    """A server around such a product, in a thread; yields its port."""
    application = web.application(web.Invocations(product, seconds), PAGE, {}, "# Card", hosts_of("0.0.0.0", allowed))
    server = web.server(application, web.security_headers(PAGE))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(60)


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Waits until a condition is true."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.005)
