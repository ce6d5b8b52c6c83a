"""scm.params.addresses: which addresses of MLflow's store are refused, and that no message shows a secret."""

from pathlib import Path

import pytest

from scm.commands import params as command
from scm.errors import UserError
from scm.params import Params, load
from scm.params.addresses import refusal, sqlite_address, sqlite_file, without_secrets
from scm.params.project import Project, TrackingSettings
from tests.support.projects import params_with

REFUSED = {
    "sqlite://": "in memory",
    "sqlite:///": "in memory",
    "sqlite:///:memory:": "in memory",
    "sqlite:///file:x?mode=memory&uri=true": "in memory",
    "sqlite://own.db": "write sqlite:///own.db",
    "sqlite:own.db": "lacks the slashes",
    "sqlite:///~/own.db": "write the whole path",
    "sqlite:////srv/": "write sqlite:////srv/mlflow.db",
    "postgresql:scm": "lacks the slashes",
    "localhost:5000": "has no scheme; write http://localhost:5000",
    "mlflow.example.com": "has no scheme; write http://mlflow.example.com",
    "http:/localhost:5000": "has no scheme; write http://localhost:5000",
    "me:secret@localhost:5000": "has no scheme; write http://localhost:5000",
    "./mlruns": "is a folder of files",
    "file:///srv/mlruns": "is a folder of files",
    "htp://localhost": "has a scheme that MLflow does not know",
    "http://": "names no server",
    "http://localhost:port": "cannot be read",
    "http://localhost:99999": "cannot be read",
    "http://[::1": "cannot be read",
    "http://me:sec/ret@localhost": "cannot be read",
    "http://local host": "has a space",
    "https://localhost?token=secret": "MLFLOW_TRACKING_TOKEN",
    "https://localhost/#secret=secret": "MLFLOW_TRACKING_TOKEN",
}
"""Addresses, and a part of the message."""
ACCEPTED = [
    "sqlite:///own.db", "sqlite:////srv/own.db?timeout=60", "sqlite+pysqlite:////srv/own.db", "http://localhost:5000",
    "HTTPS://mlflow.example.com/path/", "https://me:secret@localhost", "http://[::1]:5000", "databricks",
    "databricks://profile", "postgresql://me:secret@localhost/mlflow", "postgresql+psycopg2://me@localhost/mlflow?sslmode=require",
]  # fmt: skip


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_mlflow_cannot_use_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"mlflow\.uri = ") as caught:
        params_with({"mlflow.uri": address})
    text = str(caught.value)
    assert REFUSED[address] in text and "secret@" not in text and "=secret" not in text
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(UserError, match=r"^MLFLOW_TRACKING_URI = ") as caught:
        project().tracking.check_environment()
    text = str(caught.value)
    assert REFUSED[address] in text and "secret@" not in text and "=secret" not in text


def project(**mlflow: object) -> Project:
    return Project(Path("/p"), params_with({f"mlflow.{key}": value for key, value in mlflow.items()}))


@pytest.mark.parametrize("address", ACCEPTED)
def test_other_addresses_are_accepted(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(address) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    project().tracking.check_environment()


def test_the_environment_counts_only_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "localhost:5000")
    project(enabled=False).tracking.check_environment()
    project(uri="http://localhost").tracking.check_environment()


def test_params_check_and_each_start_look_at_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    root = Path(__file__).parents[2]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "localhost:5000")
    for start in (lambda: command._check(SimpleNamespace(file=root / "params.yaml")), lambda: Project.open(root)):  # type: ignore[arg-type]
        with pytest.raises(UserError, match=r"^MLFLOW_TRACKING_URI = localhost:5000: has no scheme"):
            start()
    assert isinstance(load(root / "params.yaml"), Params)


@pytest.mark.parametrize("name", ["a", "what?", "50%", "my%20project", "a#b", "é ü", "x?y=z"])
def test_the_address_of_a_file_leads_back_to_it(name: str) -> None:
    file = Path("/srv") / name / "mlflow.db"
    assert sqlite_file(sqlite_address(file, "timeout=9"), Path("/")) == file


def test_a_store_follows_the_projects_folder_not_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    own = TrackingSettings(True, "SQLite:///../x/own.db", None, Path("/p"))
    assert own.store == "sqlite:////x/own.db" and own.artifacts == Path("/x/mlartifacts")
    inside = TrackingSettings(True, "sqlite:///x/own.db", None, Path("/p"))
    assert inside.store == "sqlite:////p/x/own.db" and inside.artifacts == Path("/p/mlartifacts")
    server = TrackingSettings(True, "http://h", None, Path("/p"))
    assert (server.store, server.store_file, server.artifact_location) == ("http://h", None, None)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at https://me:p@ss/w0rd@host:5000/x failed", "at https://host:5000/x failed"),
        ("with url: /api?token=abc&b=1 (x)", "with url: /api?token=…&b=… (x)"),
        ("me:secret@host", "host"),
        ("sqlite:////srv/team@home/mlflow.db", "sqlite:////srv/team@home/mlflow.db"),
        ("git@example.com:group/project", "git@example.com:group/project"),
    ],
)
def test_secrets_are_left_out(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@pytest.mark.parametrize("name", ["team/photos: v2", "a:b", "..", "..a", ".", "a?b", "it's", "x" * 251, "a\nb"])
def test_a_preset_that_mlflow_refuses_as_a_model_needs_a_name_to_publish(name: str) -> None:
    with pytest.raises(UserError, match=r"preset = .*registered model.*write publish\.name: NAME"):
        params_with({"preset": name})
    assert params_with({"preset": name, "publish.name": "photos"}).registered_name == "photos"
    assert params_with({"preset": name, "mlflow.enabled": False}).registered_name == name
    with pytest.raises(UserError, match=r"publish\.name = "):
        params_with({"publish.name": name})


@pytest.mark.parametrize("name", ["digits", "my photos", "photos v2.1", "фото", "a@b", "x" * 250])
def test_a_preset_that_mlflow_takes_is_accepted(name: str) -> None:
    from mlflow.store.artifact.utils.models import _parse_model_uri
    from mlflow.utils.validation import _validate_model_name

    assert params_with({"preset": name}).registered_name == name
    _validate_model_name(name)
    parsed = _parse_model_uri(f"models:/{name}@champion")
    assert (parsed.name, parsed.alias) == (name, "champion")
