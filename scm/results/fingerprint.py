"""A stage's fingerprint: one hash of its name, the parameters that it tracks and the content of what it reads.

The fingerprint names the stage's work folder, so that a run resumes exactly its own unfinished work, and its run in
MLflow.
"""

import functools
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from scm.base.documents import is_there
from scm.base.files import NO_FILE, read_sealed, write_sealed
from scm.base.forms import Natural, require
from scm.base.litter import LITTER
from scm.base.yaml_files import parse_mapping, read_mapping, read_text
from scm.errors import UserError
from scm.params import flatten

RESTORE = "restore it with git"
RENEW = "restore it with git, or delete it and run `scm run`, which takes from DVC's cache what is there"
"""Remedies for a damaged dvc.yaml and a damaged dvc.lock."""
LARGE = 2**26
"""Bytes from which on the hash of a file or folder is recorded."""
CLOCK_TICK = 2 * 10**9
"""Nanoseconds within which two changes may leave the same time on a file, on the coarsest file systems."""


class Stage(TypedDict):
    """A stage in dvc.yaml."""

    cmd: str | list[str]
    params: NotRequired[list[str | dict[str, Any]]]
    deps: NotRequired[list[str]]
    outs: NotRequired[list[str | dict[str, Any]]]
    metrics: NotRequired[list[str | dict[str, Any]]]
    plots: NotRequired[list[str | dict[str, Any]]]
    frozen: NotRequired[bool]
    matrix: NotRequired[dict[str, Any]]


class Traced(TypedDict):
    """A stage whose fingerprint can be taken."""

    params: NotRequired[list[str]]
    deps: NotRequired[list[str]]
    matrix: NotRequired[dict[str, Any]]


class Repeated(TypedDict):
    """A stage for each item of a list or a mapping."""

    foreach: str | list[Any] | dict[str, Any]
    do: Stage


class Definition(TypedDict):
    """dvc.yaml."""

    stages: dict[str, Stage | Repeated]


class Locked(TypedDict):
    """A file or folder in dvc.lock; DVC writes more."""

    path: str
    md5: NotRequired[str]
    size: NotRequired[Natural]
    nfiles: NotRequired[Natural]


class LockedStage(TypedDict):
    cmd: NotRequired[str | list[str]]
    deps: NotRequired[list[Locked]]
    params: NotRequired[dict[str, dict[str, Any]]]
    outs: NotRequired[list[Locked]]


class Lock(TypedDict):
    """dvc.lock."""

    stages: dict[str, LockedStage]


@dataclass(frozen=True)
class Inputs:
    """A stage's inputs.

    Attributes:
        params: flat values of the parameters that dvc.yaml lists for the stage.
        dependencies: a hash of each path that dvc.yaml lists.
        key: the fingerprint, 64 hexadecimal digits.
    """

    params: dict[str, Any]
    dependencies: dict[str, str]
    key: str


def inputs_of(
    root: Path, stage: str, item: str | None, params: Mapping[str, Any], records: Path | None = None
) -> Inputs:
    """As `Files.inputs_of`, for one stage."""
    return Files(root).inputs_of(stage, item, params, records)


class Files:
    """dvc.yaml and dvc.lock, each read once."""

    def __init__(self, root: Path) -> None:
        self.root, self.stages = root, defined_stages(root)
        self.made = {path: output["md5"] for path, output in made_by_stages(root).items()}

    def is_frozen(self, stage: str) -> bool:
        """True if DVC takes the stage's outputs as they are."""
        return bool(self.stages.get(stage, {}).get("frozen"))

    def inputs_of(self, stage: str, item: str | None, params: Mapping[str, Any], records: Path | None = None) -> Inputs:
        """Reads the stage's definition in dvc.yaml and hashes what it lists.

        Args:
            params: the plain content of params.yaml.
            item: the item of the stage's matrix or the key of its foreach; None for a stage without either.
            records: see `content_hash`.

        Raises:
            UserError: dvc.yaml has no such stage, or a path that it lists is missing.
        """
        root, stages = self.root, self.stages
        if stage not in stages:
            raise UserError(f"dvc.yaml has no stage {stage}: restore it, or run one of {', '.join(stages)}")

        definition = require(stages[stage].get("do", stages[stage]), Traced, f"dvc.yaml: stages.{stage}", RESTORE)
        start = str(params["student"]["methods"].get(item)) if "foreach" in stages[stage] else ""
        known = {f"item.{name}": item or "" for name in stages[stage].get("matrix", ())}
        known |= {"key": item or "", "item": start}

        def value_of(key: str) -> Any:
            try:
                return functools.reduce(lambda section, part: section[part], key.split("."), params)
            except (KeyError, TypeError):
                raise UserError(f"dvc.yaml: stages.{stage} names {key}, which params.yaml lacks: {RESTORE}") from None

        def resolve(text: str) -> str:
            """Fills in what DVC would: the item, and parameters such as ${data.path}."""
            return re.sub(r"\$\{([\w.]+)\}", lambda found: known.get(found[1]) or str(value_of(found[1])), text)

        # The parameters that the stage tracks.
        values: dict[str, Any] = {}
        for key in map(resolve, definition.get("params", ())):
            values |= flatten({key: value_of(key)})
        # What it reads: another stage's output has its hash in dvc.lock, other files are hashed here.
        paths = sorted(map(resolve, definition.get("deps", ())))
        dependencies = {path: self.made.get(path) or content_hash(root / path, records) for path in paths}
        text = json.dumps([stage, item, values, dependencies], sort_keys=True)
        return Inputs(values, dependencies, hashlib.sha256(text.encode()).hexdigest())


def defined_stages(root: Path) -> dict[str, Any]:
    """The stages as dvc.yaml defines them, by name."""
    content = read_mapping(root / "dvc.yaml", "run from the project's folder")
    return dict(require(content, Definition, "dvc.yaml", RESTORE)["stages"])


def made_by_stages(root: Path) -> dict[str, dict[str, Any]]:
    """The entry of each output whose hash dvc.lock knows, by path: md5, size in bytes and, for a folder, nfiles."""
    known = (entry for outputs in outputs_of_stages(root).values() for entry in outputs.items())
    return {path: out for path, out in known if "md5" in out}


def outputs_of_stages(root: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The entries of all outputs in dvc.lock, by stage and path; some stages may no longer be in dvc.yaml."""
    path = root / "dvc.lock"
    if not is_there(path):
        return {}
    lock = read_lock(path)
    return {name: {out["path"]: dict(out) for out in stage.get("outs", ())} for name, stage in lock["stages"].items()}


def read_lock(path: Path) -> Lock:
    """The content of a dvc.lock."""
    return parse_lock(read_text(path, "run `scm run`"), str(path), RENEW)


def parse_lock(text: str, source: str, remedy: str) -> Lock:
    return require(parse_mapping(text, source, remedy), Lock, source, remedy)


def check_files(root: Path) -> None:
    """Refuses a dvc.yaml or a dvc.lock on which DVC itself would stumble."""
    defined_stages(root)
    outputs_of_stages(root)


def content_hash(path: Path, records: Path | None = None) -> str:
    """SHA-256 over names and contents of a file or of all files in a folder, without caches and hidden files.

    What a system has left in a folder of images does not count where it cannot be read, as root's lost+found: no
    source reads it.

    Args:
        records: a folder that keeps the hashes of large paths. A path is read again when its list of files has
            changed, or the size, a time, the inode or the device of any of them; every write changes a file's ctime.
    """
    if not path.exists():
        raise UserError(f"{path} is missing: run `scm run`, or correct the path in params.yaml")
    record = None if records is None else records / f"{hashlib.sha256(os.fsencode(path.absolute())).hexdigest()}.json"
    known = None if record is None else read_sealed(record)
    try:
        if known is not None and known.get("state") == _state(path):
            return known["content"]
        started = time.time_ns()
        read = _read(path)
    except OSError as error:
        problem = f"{error.filename or path} cannot be read ({error.strerror})"
        raise UserError(f"{problem}: change its permissions or remove it") from None
    if record is not None and read.size >= LARGE and read.newest < started - CLOCK_TICK:
        write_sealed(record, {"path": os.fsencode(path).decode(errors="replace"), **read.hashes})
    return read.hashes["content"]


@dataclass(frozen=True)
class _Read:
    """What was read: the hashes `content` and `state`, the bytes, and the newest time of any file in nanoseconds."""

    hashes: dict[str, str]
    size: int
    newest: int


def _read(path: Path) -> _Read:
    content, state, size, newest = hashlib.sha256(), hashlib.sha256(), 0, 0
    for name, file, _ in _files(path):
        with open(file, "rb") as handle:  # noqa: PTH123
            # The state is that before the reading, so that a change during it is noticed by the next look.
            status = os.fstat(handle.fileno())
            content.update(name + hashlib.file_digest(handle, "sha256").digest())
        state.update(name + _state_of(status))
        size, newest = size + status.st_size, max(newest, status.st_mtime_ns, status.st_ctime_ns)
    return _Read({"content": content.hexdigest(), "state": state.hexdigest()}, size, newest)


def _state(path: Path) -> str:
    """A hash of what the file system says of all files; reads none of them."""
    state = hashlib.sha256()
    for name, _, status in _files(path):
        state.update(name + _state_of(status))
    return state.hexdigest()


def _state_of(status: os.stat_result) -> bytes:
    places = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    return str(places).encode()


def _files(path: Path) -> Iterator[tuple[bytes, str, os.stat_result]]:
    """Yields the file, or the files in the folder at any depth in the order of their names; there may be millions.

    Each comes as its name in the folder and a zero byte, its path (a Path would take longer than the file system does),
    and what the file system says of it.
    """
    top, status = str(path), path.stat()
    if stat.S_ISREG(status.st_mode):
        yield b"\0", top, status
        return
    waiting = [("", False, _names(top))]
    while waiting:
        parent, is_litter, names = waiting[-1]
        name = next(names, None)
        if name is None:
            waiting.pop()
            continue
        inner, is_litter = parent + name, is_litter or name.casefold() in LITTER
        file = f"{top}/{inner}"
        if name.startswith(".") or name == "__pycache__" or (is_litter and not _is_readable(Path(file))):
            continue
        try:
            status = os.stat(file)  # noqa: PTH116
        except OSError as error:
            if error.errno not in NO_FILE:
                raise
            continue
        if stat.S_ISREG(status.st_mode):
            yield inner.encode(errors="surrogateescape") + b"\0", file, status
        elif stat.S_ISDIR(status.st_mode) and not os.path.islink(file):  # noqa: PTH114
            waiting.append((f"{inner}/", is_litter, _names(file)))


def _names(folder: str) -> Iterator[str]:
    return iter(sorted(os.listdir(folder)))  # noqa: PTH208


def _is_readable(path: Path) -> bool:
    try:
        if path.is_file():
            path.open("rb").close()
        elif path.is_dir():
            _names(str(path))
    except OSError:
        return False
    return True
