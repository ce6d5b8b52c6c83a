"""Addresses of MLflow's store: which ones are refused, where an SQLite file lies, and text without their secrets."""

import os.path
import re
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import unquote, urlsplit

DATABASES = ("postgresql", "mysql", "mssql")
SERVERS = ("http", "https")
ELSEWHERE = ("databricks",)
"""Addresses that need nothing behind their scheme."""
IN_THE_PROJECT = "null for mlflow.db in the project"
TOKENS = "a token belongs in MLFLOW_TRACKING_TOKEN, a password in MLFLOW_TRACKING_PASSWORD"


def refusal(address: str) -> str | None:
    """Returns why MLflow cannot use an address, and what to write instead; None if nothing speaks against it."""
    scheme, separator, rest = address.partition("://")
    kind = scheme.lower().partition("+")[0]
    if kind == "sqlite" and separator:
        return _sqlite_refusal(rest)
    if any(char.isspace() or not char.isprintable() for char in address):
        return "has a space or an unprintable character in it; take it out"
    if kind in SERVERS and separator:
        return _server_refusal(address)
    if kind in ELSEWHERE or (separator and kind in {*DATABASES, *_plugins()}):
        return None
    if address.lower().startswith(tuple(f"{name}:" for name in ("sqlite", *DATABASES))) and not separator:
        return "lacks the slashes behind its colon; write sqlite:///FILE, or postgresql://USER@SERVER/DATABASE"
    if address.startswith(("/", ".", "~", "file:")):
        return f"is a folder of files, which MLflow no longer writes to; write {IN_THE_PROJECT}, or sqlite:////FILE"
    if separator:
        known = ", ".join((*SERVERS, "sqlite", *DATABASES, "databricks"))
        return f"has a scheme that MLflow does not know; use one of {known}"
    server = re.sub(r"^https?:/*", "", without_secrets(address))
    return f"has no scheme; write http://{server} for a server, {IN_THE_PROJECT}, or sqlite:////FILE"


def _sqlite_refusal(rest: str) -> str | None:
    """What speaks against an SQLite address, of which `rest` follows the two slashes."""
    path = unquote(rest.removeprefix("/").partition("?")[0])
    if path in ("", ":memory:") or path.startswith("file:"):
        return f"is a database in memory, which ends with each stage; write {IN_THE_PROJECT}, or sqlite:////FILE"
    if not rest.startswith("/"):
        return f"needs three slashes before the file's name; write sqlite:///{path}"
    if path.startswith("~"):
        return "would make a folder that is called ~; write the whole path, such as sqlite:////data/mlflow.db"
    if path.endswith("/"):
        return f"names a folder; write sqlite:///{path}mlflow.db"
    return None


def _server_refusal(address: str) -> str | None:
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:  # a port that is none, or a broken IPv6 address
        return f"its server or port cannot be read; write http://SERVER:5000 ({TOKENS})"
    if not host:
        return "names no server; write http://SERVER:5000"
    if parts.query or parts.fragment or address.endswith(("?", "#")):
        return f"MLflow sends nothing behind ? or #; take it out: {TOKENS}"
    return None


def _plugins() -> set[str]:
    """Further schemes, which installed packages bring to MLflow."""
    return {entry.name for entry in entry_points(group="mlflow.tracking_store")}


def sqlite_file(address: str, folder: Path) -> Path | None:
    """The file of an SQLite store; a relative path starts at `folder`. None for every other address."""
    scheme, separator, rest = address.partition("://")
    if not separator or scheme.lower().partition("+")[0] != "sqlite":
        return None
    return Path(os.path.normpath(folder / unquote(rest.removeprefix("/").partition("?")[0])))


def sqlite_address(file: Path, query: str = "") -> str:
    """The address of an SQLite file, as SQLAlchemy 2.1 reads it, which undoes the quotes."""
    quoted = str(file).replace("%", "%25").replace("?", "%3F")
    # MLflow takes what follows "sqlite:///" for a path and makes its folder, quoted or not; so the driver is named.
    scheme = "sqlite" if quoted == str(file) else "sqlite+pysqlite"
    return f"{scheme}:///{quoted}" + (f"?{query}" if query else "")


def without_secrets(text: str) -> str:
    """A text without the passwords and tokens of the addresses in it."""
    text = re.sub(r"(?<=://)[^/\s]\S*@|(?<![^\s\"'(])[^\s/:]+:[^\s/]*@", "", text)
    return re.sub(r"([?&#][^=&\s]+=)[^&\s)'\"]*", r"\1…", text)
