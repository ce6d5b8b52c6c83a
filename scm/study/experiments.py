"""Finished DVC experiments: which ones exist, and whether they were made with today's code and data."""

import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scm.errors import UserError
from scm.pipeline.clone import CODE, RESULTS, lines, listed
from scm.pipeline.dvc_command import git
from scm.results.fingerprint import content_hash, defined_stages, made_by_stages

SNAPSHOTS = "models/teacher/snapshots"
"""The output that `scm import-teacher` fills."""


@dataclass(frozen=True)
class Experiment:
    """A finished experiment.

    Attributes:
        name: as `dvc exp show` lists it.
        revision: its commit.
        time: of the commit, unix seconds.
    """

    name: str
    revision: str
    time: float


def finished(root: Path) -> dict[str, list[Experiment]]:
    """All experiments of the project by name; experiments with one name, over different commits, newest first."""
    form = "--format=%(refname) %(objectname) %(committerdate:unix)"
    found: dict[str, list[Experiment]] = {}
    for line in git(root, "for-each-ref", "--sort=-committerdate", form, "refs/exps").stdout.splitlines():
        ref, revision, moment = line.split()
        if not ref.startswith("refs/exps/exec/"):
            name = ref.rpartition("/")[2]
            found.setdefault(name, []).append(Experiment(name, revision, float(moment)))
    return found


def has_this_code(root: Path, experiment: Experiment) -> bool:
    """True if the stages depend on the same code as the experiment's, uncommitted edits and new files included."""
    used = [stage.get("do", stage) for name, stage in defined_stages(root).items() if name != "report"]
    # A path with a parameter in it stands for its whole folder: a new file there makes experiments run again, from the
    # run cache where nothing that they use has changed.
    paths = {path.partition("/${")[0] for stage in used for path in stage.get("deps", ())}
    code = sorted(path for path in paths if path.partition("/")[0] in CODE)
    then = lines(git(root, "ls-tree", "-r", "-z", experiment.revision, "--", *code).stdout)
    files = [name for name in listed(root, "--cached", "--others", "--", *code) if (root / name).is_file()]
    now = zip(files, git(root, "hash-object", "--", *files).stdout.split(), strict=True)
    return {name: entry.split()[2] for entry, name in (line.split("\t", 1) for line in then)} == dict(now)


def sources(root: Path, data: str) -> list[str | None]:
    """Hashes of the images in `data.path` and of an imported teacher.

    Results follow from these, parameters and code alone.
    """
    images = content_hash(root / data) if (root / data).exists() else None
    if not defined_stages(root).get("train_teacher", {}).get("frozen"):
        return [images, None]
    teacher = made_by_stages(root).get(SNAPSHOTS)
    if teacher is None:
        raise UserError(f"{SNAPSHOTS} in dvc.lock is missing: import the teacher again")
    return [images, teacher["md5"]]


@contextmanager
def unpacked(root: Path, revision: str, paths: Sequence[str] = RESULTS) -> Iterator[Path]:
    """Yields a temporary folder with these files and folders of a commit."""
    with tempfile.TemporaryDirectory(prefix="scm-") as folder:
        archive = Path(folder) / "files.zip"
        git(root, "archive", "--format=zip", f"--output={archive}", revision, *paths)
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
        archive.unlink()
        yield Path(folder)
