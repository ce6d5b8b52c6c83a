"""Tells without DVC, in a fraction of a second, that nothing has changed since a complete `scm run`.

When `dvc repro` has run the whole pipeline, `remember` asks DVC once more whether all is up to date, and records what
the file system says of every file that DVC looks at: the stages' definitions, what they read, what they left, and the
cache's copies of it. A file that is not there is recorded as well where it would change what DVC does.
`unchanged_stages` compares the file system with the record. Any difference, and any doubt, leaves the answer to DVC,
which trusts a file's size, time and inode as well.

Importing DVC takes longer than all this, so the comparison needs the standard library alone.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from scm.base.files import read_sealed, write_sealed
from scm.errors import UserError

RECORD = Path(".work", "unchanged.json")
"""The record in a project. It lies where `make clean` removes it together with the outputs."""
VARIABLES = re.compile(r"^\s*vars:", re.MULTILINE)
"""In a dvc.yaml: values from further files, which no stage names."""


def unchanged_stages(root: Path) -> list[str] | None:
    """The names of all stages, in an order in which they can run, if none has to run; None if only DVC can tell."""
    record = read_sealed(root / RECORD)
    if record is None or not record.keys() >= {"stages", "paths", "state"}:
        return None
    return record["stages"] if _state(root, record["paths"]) == record["state"] else None


def remember(root: Path) -> None:
    """Writes the record if DVC finds all stages up to date; otherwise there is none.

    The file system is asked before DVC is: a file that changes in between differs from the record at the next look.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.reproduce import get_active_graph, plan_repro
    from dvc.stage import PipelineStage

    definition = str(root / "dvc.yaml")
    try:
        (root / RECORD).unlink(missing_ok=True)
        with closing(Repo(str(root))) as repo:
            wanted = list(repo.stage.collect(definition))
            stages: list[Any] = list(plan_repro(get_active_graph(repo.index.graph), wanted))
            if any(item.protocol != "local" for stage in stages for item in (*stage.deps, *stage.outs)):
                return
            if any(VARIABLES.search(Path(path).read_text()) for path in {stage.path for stage in stages}):
                return
            paths = sorted(os.path.relpath(path, root) for path in {*repo.config.files.values(), *_looked_at(stages)})
            state = _state(root, paths)
            if state is None or repo.status(targets=[definition], with_deps=True):
                return
            names = [str(stage.name) for stage in stages if isinstance(stage, PipelineStage)]
            write_sealed(root / RECORD, {"stages": names, "paths": paths, "state": state})
    except (DvcException, OSError, UserError):
        return  # the run itself has succeeded, and without a record the next one asks DVC


def _looked_at(stages: Iterable[Any]) -> Iterator[str]:
    """The files and folders that decide whether DVC runs these stages, whether they are there or not."""
    for stage in stages:
        yield from (stage.path, str(Path(stage.path).with_name("dvc.lock")))
        for item in (*stage.deps, *stage.outs):
            yield item.fs_path
            top = Path(stage.repo.root_dir)
            for place in (Path(item.fs_path), *Path(item.fs_path).parents):
                if not place.is_relative_to(top):
                    break
                yield from (f"{place}.dvc", str(place / ".dvcignore"), str(place / "dvc.yaml"))
        for out in stage.outs:
            yield from _cached(out)


def _cached(out: Any) -> Iterator[str]:
    """The cache's copies of an output, without which DVC would make it again."""
    if out.use_cache and out.hash_info:
        yield out.cache_path
        for _, _, content in out.get_obj() or () if out.hash_info.isdir else ():
            yield out.cache.oid_to_path(content.value)


def _state(root: Path, paths: Iterable[str]) -> str | None:
    """A hash of what the file system says of these files, and of all files in these folders; None if it is unsure."""
    state = hashlib.sha256()
    try:
        for path in paths:
            for name, told in _files(str(root / path)):
                state.update(f"{path}\0{name}\0{told}\n".encode(errors="surrogateescape"))
    except OSError:
        return None  # such as a file that went while its folder was read, or a link to nothing
    return state.hexdigest()


def _files(path: str) -> Iterator[tuple[str, str]]:
    """The file, or all files in the folder without Python's caches, and what the file system says of each.

    Linked folders inside the folder are left out, as DVC leaves them out.

    Raises:
        OSError: a name without a file, in the folder.
    """
    if not os.path.exists(path):  # noqa: PTH110
        yield "", "missing"
    elif not os.path.isdir(path):  # noqa: PTH112
        yield "", _told(path)
    else:
        for folder, folders, files in os.walk(path):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            for name in sorted(files):
                yield f"{folder}/{name}", _told(f"{folder}/{name}")


def _told(path: str) -> str:
    status = os.stat(path)  # noqa: PTH116
    return str([status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns])
