"""`scm serve` under random requests: good, wrong, hostile and cut off, several at once, with its memory measured."""

import collections
import functools
import gzip
import io
import json
import random
import re
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas
import pytest

from scm.product.packaging import package
from scm.product.web import LONGEST_MESSAGE
from tests.support.serving import GOOD, Server, connected, exchange, make_product, read_answer, request, start

SEED = 2026
AT_ONCE = 8
"""Requests on the way at any time."""
GROWTH = 64
"""Most MiB that the server's memory may grow by."""
GONE, CLOSED = "left", "closed"
Made = tuple[bytes, set[int | str]]
Kind = Callable[[random.Random], Made]
"""Makes a request's bytes, with the answers that it may get: codes, GONE = the client does not wait for one, CLOSED."""
KINDS: dict[str, Kind] = {}


def kind(made: Kind) -> Kind:
    KINDS[made.__name__.replace("_", " ")] = made
    return made


def good_row(rng: random.Random) -> dict[str, Any]:
    return {"class": rng.choice(["zero", "one", 2]), "seed": rng.randrange(2**40), "steps": rng.choice([1, 2, 3, 9])}


def rows_with(text: str) -> bytes:
    return b'{"inputs": [{"class": "one", "seed": ' + text.encode() + b"}]}"


@kind
def good(rng: random.Random) -> Made:
    rows = [good_row(rng) for _ in range(rng.randint(1, 8))]
    split = {"columns": list(GOOD), "data": [[row["class"], row["seed"]] for row in rows]}
    bodies = [{"dataframe_records": rows}, {"dataframe_split": split}, {"inputs": rows}, {"instances": rows}]
    return request(body=rng.choice(bodies)), {200}


@kind
def wrong_values(rng: random.Random) -> Made:
    value = rng.choice([-1, 2**63, 1.5, "x", True, [], {}, "9" * 5000, "\x1b[31m", 1e300])
    row = {**GOOD, rng.choice(["class", "seed", "steps", "guidance", "more"]): value}
    return request(body={"inputs": [row]}), {200, 400}  # a class "1" is one


@kind
def other_numbers(rng: random.Random) -> Made:
    text = rng.choice(["NaN", "Infinity", "1e999", "9" * 5000, "-" + "9" * 4299, "0x10", "1_000", '"\\udc00"'])
    return request(body=rows_with(text)), {400}


@kind
def many_rows(rng: random.Random) -> Made:
    return request(body={"inputs": [GOOD] * rng.choice([9, 100, 20_000, 60_000])}), {400, 413}


@kind
def deep_nests(rng: random.Random) -> Made:
    return request(body=rng.choice([b"[", b'{"a":', b'{"inputs":[']) * rng.randint(1, 80_000)), {400}


@kind
def flipped_bytes(rng: random.Random) -> Made:
    body = bytearray(json.dumps({"inputs": [good_row(rng)]}).encode())
    for _ in range(rng.randint(1, 3)):
        body[rng.randrange(len(body))] = rng.randrange(256)
    return request(body=bytes(body)), {200, 400}


@kind
def random_bytes(rng: random.Random) -> Made:
    return rng.randbytes(rng.randint(1, 5000)) + b"\r\n\r\n", {400}


@kind
def long_bodies(rng: random.Random) -> Made:
    return request(body=rng.choice([b" ", b"[", b'"', b"\xff"]) * (2**20 + rng.randint(1, 2**20))), {413}


@kind
def chunks_without_an_end(rng: random.Random) -> Made:
    head = request(body=b"", content_length=None, transfer_encoding="chunked")
    size = rng.randint(1, 2**18)
    return head + (b"%x\r\n%b\r\n" % (size, b" " * size)) * (2**20 // size + 1), {413}


@kind
def broken_chunks(rng: random.Random) -> Made:
    head = request(body=b"", content_length=None, transfer_encoding="chunked")
    return head + b"5\r\n[    \r\n" + rng.choice([b"-1\r\n", b"zz\r\n", b"\r\n\r\n", b"fffffffffffffffffffff\r\n"]), {
        400
    }


@functools.cache
def parquet() -> bytes:
    file = io.BytesIO()
    pandas.DataFrame({"class": [0] * 2_000_000, "seed": 0}).to_parquet(file, compression="zstd")
    return file.getvalue()


@kind
def tables_of_other_types(rng: random.Random) -> Made:
    types = {"text/csv": b"class,seed\n0,0\n" * 1000, "application/vnd.apache.parquet": parquet()}
    types |= {"application/x-www-form-urlencoded": b"seed=0", "text/plain": b'{"inputs": []}', "": b"{}"}
    name = rng.choice(list(types))
    return request(body=types[name], content_type=name), {415}


@functools.cache
def bomb() -> bytes:
    return gzip.compress(bytes(2**28))


@kind
def gzip_bombs(rng: random.Random) -> Made:
    encoding = rng.choice(["gzip", "deflate", "br", "identity, gzip"])
    return request(body=bomb(), content_encoding=encoding), {415}


@kind
def lengths_that_lie(rng: random.Random) -> Made:
    body = json.dumps({"inputs": [GOOD]}).encode()
    length = rng.choice(["-1", "0", "5", "1e3", "10, 20", str(2**70), str(2**30)])
    return request(body=body, content_length=length), {400, 413}


@kind
def large_headers(rng: random.Random) -> Made:
    return request("GET", "/ping", x="a" * rng.randint(2**19, 2**21)), {400, CLOSED}


@kind
def foreign_hosts(rng: random.Random) -> Made:
    name = rng.choice(["evil.example", "localhost.evil.example", "127.0.0.2", "a@localhost", "", "[::2]:80"])
    return request(*rng.choice([("POST", "/invocations"), ("GET", "/")]), body={"inputs": [GOOD]}, host=name), {403}


@kind
def other_paths_and_methods(rng: random.Random) -> Made:
    path = rng.choice(["/docs", "/redoc", "/openapi.json", "/%2e%2e/etc/passwd", "//", "/%00", "/invocations/x", "*"])
    method = rng.choice(["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"])
    # An answer to HEAD has a length and no body: the end of the connection is what ends it.
    return request(method, *rng.choice([(path,), ("/invocations",)]), connection="close"), {404, 405}


@kind
def upgrades(rng: random.Random) -> Made:
    return request("GET", "/ping", connection="Upgrade", upgrade=rng.choice(["websocket", "h2c", "TLS/1.0"])), {200}


@kind
def pipelines(rng: random.Random) -> Made:
    return b"".join(good(rng)[0] for _ in range(rng.randint(2, 5))), {200}


@kind
def clients_that_leave(rng: random.Random) -> Made:
    whole = request(body={"inputs": [{**GOOD, "steps": 100}] * 8})
    return whole[: rng.choice([len(whole), rng.randrange(len(whole))])], {GONE}


def sent(port: int, name: str, place: int) -> tuple[str, float]:
    """Sends request number `place`; returns how it was answered, and the seconds until then."""
    data, allowed = KINDS[name](random.Random(f"{SEED}-{place}"))
    began = time.monotonic()
    if GONE in allowed:
        with connected(port) as connection:
            connection.sendall(data)
        return GONE, time.monotonic() - began
    answer = exchange(port, data)
    assert (answer.code or CLOSED) in {*allowed, 503}, (name, place, answer)
    if answer.code:
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["x-frame-options"] == "DENY"
    if answer.code >= 400 and not data.startswith(b"HEAD"):
        assert answer.message.isprintable() and len(answer.message) <= LONGEST_MESSAGE + 1
        assert not re.search(r"Traceback|\.py|site-packages|/tmp", answer.text), answer.text
    return str(answer.code or CLOSED), time.monotonic() - began


def resident(server: Server) -> int:
    """The server's memory in MiB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    packed = package(make_product(tmp_path / "project"), "scd", tmp_path / "model")
    server = start(str(packed), "--max-batch", "8", folder=tmp_path)
    yield server
    assert server.end() == 0
    log = (tmp_path / "serve.log").read_text()
    assert "Traceback" not in log and log.splitlines()[-1] == "scm serve: ended"


@pytest.mark.slow
@pytest.mark.parametrize(
    "count", [pytest.param(50, marks=pytest.mark.long), pytest.param(1500, marks=pytest.mark.campaign)]
)
def test_a_server_outlives_random_requests(count, server, table):
    rng = random.Random(SEED)
    names = rng.sample([*KINDS, *rng.choices(list(KINDS), k=count - len(KINDS))], count)
    bomb(), parquet()  # made beforehand, so that they cost no request time
    slow = [connected(server.port) for _ in range(20)]  # clients that never send a whole header
    for each in slow:
        each.sendall(b"POST /invocations HTTP/1.1\r\nhost: localhost\r\n")
    exchange(server.port, request(body={"inputs": [{**GOOD, "steps": 9}] * 8}))
    before, codes = resident(server), collections.defaultdict(collections.Counter)
    pings, refusals = list[float](), list[float]()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = [pool.submit(sent, server.port, name, place) for place, name in enumerate(names)]
        while not all(result.done() for result in results):
            began = time.monotonic()
            assert exchange(server.port, request("GET", "/ping")).code == 200
            pings.append(time.monotonic() - began)
            time.sleep(0.1)
    for name, result in zip(names, results, strict=True):
        code, seconds = result.result()
        codes[name][code] += 1
        refusals += [seconds] if code not in ("200", GONE) else []
    for each in slow:
        assert read_answer(each).code == 0
        each.close()
    grown = resident(server) - before
    results_of = table("server", "Requests", "Number", "Answers", align="lr")
    for name in KINDS:
        answers = ", ".join(f"{code}: {number}" for code, number in sorted(codes[name].items()))
        results_of.add(name, codes[name].total(), answers)
    results_of.notes.append(f"{count:,} requests with seed {SEED}, {AT_ONCE} at a time, beside 20 unfinished headers.")
    results_of.notes.append(f"The server's memory went from {before} to {before + grown} MiB.")
    for name, times in ((f"{len(pings):,} times /ping", pings), ("Refusals", refusals)):
        median, most = statistics.median(times), max(times)
        results_of.notes.append(f"{name}: half within {1000 * median:.0f} ms, all within {1000 * most:.0f} ms.")
    assert grown <= GROWTH
    assert max(refusals) < 20 and max(pings) < 5  # on a busy machine, and beside the threads that ask
