"""Tells without DVC, in a fraction of a second, that nothing has changed since a complete `scm run`.

When `dvc repro` has run the whole pipeline, `remember` asks DVC once more whether all is up to date, and records what
the file system says of every file that DVC looks at: the stages' definitions, what they read, and what they left.
`unchanged_stages` compares the file system with the record. Any difference, and any doubt, leaves the answer to DVC,
which trusts a file's size, time and inode as well.

Importing DVC takes longer than all this, so the comparison needs the standard library alone.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from scm.base.files import read_sealed, write_sealed
from scm.errors import UserError

RECORD = Path(".work", "unchanged.json")
"""The record in a project. It lies where `make clean` removes it together with the outputs."""
SETTINGS = ("dvc.yaml", "dvc.lock", "params.yaml", ".dvcignore", ".dvc/config", ".dvc/config.local")
"""What decides which files DVC looks at, and how. Not all of them exist in every project."""


def unchanged_stages(root: Path) -> list[str] | None:
    """The names of all stages, in an order in which they can run, if none has to run; None if only DVC can tell."""
    record = read_sealed(root / RECORD)
    if record is None or record["state"] != _state(root, record["paths"]):
        return None
    return record["stages"]


def remember(root: Path) -> None:
    """Writes the record if DVC finds all stages up to date; otherwise there is none.

    The file system is asked before DVC is: a file that changes in between differs from the record at the next look.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.reproduce import get_active_graph, plan_repro
    from dvc.stage import PipelineStage

    try:
        (root / RECORD).unlink(missing_ok=True)
        with closing(Repo(str(root))) as repo:
            stages = repo.index.stages
            items = [item for stage in stages for item in (*stage.deps, *stage.outs)]
            if any(item.protocol != "local" for item in items):
                return
            files = {*(item.fs_path for item in items), *(stage.path for stage in stages)}
            paths = sorted({*SETTINGS, *(os.path.relpath(file, root) for file in files)})
            state = _state(root, paths)
            if state is None or repo.status():
                return
            wanted = repo.stage.collect(str(root / "dvc.yaml"))
            ordered = plan_repro(get_active_graph(repo.index.graph), list(wanted))
            names = [str(stage.name) for stage in ordered if isinstance(stage, PipelineStage)]
            write_sealed(root / RECORD, {"stages": names, "paths": paths, "state": state})
    except (DvcException, OSError, UserError):
        return  # the run itself has succeeded, and without a record the next one asks DVC


def _state(root: Path, paths: Iterable[str]) -> str | None:
    """A hash of what the file system says of these files, and of all files in these folders; None if it is unsure."""
    state = hashlib.sha256()
    try:
        for path in paths:
            for name, told in _files(str(root / path)):
                state.update(f"{path}\0{name}\0{told}\n".encode(errors="surrogateescape"))
    except (FileNotFoundError, NotADirectoryError):
        return None  # a file that went while its folder was read, or a link to nothing
    return state.hexdigest()


def _files(path: str) -> Iterator[tuple[str, str]]:
    """The file, or all files in the folder without Python's caches, and what the file system says of each.

    Raises:
        FileNotFoundError: a name without a file, in the folder.
    """
    if not os.path.exists(path):  # noqa: PTH110
        yield "", "missing"
    elif not os.path.isdir(path):  # noqa: PTH112
        yield "", _told(os.stat(path))  # noqa: PTH116
    else:
        for folder, folders, files in os.walk(path, followlinks=True):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            for name in sorted(files):
                yield f"{folder}/{name}", _told(os.stat(f"{folder}/{name}"))  # noqa: PTH116


def _told(status: os.stat_result) -> str:
    return str([status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns])
