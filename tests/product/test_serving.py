"""`scm serve`: a real server and its codes, where its model comes from, and how it begins and ends."""

import http.client
import json
import signal
import socket
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from scm import cli
from scm.errors import UserError
from scm.product.serving import has_champion, located
from scm.product.web import MAX_BODY
from tests.support.projects import make_project
from tests.support.serving import Server, start

JSON = "application/json"


def ask(server: Server, path: str, body: Any = None, kind: str | None = JSON, accept: str = "*/*") -> tuple[int, str]:
    """Code and text of an answer; a body that is not bytes is sent as JSON."""
    address = urllib.parse.urlsplit(server.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"accept": accept} | ({} if data is None or kind is None else {"content-type": kind})
    try:
        connection.request("GET" if data is None else "POST", path, data, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def rows(*given: dict[str, Any]) -> dict[str, Any]:
    return {"dataframe_records": list(given)}


def test_what_can_be_looked_at(server):
    assert ask(server, "/health") == (200, "\n") and ask(server, "/ping") == (200, "\n")
    code, version = ask(server, "/version")
    assert code == 200 and version[0].isdecimal()
    code, page = ask(server, "/")
    assert code == 200 and page.startswith("<!doctype html>")
    title = "sCD: images in few steps (digits)"
    browser = "text/html,application/xhtml+xml,*/*;q=0.8"
    for path, accept, page in (
        ("/card", "*/*", False), ("/card", browser, True), ("/card", f"text/markdown, {browser}", False),
        ("/card?format=markdown", browser, False), ("/card?format=html", "*/*", True),
    ):  # fmt: skip
        code, text = ask(server, path, accept=accept)
        assert code == 200 and text.startswith("<!doctype html>" if page else f"# {title}\n")
        assert (f"<title>{title}</title>" in text and f"<h1>{title}</h1>" in text) == page
    code, text = ask(server, "/card?format=pdf")
    assert code == 400 and json.loads(text)["message"] == "format pdf: must be html or markdown"
    assert ask(server, "/nothing")[0] == 404 and ask(server, "/invocations")[0] == 405
    about = json.loads(ask(server, "/about")[1])
    assert (about["classes"], about["student_steps"], about["max_rows"]) == (["zero", "one", "two"], [1, 2], 8)
    assert ask(server, "/invocations", about["example"])[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        rows({"class": "one", "seed": 3, "steps": 2}, {"class": 2, "seed": 4, "steps": 9}),
        rows({"class": "one", "seed": 3, "steps": 5, "guidance": 1.5}),
        {"dataframe_split": {"columns": ["class", "seed"], "data": [["one", 1], ["two", 2]]}},
        {"inputs": [{"class": "one", "seed": 3}]},
    ],
)
def test_good_requests(server, body):
    code, text = ask(server, "/invocations", body)
    assert code == 200
    for drawn in json.loads(text)["predictions"]:
        assert drawn["png"].startswith("iVBOR") and set(drawn) == {"png", "seconds", "evaluations", "model"}


GOOD = {"class": "one", "seed": 3}
BAD = [
    (rows({**GOOD, "class": "four"}), 400, "row 0: class four: no such class; this model has zero, one, two"),
    (rows({**GOOD, "seed": -1}), 400, "row 0: seed -1: must be between 0 and"),
    (rows({**GOOD, "seed": "x"}), 400, "row 0: seed 'x': must be a whole number"),
    (rows({**GOOD, "seed": 1.5}), 400, "row 0: seed 1.5: must be a whole number"),
    (rows({**GOOD, "seed": 2**64}), 400, "row 0: seed 18446744073709551616: must be between 0 and"),
    (rows({"class": "one"}), 400, "row 0: seed: missing; give a whole number, such as 0"),
    (rows({**GOOD, "style": 1}), 400, "row 0: style: unknown; a row has class, seed, steps, guidance"),
    (rows({**GOOD, "class": "9" * 5000}), 400, f"row 0: class {'9' * 100}… (5,000 characters): no such class"),
    (rows(GOOD, {**GOOD, "class": None}), 400, "row 1: class: missing; give a name, or a number from 0 to 2"),
    (rows({**GOOD, "steps": 101}), 400, "row 0: steps 101: scd takes 1 or 2, the teacher 3 to 100"),
    (rows({**GOOD, "guidance": 3}), 400, "row 0: guidance 3: scd was not trained for guidance"),
    (rows(*[GOOD] * 9), 400, "9 rows: a request takes 1 to 8"),
    (rows(), 400, "0 rows: a request takes 1 to 8"),
    ({"rows": [GOOD]}, 400, "must be an object with exactly one of dataframe_records"),
    ([GOOD], 400, "must be an object with exactly one of dataframe_records"),
    ({"dataframe_records": 5}, 400, "must be a list"),
    ({"messages": [1]}, 400, "must be an object with exactly one of dataframe_records"),
    (b"nonsense", 400, "valid JSON"),
    (b"", 400, "valid JSON"),
    (b"\xff\xfe{}", 400, "valid JSON"),
    (b"[" * 100_000, 400, "body: nested too deeply; GET /about shows an example"),
    (b"x" * (MAX_BODY + 1), 413, f"body: more than {MAX_BODY:,} bytes; ask for fewer images"),
]


@pytest.mark.parametrize(("body", "code", "message"), BAD, ids=range(len(BAD)))
def test_bad_requests_are_the_askers_fault_and_say_why(server, body, code, message):
    answered, text = ask(server, "/invocations", body)
    assert answered == code and message in json.loads(text)["message"]


def test_a_busy_port_is_one_line(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert cli.main(["serve", "nothing", "--port", str(port)]) == 1
    where = f"--host 127.0.0.1 --port {port}"
    problem = "cannot be listened on (Address already in use); choose another --port"
    assert capsys.readouterr().err == f"scm: error: {where}: {problem}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "nothing: neither a packaged model (a folder with MLmodel), nor a folder of models/ with "),
        ([".", "--port", "65536"], "--port 65536: must be between 0 and 65535"),
        ([".", "--allow-host", "http://a"], "--allow-host http://a: must be a name or address alone, such as images."),
        ([".", "--host", "no.such.host.invalid"], "--host no.such.host.invalid: no such name or address here"),
    ],
)
def test_what_cannot_be_served_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["serve", "--port", "0", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"scm: error: {message}") and error.count("\n") == 1


def test_a_package_of_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "MLmodel").write_text("flavors: {python_function: {loader_module: nothing_of_this_name}}\n")
    assert cli.main(["serve", str(tmp_path), "--port", "0"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"scm: error: {tmp_path}: cannot be loaded: No module named 'nothing_of_this_name'"


def test_without_a_registry_the_projects_own_student_is_taken(project, monkeypatch, capsys):
    monkeypatch.chdir(project.root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert project.params.publish.model == "scd"
    assert not has_champion(project) and not (project.root / "mlflow.db").exists()
    with located(None) as (uri, shown):
        assert (Path(uri) / "MLmodel").is_file() and shown == "models/scd"
    assert not Path(uri).exists()
    assert "there is no models:/digits@champion; taking models/scd of the project" in capsys.readouterr().err
    with located("models/scd") as (uri, shown):
        assert (Path(uri) / "MLmodel").is_file() and shown == "models/scd"


def test_a_registry_that_does_not_answer_is_one_line(project, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(UserError, match=r"^mlflow: .*; `scm serve models/NAME` needs no store$"):
            has_champion(project)


def test_a_limit_of_time_that_is_none_is_one_line(packed, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "soon")
    assert cli.main(["serve", str(packed), "--port", "0"]) == 1
    message = "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT=soon: must be a whole number of seconds, such as 60"
    assert capsys.readouterr().err == f"scm: error: {message}\n"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(packed, tmp_path, number):
    served = start(str(packed), folder=tmp_path)
    assert ask(served, "/health")[0] == 200
    assert served.end(number) == 0
    assert (tmp_path / "serve.log").read_text().splitlines()[-1] == "scm serve: ended"


def test_a_damaged_store_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path)
    (tmp_path / "mlflow.db").write_bytes(b"no database " * 300)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for asked in ("models:/digits@champion", None):
        with pytest.raises(UserError, match=r"^mlflow: the store is damaged: move its file away"), located(asked):
            pass
