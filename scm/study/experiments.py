"""Finished DVC experiments: which there are, and whether their code and data are today's."""

import io
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scm.base.yaml_files import parse_mapping, read_text
from scm.pipeline.clone import CODE, RESULTS, _git, _lines, _listed, _run
from scm.results.fingerprint import content_hash

SNAPSHOTS = "models/teacher/snapshots"
"""What `scm import-teacher` fills."""


@dataclass(frozen=True)
class Experiment:
    """A finished experiment.

    Attributes:
        name: as `dvc exp show` has it.
        revision: its commit.
        time: of the commit, unix s.
    """

    name: str
    revision: str
    time: float


def finished(root: Path) -> dict[str, list[Experiment]]:
    """All experiments of the project by name; those of one name, over different commits, newest first."""
    form = "--format=%(refname) %(objectname) %(committerdate:unix)"
    found: dict[str, list[Experiment]] = {}
    for line in _git(root, "for-each-ref", "--sort=-committerdate", form, "refs/exps").splitlines():
        ref, revision, moment = line.split()
        if not ref.startswith("refs/exps/exec/"):
            name = ref.rpartition("/")[2]
            found.setdefault(name, []).append(Experiment(name, revision, float(moment)))
    return found


def has_this_code(root: Path, experiment: Experiment) -> bool:
    """Whether the code that the stages depend on is the experiment's; edits and new files that git lacks count."""
    used = [stage.get("do", stage) for name, stage in _stages(root).items() if name != "report"]
    paths = {path for stage in used for path in stage.get("deps", ())}
    code = sorted(path for path in paths if path.partition("/")[0] in CODE)
    then = _lines(_git(root, "ls-tree", "-r", "-z", experiment.revision, "--", *code))
    files = [name for name in _listed(root, "--cached", "--others", "--", *code) if (root / name).is_file()]
    now = zip(files, _git(root, "hash-object", "--", *files).split(), strict=True)
    return {name: entry.split()[2] for entry, name in (line.split("\t", 1) for line in then)} == dict(now)


def sources(root: Path, data: str) -> list[str | None]:
    """Hashes of what results follow from beside parameters and code: the images, and a teacher trained elsewhere."""
    images = content_hash(root / data) if (root / data).exists() else None
    if not _stages(root).get("train_teacher", {}).get("frozen"):
        return [images, None]
    lock = parse_mapping(read_text(root / "dvc.lock", "import the teacher again"), "dvc.lock")
    made = lock.get("stages", {}).get("train_teacher", {}).get("outs", ())
    return [images, *(out["md5"] for out in made if out["path"] == SNAPSHOTS)]


def _stages(root: Path) -> dict[str, Any]:
    text = read_text(root / "dvc.yaml", "run from the project's folder")
    return parse_mapping(text, "dvc.yaml").get("stages", {})


@contextmanager
def unpacked(root: Path, experiment: Experiment) -> Iterator[Path]:
    """A temporary folder with the experiment's results/metrics and results/curves."""
    archive = _run(root, "git", "archive", "--format=zip", experiment.revision, *RESULTS).stdout
    with tempfile.TemporaryDirectory(prefix="scm-study-") as folder:
        with zipfile.ZipFile(io.BytesIO(archive)) as file:
            file.extractall(folder)
        yield Path(folder)
