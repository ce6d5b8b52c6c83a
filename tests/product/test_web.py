"""The HTTP of `scm serve`, attacked: what is sent, how slowly, by how many, and by clients that go away."""

import gzip
import json
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from scm.product import web
from scm.product.serving import listening
from tests.support.serving import (
    GOOD,
    PAGE,
    Patient,
    connected,
    exchange,
    read_answer,
    request,
    served,
    start,
    until,
)  # fmt: skip

ROW = {"inputs": [GOOD]}
PING = request("GET", "/ping", host="localhost")


def row(seed: int) -> bytes:
    return request(body={"inputs": [{**GOOD, "seed": seed}]})


@pytest.fixture
def patient():
    return Patient()


@pytest.fixture(scope="module")
def port():
    """A server that draws at once."""
    product = Patient()
    product.going.set()
    with served(product) as port:
        yield port


def alive(port: int) -> bool:
    """True if the server still answers, within a second."""
    began = time.monotonic()
    return exchange(port, PING).code == 200 and time.monotonic() - began < 1


# What is sent


@pytest.mark.parametrize(
    "kind",
    [
        "text/csv",
        "application/vnd.apache.parquet",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain",
        "text/json",
        "application/jsonx",
        "application/json, text/csv",
        "application/json; charset=latin-1",
        "application/json; charset=utf-8; header=present",
        "",
        None,
    ],
)
def test_other_types_than_json_are_refused(port, kind):
    answer = exchange(port, request(body=ROW, content_type=kind))
    assert answer.code == 415 and answer.message.endswith(("send application/json", "in UTF-8"))


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON", 'application/json; charset="UTF-8"'])
def test_json_is_taken(port, kind):
    answer = exchange(port, request(body=ROW, content_type=kind))
    assert answer.code == 200 and json.loads(answer.text) == {"predictions": [{"png": "png", "seed": 3}]}


def test_a_compressed_body_is_not_unpacked(port):
    bomb = gzip.compress(bytes(2**24))
    assert exchange(port, request(body=bomb, content_encoding="gzip")).code == 415
    assert exchange(port, request(body=bomb)).code == 400


WRONG = [
    ("unknown path", request("GET", "/nothing"), 404),
    ("docs", request("GET", "/docs"), 404),
    ("redoc", request("GET", "/redoc"), 404),
    ("openapi", request("GET", "/openapi.json"), 404),
    ("path of a file", request("GET", "/../../etc/passwd"), 404),
    ("encoded path of a file", request("GET", "/%2e%2e/%2e%2e/etc/passwd"), 404),
    ("NUL", request("GET", "/%00"), 404),
    ("slash", request("GET", "/ping/"), 404),
    ("absolute", request("GET", "http://evil.example/ping"), 404),
    ("get", request("GET", "/invocations"), 405),
    ("put", request("PUT", body=ROW), 405),
    ("options", request("OPTIONS"), 405),
    ("trace", request("TRACE", "/ping"), 405),
    ("made up", request("MAKEUP", "/"), 405),
    ("post a page", request("POST", "/", body=ROW), 405),
    ("host", request("GET", "/about", host="evil.example"), 403),
    ("host of a post", request(body=ROW, host="evil.example:80"), 403),
    ("no host", request("GET", "/ping", host=None), 400),
    ("two hosts", request("GET", "/ping", Host="evil.example"), 400),
    ("no HTTP", b"nonsense\r\n\r\n", 400),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n", 400),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404),
    ("header", request("GET", "/ping", x="a" * 20_000)[:-4], 400),
    ("many headers", request("GET", "/ping", **{f"x{n}": "a" * 80 for n in range(300)})[:-4], 400),
    ("negative length", request(body=ROW, content_length="-1"), 400),
    ("two lengths", request(body=ROW, content_length="10, 20"), 400),
    ("huge length", request(body=ROW, content_length="9" * 5000), 400),
    ("said to be long", request(body=b"", content_length=str(2**40)), 413),
    ("no chunk", request(body=b"zz\r\n", content_length=None, transfer_encoding="chunked"), 400),
    ("other coding", request(body=b"", content_length=None, transfer_encoding="gzip"), 400),
    ("shorter than it says", request(body=ROW, content_length="10"), 400),
]


@pytest.mark.parametrize(("sent", "code"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_wrong_request_is_a_line_with_the_headers_of_all_answers(port, sent, code):
    answer = exchange(port, sent)
    assert (answer.code, "Traceback" in answer.text, str(Path.cwd()) in answer.text) == (code, False, False)
    assert answer.message.isprintable() and len(answer.message) <= web.LONGEST_MESSAGE + 1
    assert answer.headers.items() >= dict(web.security_headers(PAGE)).items() and "server" not in answer.headers
    assert (answer.headers.get("allow") is not None) == (code == 405)
    assert alive(port)


def test_a_name_that_is_allowed_is_served():
    product = Patient()
    with served(product, allowed=("images.example.org",)) as port:
        assert exchange(port, request("GET", "/about", host="images.example.org:443")).code == 200
        assert exchange(port, request("GET", "/about", host="example.org")).code == 403


def test_http_1_0_need_not_name_a_host(port):
    assert exchange(port, b"GET /ping HTTP/1.0\r\n\r\n").code == 200
    assert exchange(port, b"GET /ping HTTP/1.0\r\nHost: evil.example\r\n\r\n").code == 403


def test_head_answers_without_a_body(port):
    with connected(port) as connection:
        connection.sendall(request("HEAD", "/") + PING)
        data = b""
        while data.count(b"HTTP/1.1 200 OK") < 2:
            data += connection.recv(2**16)
    assert PAGE.encode() not in data


def test_an_encoded_path_is_the_same_path(port):
    assert exchange(port, request(path="/%69nvocations", body=ROW, content_type="text/csv")).code == 415


def test_an_upgrade_to_another_protocol_is_not_taken(port):
    wanted = {"connection": "Upgrade", "sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==", "sec_websocket_version": "13"}
    assert exchange(port, request("GET", "/ping", upgrade="websocket", **wanted)).code == 200
    assert exchange(port, request("GET", "/ping", upgrade="h2c", connection="Upgrade")).code == 200


def test_requests_in_one_piece_are_answered_in_turn(port):
    with connected(port) as connection:
        connection.sendall(row(1) + row(2) + request(body=b"{}") + row(4))
        data = b""
        while data.count(b"HTTP/1.1 ") < 4:
            data += connection.recv(2**16)
    assert [int(part[:3]) for part in data.split(b"HTTP/1.1 ")[1:]] == [200, 200, 400, 200]


def test_a_body_without_a_length_is_read_and_bounded(port):
    chunked = request(body=b"", content_length=None, transfer_encoding="chunked")
    body = json.dumps(ROW).encode()
    assert exchange(port, chunked, b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)).code == 200
    piece = b"10000\r\n" + b" " * 2**16 + b"\r\n"
    assert exchange(port, chunked, *[piece] * (web.MAX_BODY // 2**16 + 1)).code == 413
    assert exchange(port, request(body=b" " * (web.MAX_BODY + 1))).code == 413


def test_a_client_that_waits_for_leave_gets_it_if_its_body_is_wanted(port):
    body = json.dumps(ROW).encode()
    with connected(port) as connection:
        connection.sendall(request(expect="100-continue", content_length=str(len(body))))
        assert connection.recv(2**16).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert read_answer(connection).code == 200
    assert exchange(port, request(expect="100-continue", content_length=str(2**30))).code == 413


# How slowly


def ended(connection: socket.socket) -> float:
    """Seconds until the server closes."""
    began = time.monotonic()
    try:
        while connection.recv(2**16):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - began


def trickle(connection: socket.socket, data: bytes) -> None:
    """Sends a byte every 50 ms until the server closes."""
    try:
        for byte in data:
            connection.sendall(bytes([byte]))
            time.sleep(0.05)
    except OSError:
        pass


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(web, "PATIENCE", 0.3)


@pytest.mark.parametrize("before", [b"", PING], ids=["first request", "after a request"])
def test_a_header_that_does_not_end_is_not_waited_for(patient, hasty, before):
    with served(patient) as port, connected(port) as connection:
        connection.sendall(before)
        sender = threading.Thread(target=trickle, args=(connection, b"GET /ping HTTP/1.1\r\n" + b"x: y\r\n" * 100))
        sender.start()
        assert ended(connection) < 2
        sender.join()


def test_a_body_that_does_not_end_is_not_waited_for(patient, hasty):
    with served(patient) as port, connected(port) as connection:
        connection.sendall(request(body=b"{", content_length="100"))
        answer = read_answer(connection)
        assert (answer.code, answer.message) == (408, "body: not sent within 0.3 s")
        assert ended(connection) < 1


def test_a_body_that_nobody_reads_is_not_received_for_ever(patient, hasty):
    """After an early answer the rest is thrown away, but not for longer than a header is waited for."""
    with served(patient) as port, connected(port) as connection:
        connection.sendall(request(content_type="text/csv", content_length=str(2**40)))
        sender = threading.Thread(target=trickle, args=(connection, b"x" * 200))
        sender.start()
        assert read_answer(connection).code == 415 and ended(connection) < 2
        sender.join()


def test_a_client_that_does_not_read_its_answer_loses_it(patient, hasty, monkeypatch):
    monkeypatch.setattr(web, "SENDING", 1)
    monkeypatch.setattr(web, "MAX_REQUESTS", 1)
    patient.png = "x" * 2**25
    patient.going.set()
    with served(patient) as port, connected(port) as connection:
        connection.sendall(row(1))
        until(lambda: patient.drawn == [1])
        assert exchange(port, row(2)).code == 503  # the answer is still being sent
        until(lambda: exchange(port, row(3)).code == 200)
        received = 0
        with suppress(ConnectionError):
            while part := connection.recv(2**20):
                received += len(part)
        assert 0 < received < len(patient.png)


def test_a_connection_that_is_used_stays(patient, hasty):
    patient.going.set()
    with served(patient) as port, connected(port) as connection:
        for seed in range(6):
            connection.sendall(row(seed))
            assert read_answer(connection).code == 200
            time.sleep(0.2)


def test_a_drawing_may_take_longer_than_a_header(patient, hasty):
    with served(patient) as port, connected(port) as connection:
        connection.sendall(row(1))
        time.sleep(1)
        patient.going.set()
        assert read_answer(connection).code == 200


# By how many


def test_a_full_queue_refuses_at_once_and_ping_answers_meanwhile(patient, monkeypatch):
    monkeypatch.setattr(web, "MAX_REQUESTS", 4)
    with served(patient) as port, ThreadPoolExecutor(100) as pool:
        waiting = [pool.submit(exchange, port, row(seed)) for seed in range(100)]
        until(lambda: sum(each.done() for each in waiting) == 96)
        assert alive(port) and len(patient.begun) == 1
        patient.going.set()
        answers = [each.result() for each in waiting]
        assert sorted(answer.code for answer in answers) == [200] * 4 + [503] * 96
        busy = next(answer for answer in answers if answer.code == 503)
        assert busy.headers["retry-after"] == "1" and busy.message == "4 requests wait already; try again soon"
        assert exchange(port, row(100)).code == 200


def test_more_connections_than_are_allowed_get_a_503(patient, monkeypatch):
    monkeypatch.setattr(web, "MAX_CONNECTIONS", 4)
    with served(patient) as port:
        held = [connected(port) for _ in range(3)]
        answer = exchange(port, PING)
        assert answer.code == 503 and answer.headers["x-content-type-options"] == "nosniff"
        for each in held:
            each.close()
        until(lambda: exchange(port, PING).code == 200)


# By clients that go away


def test_work_is_dropped_when_its_client_goes(patient):
    with served(patient) as port:
        drawing, waiting, stays = (connected(port) for _ in range(3))
        with drawing, waiting, stays:
            for seed, connection in enumerate((drawing, waiting, stays)):
                connection.sendall(row(seed))
                until(lambda: 0 in patient.begun)
                time.sleep(0.05)
            waiting.close()
            drawing.close()
            until(lambda: patient.dropped == [0])
            until(lambda: patient.begun == [0, 2])
            patient.going.set()
            assert read_answer(stays).code == 200
    assert patient.drawn == [2] and patient.begun == [0, 2]


def test_clients_with_slow_bodies_keep_nobody_out(patient):
    patient.going.set()
    with served(patient) as port:
        slow = [connected(port) for _ in range(2 * web.MAX_REQUESTS)]
        for each in slow:
            each.sendall(request(body=b"{", content_length="100"))
        assert exchange(port, row(1)).code == 200
        for each in slow:
            each.close()


def test_bodies_that_are_received_are_bounded_all_together(patient, monkeypatch):
    monkeypatch.setattr(web, "MAX_HELD", 1000)
    patient.going.set()
    with served(patient) as port:
        with connected(port) as connection:
            connection.sendall(request(body=b" " * 2000, content_length="3000"))
            assert read_answer(connection).code == 503
            with connected(port) as other:
                other.sendall(request(body=b" " * 900, content_length="3000"))
                until(lambda: exchange(port, request(body=b" " * 900)).code == 503)
        until(lambda: exchange(port, row(1)).code == 200)


def test_work_that_takes_too_long_is_dropped(patient):
    with served(patient, seconds=0.3) as port:
        answer = exchange(port, row(1))
        assert (answer.code, answer.message) == (504, "not drawn within 0.3 s; ask for fewer images or steps")
        until(lambda: patient.dropped == [1])
        patient.going.set()
        assert exchange(port, row(2)).code == 200


def test_a_fault_of_the_product_stays_in_the_servers_log(patient, capfd):
    def broken(wishes: list[Any], wanted: Any) -> Any:
        raise RuntimeError("in /secret/place.py")

    patient.draw = broken
    with served(patient) as port:
        for _ in range(2):
            answer = exchange(port, row(1))
            assert (answer.code, answer.message) == (500, "internal error; the server's log has the reason")
    assert "RuntimeError: in /secret/place.py" in capfd.readouterr().err


# How it ends


def test_an_end_lets_a_drawing_finish(patient):
    with ThreadPoolExecutor() as pool:
        with served(patient) as port:
            drawn = pool.submit(exchange, port, row(1))
            until(lambda: patient.begun == [1])
            threading.Timer(0.3, patient.going.set).start()
        assert drawn.result().code == 200


def test_an_end_drops_what_takes_too_long(patient, monkeypatch):
    monkeypatch.setattr(web, "GRACE", 0.2)
    with ThreadPoolExecutor() as pool:
        with served(patient) as port:
            drawn = [pool.submit(exchange, port, row(seed)) for seed in (1, 2)]
            until(lambda: len(patient.begun) == 1)
            time.sleep(0.1)
        assert [each.result().code for each in drawn] == [503, 503]
    until(lambda: patient.dropped == patient.begun)
    assert not patient.drawn


STUCK = """
import sys, time
from scm import cli
from scm.product import serving, web
from scm.product.model import Product

web.GRACE = 1

def stuck(*arguments):
    print("drawing", file=sys.stderr, flush=True)
    time.sleep(600)

def warm_up(product):
    Product.draw = stuck

serving.warm_up = warm_up
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_evaluation_that_cannot_be_interrupted_does_not_hold_up_the_end(packed, tmp_path, number):
    """As if one evaluation of a large network took ten minutes, with one second of grace."""
    server = start(str(packed), folder=tmp_path, program=("-c", STUCK))
    with connected(server.port) as connection:
        connection.sendall(row(1))
        until(lambda: "drawing" in (tmp_path / "serve.log").read_text())
        began = time.monotonic()
        assert alive(server.port)
        assert server.end(number, 30) == 0 and time.monotonic() - began < 1 + 10
        assert read_answer(connection).code == 503
    log = (tmp_path / "serve.log").read_text()
    assert log.splitlines()[-1] == "scm serve: ended" and "Traceback" not in log
    with listening("127.0.0.1", server.port):
        pass  # the port is free
