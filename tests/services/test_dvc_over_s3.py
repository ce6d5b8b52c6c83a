"""A DVC remote on S3 (moto's server on loopback) takes what one checkout has made to another."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import plan_projects as projects

pytest.importorskip("dvc_s3", reason="the extra dev is not installed as a whole")
pytest.importorskip("moto", reason="the extra dev is not installed as a whole")
pytestmark = [pytest.mark.slow, pytest.mark.long]
ROOT = Path(__file__).parents[2]
BUCKET = "team"


class Store:
    """An object store that can go away, after so many objects have been asked for, and come back with all it has."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        self._app, self._lock = DomainDispatcherApplication(create_backend_app), threading.Lock()
        self._left: int | None = None
        self._closing: threading.Thread | None = None
        self._port = 0
        self.serve()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def serve(self) -> None:
        from moto.moto_server.werkzeug_app import MotoRequestHandler
        from werkzeug.serving import make_server

        if self._closing is not None:
            self._closing.join()
        self._left = self._closing = None
        self._server = make_server("127.0.0.1", self._port, self._answer, True, request_handler=MotoRequestHandler)
        self._server.daemon_threads = True  # of connections that are kept open; closing does not wait for them
        self._port = self._server.port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def go_away_after(self, objects: int) -> None:
        self._left = objects

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Any:
        if "/files/md5/" in environ["PATH_INFO"] and environ["REQUEST_METHOD"] in ("GET", "PUT"):
            with self._lock:
                if self._left is not None:
                    self._left -= 1
                    if self._left == -1:
                        self._closing = threading.Thread(target=self.stop)
                        self._closing.start()
                if self._left is not None and self._left < 0:
                    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
                    raise ConnectionAbortedError
        return self._app(environ, start_response)


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    import boto3

    with pytest.MonkeyPatch.context() as patch:
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in {**keys, "no_proxy": "127.0.0.1", "AWS_MAX_ATTEMPTS": "1"}.items():
            patch.setenv(name, value)
        served = Store()
        boto3.client("s3", endpoint_url=served.address).create_bucket(Bucket=BUCKET)
        yield served
        served.stop()


@pytest.fixture(scope="module")
def origin(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has run, its images and outputs in the store."""
    folder = projects.make(tmp_path_factory.mktemp("origin"))
    (folder / "data/raw/.gitignore").unlink()
    projects.git(folder, "rm", "-q", "--cached", "data/raw/.gitignore")
    projects.dvc(folder, "add", "--quiet", "data/raw")
    projects.dvc(folder, "repro", "--quiet")
    projects.dvc(folder, "remote", "add", "-d", "team", f"s3://{BUCKET}/dvc")
    projects.dvc(folder, "remote", "modify", "team", "endpointurl", store.address)
    projects.git(folder, "add", ".")
    projects.git(folder, "commit", "-qm", "ran")
    return folder


def scm(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "scm.cli", *arguments]
    environment = {**projects.environment(), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def outputs(folder: Path) -> dict[str, bytes]:
    """All images, outputs and figures."""
    paths = [path for top in ("data", "models", "results") for path in (folder / top).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_what_one_checkout_made_another_gets_through_a_store_that_goes_away_meanwhile(
    store: Store, origin: Path, tmp_path: Path
) -> None:
    push = (sys.executable, "-m", "dvc", "push", "--run-cache")
    store.go_away_after(5)
    done = projects.start(origin, *push)
    assert done.returncode and "ERROR: " in done.stderr
    store.serve()
    done = projects.start(origin, *push)
    assert done.returncode == 0, done.stderr
    clone = tmp_path / "clone"
    projects.git(origin, "clone", "-q", str(origin), str(clone))
    done = scm(clone, "plan", "--check")
    assert done.returncode == 0 and done.stdout.endswith("\nno stage of 11 runs\n"), done
    store.go_away_after(8)
    done = scm(clone, "run", "--pull")
    assert done.returncode and "Running stage" not in done.stdout
    *before, last = done.stderr.split("\n\n")[0].splitlines()
    assert last.startswith("ERROR: failed to reproduce 'prepare': ") and len(before) <= 2, done.stderr
    assert f'Could not connect to the endpoint URL: "{store.address}/{BUCKET}/dvc/' in done.stderr
    store.serve()
    done = scm(clone, "run", "--pull")
    assert done.returncode == 0 and "Running stage" not in done.stdout, done
    assert outputs(clone) == outputs(origin) and len(outputs(clone)) > 20
    assert projects.git(clone, "status", "--porcelain") == "", "dvc.lock is as it was"
