"""Shards from a web server on loopback, from folders, from memory: whole, shared, interrupted, wrong, out of reach."""

import contextlib
import errno
import fcntl
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
import torch

from scm.data import remote
from scm.data.loader import LatentLoader
from scm.data.remote import fetch_index, fetch_missing
from scm.data.shards import write_latents, write_shards
from scm.errors import UserError

COUNT, OF_SHARD, SHARDS = 230, 20, 12
QUICK = (0.0, 0.0, 0.0)
HEADER = {"classes": list("abcde"), "codec": {"name": "identity"}}


def make_latents(folder: Path, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    samples = ((f"{n:06d}", rng.standard_normal((2, 16, 16)).astype(np.float16), n % 5) for n in range(COUNT))
    write_latents(samples, folder, OF_SHARD, HEADER)
    return folder


@pytest.fixture(scope="module")
def origin(tmp_path_factory) -> Path:
    return make_latents(tmp_path_factory.mktemp("origin") / "latents")


@pytest.fixture
def empty(tmp_path) -> Path:
    return tmp_path / "data/latents"


@contextlib.contextmanager
def serving(folder: Path, slowness: float = 0.0) -> Iterator[SimpleNamespace]:
    """A web server over the folder.

    Yields its address; `asked`: requests by file; `refusals`: status codes to answer with first, by file; `altered`:
    what it says in place of a file's content; `cut`: files after half of which it hangs up.
    """
    state = SimpleNamespace(asked=Counter(), refusals={}, altered={}, cut=set())

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            state.asked[name] += 1
            if state.refusals.get(name):
                return self.send_error(state.refusals[name].pop(0))
            path = folder / name
            if not path.is_file():
                return self.send_error(404)
            content = state.altered.get(name) or path.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            for start in range(0, len(content), 4096):
                if name in state.cut and start > len(content) // 2:
                    state.cut.discard(name)
                    return self.close_connection_now()
                time.sleep(slowness)
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(content[start : start + 4096])
            return None

        def close_connection_now(self) -> None:
            self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # clients that are killed
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_port}/some/latents"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def web(origin) -> Iterator[SimpleNamespace]:
    with serving(origin) as server:
        yield server


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fetch(folder: Path, address: str, said: list[str] | None = None, **options) -> None:
    fetch_missing(folder, address, ([] if said is None else said).append, **{"pauses": QUICK, **options})


def refusal(folder: Path, address: str, **options) -> str:
    with pytest.raises(UserError) as caught:
        fetch(folder, address, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_a_web_server_gave_is_byte_for_byte_the_folder_that_it_holds(origin, empty, web):
    fetch(empty, web.address)
    assert contents(empty) == contents(origin) and len(contents(origin)) == SHARDS + 3
    assert web.asked == {"index.json": 1, **{f"{number:06d}.tar": 1 for number in range(SHARDS)}}


def test_batches_at_any_position_are_those_of_local_shards(origin, empty, web):
    fetch(empty, f"{web.address}/")
    here, there = (LatentLoader(folder, seed=3, batch=24, rank=1, world=2) for folder in (origin, empty))
    for seen in (0, 24, 5 * 24, 1000 * 24):
        for mine, theirs in zip(here.batch_at(seen), there.batch_at(seen), strict=True):
            assert torch.equal(mine, theirs)


def test_only_what_is_missing_or_of_the_wrong_size_is_fetched(origin, empty, web):
    shutil.copytree(origin, empty)
    (empty / "000003.tar").unlink()
    (empty / "000007.tar").write_bytes((origin / "000007.tar").read_bytes()[:-1])
    (empty / "labels.npy").unlink()
    fetch(empty, web.address)
    assert contents(empty) == contents(origin)
    assert web.asked == {"000003.tar": 1, "000007.tar": 1}
    fetch(empty, "http://nowhere.invalid/x")  # not asked: nothing is missing
    assert web.asked.total() == 2


def test_what_other_data_have_left_is_taken_out(origin, empty, web, tmp_path):
    """Of the same shapes, so that no size tells them apart: shards, labels and offsets go with their index."""
    other = make_latents(tmp_path / "other", seed=1)
    for gone in ("index.json", "0*.tar"):
        shutil.rmtree(empty, ignore_errors=True)
        shutil.copytree(other, empty)
        for path in [empty / "index.json", *empty.glob(gone)]:
            path.unlink(missing_ok=True)
        (empty / "labels.npy").write_bytes(bytes(reversed((origin / "labels.npy").read_bytes())))
        fetch(empty, web.address)
        assert contents(empty) == contents(origin)


def test_progress_is_said_about_every_tenth_with_rate_and_time_left(empty, web, origin):
    said: list[str] = []
    fetch(empty, web.address, said, threads=1)
    size = sum(path.stat().st_size for path in origin.glob("*.tar")) / 2**20
    assert said[0] == f"fetching 12 of 12 shards, {size:.1f} MiB, from {web.address}"
    assert said[-1] == "making labels.npy and offsets.npy from 12 shards"
    progress = said[1:-1]
    assert 8 <= len(progress) <= 12
    shares = [int(line.split("%")[0]) for line in progress]
    assert shares == sorted(shares) and shares[-1] == 100
    assert progress[-1].startswith(f"100%  {size:.1f} MiB of {size:.1f} MiB  ")
    assert progress[-1].endswith(" MiB/s  ETA 0:00")


FETCH = """
import signal
import sys
from pathlib import Path
from scm.data.remote import fetch_missing
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs are started without
print("ready", flush=True)
input()
fetch_missing(Path(sys.argv[1]), sys.argv[2], lambda text: print(text, flush=True), threads=2, pauses=(0.1,) * 3)
"""


def start(folder: Path, address: str, processes: int = 1) -> list[subprocess.Popen[str]]:
    """Processes that fetch, begun at the same time."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", FETCH, str(folder), address]
    started = [subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=pipe) for _ in range(processes)]
    for process in started:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    return started


def test_two_processes_share_the_work_and_fetch_nothing_twice(origin, empty):
    with serving(origin, slowness=0.004) as web:
        for process in start(empty, web.address, processes=2):
            output, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
            assert "100%" in output
        assert contents(empty) == contents(origin)
        assert web.asked == {"index.json": 1, **{f"{number:06d}.tar": 1 for number in range(SHARDS)}}


def test_after_kill_9_finished_shards_stay_and_the_rest_is_fetched(origin, empty):
    with serving(origin, slowness=0.01) as web:
        (process,) = start(empty, web.address)
        while len(list(empty.glob("*.tar"))) < 3:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        finished = {path.name: path.stat().st_ino for path in empty.glob("*.tar")}
        assert 3 <= len(finished) < SHARDS
        assert list(empty.glob(".*.tmp")), "killed in the middle of a shard"
        web.asked.clear()
        fetch(empty, web.address)
        assert contents(empty) == contents(origin)
        assert {name: (empty / name).stat().st_ino for name in finished} == finished
        assert set(web.asked) == {f"{number:06d}.tar" for number in range(SHARDS)} - finished.keys()


def test_ctrl_c_ends_all_threads_and_leaves_finished_shards_alone(origin, empty):
    with serving(origin, slowness=0.01) as web:
        (process,) = start(empty, web.address)
        while len(list(empty.glob("*.tar"))) < 2:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate(timeout=30)[1]
    finished = contents(empty)
    assert 3 <= len(finished) < SHARDS + 1, "the index and some shards"
    assert finished.items() <= contents(origin).items()


def test_a_shard_that_another_process_holds_is_waited_for(origin, empty, web):
    empty.mkdir(parents=True)
    said: list[str] = []
    with (empty / ".000005.tar.tmp").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread = threading.Thread(target=fetch, args=(empty, web.address, said))
        thread.start()
        while len(list(empty.glob("*.tar"))) < SHARDS - 1:
            time.sleep(0.01)
        assert thread.is_alive() and web.asked["000005.tar"] == 0
    thread.join(timeout=30)
    assert contents(empty) == contents(origin) and web.asked["000005.tar"] == 1


def test_wrong_bytes_are_refused_by_address_and_leave_nothing(origin, empty, web):
    content = bytearray((origin / "000004.tar").read_bytes())
    content[700] ^= 1
    web.altered["000004.tar"] = bytes(content)
    assert refusal(empty, web.address) == (
        f"{web.address}/000004.tar is not what the index says (its SHA-256 differs): copy data/latents there again, "
        f"or delete {empty} if its index.json is out of date"
    )
    assert not (empty / "000004.tar").exists() and not list(empty.glob(".*"))
    web.altered["000004.tar"] = bytes(content) + b"more"
    assert "000004.tar is not what the index says" in refusal(empty, web.address)
    web.altered.clear()
    fetch(empty, web.address)
    assert contents(empty) == contents(origin)


def test_a_shard_that_is_truncated_over_there_is_refused_in_the_end(origin, empty, web):
    whole = (origin / "000000.tar").read_bytes()
    web.altered["000000.tar"] = whole[:1000]
    assert refusal(empty, web.address) == (
        f"{web.address}/000000.tar cannot be read (it has 1,000 bytes instead of {len(whole):,}; tried 4 times): "
        f"copy data/latents there again, or delete {empty} if its index.json is out of date"
    )
    assert not (empty / "000000.tar").exists() and not list(empty.glob(".*"))


def test_what_fails_in_passing_is_tried_again(origin, empty, web):
    web.refusals = {"index.json": [503], "000002.tar": [503, 503], "000003.tar": [429]}
    web.cut.add("000006.tar")
    said: list[str] = []
    fetch(empty, web.address, said, threads=1)
    assert contents(empty) == contents(origin)
    assert web.asked["000002.tar"] == 3 and web.asked["000003.tar"] == web.asked["000006.tar"] == 2
    again = [line for line in said if "again in 0 s" in line]
    assert [line.split(" ")[0].rpartition("/")[2] for line in again] == [
        "index.json", *["000002.tar"] * 2, "000003.tar", "000006.tar",
    ]  # fmt: skip
    assert "503" in again[1] and said[-2].startswith("100%")


def test_pauses_grow_and_end(empty, web, monkeypatch):
    web.refusals = {"index.json": [500] * 9}
    paused: list[float | None] = []
    event = SimpleNamespace(wait=paused.append)
    monkeypatch.setattr(remote, "threading", SimpleNamespace(Event=lambda: event))
    with pytest.raises(UserError, match=r"index.json cannot be read \(500.+; tried 6 times\): check runtime.shards"):
        fetch_index(empty, web.address, lambda text: None)
    assert paused == [1, 2, 4, 8, 16]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (404, "(not found): runtime.shards must name a copy of data/latents"),
        (403, "check runtime.shards and your credentials for it (docs/data.md)"),
        (410, "check runtime.shards and the network, then run the same command to go on"),
    ],
)
def test_refusals_that_last_are_not_tried_again(empty, web, status, text):
    web.refusals = {"000001.tar": [status] * 9}
    message = refusal(empty, web.address)
    assert message.startswith(f"{web.address}/000001.tar cannot be read (") and message.endswith(text)
    assert web.asked["000001.tar"] == 1


def test_a_server_that_is_down_is_named_with_the_remedy(empty):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        message = refusal(empty, address)
    assert message.startswith(f"{address}/index.json cannot be read (Cannot connect to host 127.0.0.1")
    assert message.endswith(
        "; tried 4 times): check runtime.shards and the network, then run the same command to go on"
    )


def test_the_first_failure_ends_the_other_threads(origin, empty):
    with serving(origin, slowness=0.05) as web:
        web.refusals = {"000001.tar": [404]}
        began = time.monotonic()
        refusal(empty, web.address, threads=3)
        assert time.monotonic() - began < 5 and sum(web.asked.values()) < SHARDS
    assert not list(empty.glob(".*"))


def test_folders_and_other_file_systems(origin, tmp_path):
    fetch(tmp_path / "a", str(origin))
    fetch(tmp_path / "b", f"file://{origin}")
    memory = fsspec.filesystem("memory")
    for name, content in contents(origin).items():
        memory.pipe_file(f"/bucket/latents/{name}", content)
    fetch(tmp_path / "c", "memory://bucket/latents")
    for name in "abc":
        assert contents(tmp_path / name) == contents(origin)
    message = refusal(tmp_path / "d", str(tmp_path / "nothing"))
    assert message.startswith(f"{tmp_path}/nothing/index.json cannot be read (not found): runtime.shards must name")


@pytest.mark.parametrize(("protocol", "package", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gs")])
def test_a_missing_package_is_named_with_its_command(empty, monkeypatch, protocol, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    message = refusal(empty, f"{protocol}://bucket/latents")
    assert message.startswith(
        f"runtime.shards = {protocol}://bucket/latents: the package that reads {protocol}:// is missing"
    )
    assert message.endswith(f": run `pip install -e '.[{extra}]'`")


def test_an_unknown_protocol_is_refused(empty):
    assert refusal(empty, "s4://bucket") == (
        "runtime.shards = s4://bucket: Protocol not known: s4: use a folder, http(s)://, s3:// or gs://"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index["shards"][0].update(file="../000000.tar"),
        lambda index: index["shards"][0].update(file=".index.json"),
        lambda index: index["shards"][0].update(sha256="0"),
        lambda index: index.pop("shards"),
        lambda index: index.update(kind="images"),
    ],
)
def test_an_index_that_is_none_is_refused(origin, empty, web, change):
    index = json.loads((origin / "index.json").read_text())
    change(index)
    web.altered["index.json"] = json.dumps(index).encode()
    assert refusal(empty, web.address) == (
        f"{web.address}/index.json is no index of latents: runtime.shards must name a copy of data/latents"
    )
    assert not list(empty.iterdir())


def test_image_shards_and_web_pages_are_no_latents(tmp_path, web):
    images = [("a", np.zeros((2, 2, 1), np.uint8), 0)]
    write_shards(images, tmp_path / "images", 1, classes=["x"], channels=1, resolution=2, skipped=[])
    assert "is no index of latents" in refusal(tmp_path / "l", str(tmp_path / "images"))
    web.altered["index.json"] = b"<html>"
    assert "is no index of latents" in refusal(tmp_path / "l", web.address)


def test_another_index_over_there_is_noticed_by_its_shards(origin, tmp_path, empty):
    other = make_latents(tmp_path / "other", seed=1)
    empty.mkdir(parents=True)
    shutil.copy(origin / "index.json", empty)
    assert "000000.tar is not what the index says" in refusal(empty, str(other), threads=1)
    assert [path.name for path in empty.iterdir()] == ["index.json"]


def test_too_little_room_is_said_before_anything_is_fetched(empty, web, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**17))
    message = refusal(empty, web.address)
    assert message.startswith(
        f"{empty}: the shards that are missing take 0.8 MiB, but only 0.1 MiB are free: make room"
    )
    assert set(web.asked) == {"index.json"}


def test_a_disk_that_fills_up_is_named(empty, web, monkeypatch):
    fetch_index(empty, web.address, print)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert refusal(empty, web.address) == (
        f"{empty} cannot be written (No space left on device): make room, then run the same command to go on"
    )
    assert [path.name for path in empty.iterdir()] == ["index.json"]


def test_damaged_local_shards_are_named_when_labels_are_made_of_them(origin, empty):
    shutil.copytree(origin, empty)
    (empty / "labels.npy").unlink()
    shard = empty / "000002.tar"
    shard.write_bytes(bytes(shard.stat().st_size))
    assert refusal(empty, str(origin)) == (
        f"{shard} has 0 samples instead of {OF_SHARD}: delete it, then run the same command to go on"
    )
