"""Real services on loopback, each with files of its own: PostgreSQL, and MLflow's server with it behind."""

import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

from scm.params.project import TrackingSettings
from scm.tracking import store
from tests.support.models import small_disk

HOST = "127.0.0.1"
START = 120.0
"""Seconds that a service may take to start on a busy machine."""
REMEDY = "PostgreSQL is not installed: apt-get install postgresql (.ci/run does)"


@pytest.fixture(autouse=True)
def nobodys_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No MLFLOW_* variables of the user, no warning given yet, and no proxy before loopback."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW", "DVC_", "GIT_", "SCM_WORK"))]:
        monkeypatch.delenv(name)
    for name in [*store.DEFAULTS, "MLFLOW_TRACKING_URI"]:  # what mlflow sets meanwhile goes afterwards
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("no_proxy", HOST)
    store.warned.clear()
    logger = logging.getLogger("mlflow")  # as with MLFLOW_LOGGING_LEVEL, which counts before the import alone
    level = logger.level
    logger.setLevel(logging.WARNING)
    yield
    logger.setLevel(level)


def free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return free.getsockname()[1]


def wait_for(what: str, ready: Callable[[], bool], seconds: float = START) -> None:
    """Asks until it is so."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.05)


@dataclass(frozen=True)
class Postgres:
    """A cluster of its own."""

    programs: Path
    port: int

    def new_database(self) -> str:
        """Makes an empty one; its address, as MLflow takes it."""
        name = f"mlflow_{secrets.token_hex(4)}"
        command = [self.programs / "createdb", "-h", HOST, "-p", str(self.port), "-U", "scm", name]
        subprocess.run(command, check=True, capture_output=True)
        return f"postgresql+psycopg2://scm@{HOST}:{self.port}/{name}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """PostgreSQL on a free port, as another user where we are root, since it refuses to run as root."""
    programs = _programs()
    if programs is None:
        if os.environ.get("SCM_SERVICES") == "required":
            pytest.fail(REMEDY)
        pytest.skip(REMEDY)
    user = None if os.geteuid() else _user()
    with tempfile.TemporaryDirectory(prefix="scm-postgres-") as temporary:
        folder, cluster = Path(temporary), Postgres(programs, free_port())
        folder.chmod(0o755)
        (folder / "data").mkdir()
        if user is not None:
            shutil.chown(folder / "data", user)
        options = {"user": user, "cwd": folder, "extra_groups": None if user is None else []}
        initdb = [programs / "initdb", "-D", folder / "data", "-U", "scm", "-A", "trust", "-E", "UTF8", "--no-sync"]
        done = subprocess.run(initdb, capture_output=True, text=True, **options)
        assert done.returncode == 0, done.stderr
        settings = {"listen_addresses": HOST, "port": cluster.port, "unix_socket_directories": "", "fsync": "off"}
        command = [
            programs / "postgres",
            "-D",
            folder / "data",
            *(f"--{key}={value}" for key, value in settings.items()),
        ]
        with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log, **options) as process:
            try:
                wait_for("PostgreSQL", lambda: _answers(cluster, process, folder / "log"))
                yield cluster
            finally:
                process.send_signal(signal.SIGQUIT)  # at once; nobody needs the files afterwards
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()


def _programs() -> Path | None:
    """The newest installed version's, which Debian keeps outside PATH."""
    found = shutil.which("initdb")
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return Path(found).resolve().parent if found else places[-1].parent if places else None


def _user() -> str:
    import pwd

    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _answers(cluster: Postgres, process: subprocess.Popen, log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    command = [cluster.programs / "pg_isready", "-q", "-h", HOST, "-p", str(cluster.port)]
    return subprocess.run(command, check=False).returncode == 0


@dataclass
class Server:
    """MLflow's server, which can be killed and started again at the same address."""

    database: str
    artifacts: Path
    log: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen | None = None

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        command = [
            Path(sys.executable).with_name("mlflow"), "server", "--backend-store-uri", self.database,
            "--artifacts-destination", self.artifacts, "--host", HOST, "--port", str(self.port), "--workers", "1",
        ]  # fmt: skip
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        wait_for("MLflow's server", self._answers)

    def kill(self) -> None:
        """With -9, and all that it has started."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log.read_text()
        try:
            return requests.get(f"{self.address}/health", timeout=5).ok
        except requests.ConnectionError:
            return False

    def settings(self, root: Path) -> TrackingSettings:
        return TrackingSettings(True, self.address, None, root)


@pytest.fixture(scope="module")
def server(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose database was empty when it started."""
    yield from _served(postgres, tmp_path_factory.mktemp("server"))


@dataclass(frozen=True)
class Disk:
    """A small file system."""

    folder: Path

    @contextmanager
    def full(self, spare: int = 0) -> Iterator[None]:
        """Leaves `spare` bytes free."""
        filler, room = self.folder / "filler", self.folder / "room"
        room.write_bytes(bytes(spare))
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        room.unlink()
        try:
            yield
        finally:
            filler.unlink()

    def nearly_full(self) -> AbstractContextManager[None]:
        """Room for a run's files, and none for a model."""
        return self.full(200 * 1024)

    @contextmanager
    def read_only(self) -> Iterator[None]:
        self._mount("remount,ro")
        try:
            yield
        finally:
            self._mount("remount,rw")

    def _mount(self, options: str) -> None:
        subprocess.run(["mount", "-o", options, self.folder], check=True, capture_output=True)


@pytest.fixture(scope="module")
def disk() -> Iterator[Disk]:
    with small_disk("4m") as folder:
        yield Disk(folder)


@pytest.fixture(scope="module")
def server_on_disk(disk: Disk, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that keeps its artifacts there."""
    yield from _served(postgres, tmp_path_factory.mktemp("server"), disk.folder / "artifacts")


def _served(postgres: Postgres, folder: Path, artifacts: Path | None = None) -> Iterator[Server]:
    started = Server(postgres.new_database(), artifacts or folder / "artifacts", folder / "log")
    try:
        started.start()
        yield started
    finally:
        started.kill()
