"""DVC experiments that leave the user's files alone: made in a copy of the project, then handed over to its git.

`dvc exp run --temp` puts uncommitted changes into git's stash and detaches HEAD for a moment at its start: killed in
that second, it leaves the project without them, and a stage or an editor that reads a file then finds the committed
one. Here the project is cloned to .work/studies (objects shared, files as they are in the working tree), plain
`dvc repro` runs in the clone, on the project's cache, and `dvc exp save` makes the commit that git then fetches. The
clone is made anew each time: whatever happens to it, nothing is lost. Trainings resume from the project's .work.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scm.base.files import link_or_copy, write_text
from scm.errors import UserError
from scm.pipeline.dvc_command import FOREIGN, dvc

WANTED = ("evaluate",)
"""Stages that an experiment runs, with all that they need; it has no report."""
CODE = ("scm", "stages")
"""Folders whose new files an experiment takes along, as it takes all that git tracks."""
RESULTS = ("results/metrics", "results/curves")
_IDENTITY = {"user.name": "scm", "user.email": "scm@localhost"}


class Clone:
    """A copy of the project in which experiments are made, one after the other.

    Attributes:
        root: the project.
        folder: the copy.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder

    def prepare(self, params: str) -> None:
        """Writes params.yaml, and brings outputs that DVC knows back from its cache."""
        write_text(self.folder / "params.yaml", params)
        dvc(self.folder, "checkout", "--force", "--allow-missing", "--quiet")

    def save(self, name: str) -> None:
        """Makes an experiment of what the clone holds and hands it to the project, in place of an older one."""
        _git(self.folder, "add", "--all", "--", *CODE, *RESULTS)
        dvc(self.folder, "exp", "save", "--force", "--name", name, *WANTED)
        base = _git(self.folder, "rev-parse", "HEAD")
        ref = f"refs/exps/{base[:2]}/{base[2:]}/{name}"
        _git(self.root, "fetch", "--quiet", "--no-write-fetch-head", str(self.folder), f"+{ref}:{ref}")


@contextmanager
def clone(root: Path, data: str | None, purpose: str = "studies") -> Iterator[Clone]:
    """A fresh copy of the project, which nothing else uses for this purpose at the same time.

    Args:
        root: the project.
        data: `data.path`, which git need not know; None = what runs there does not read it.
        purpose: name of the folder in .work.

    Raises:
        UserError: outside git, without a commit, while another one is in use, or for a path out of the project.
    """
    check(root, data)
    place = root / ".work" / purpose
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another copy of {root} for {purpose} is in use: wait for that command or end it"
            ) from None
        made = Clone(root, place / "clone")
        shutil.rmtree(made.folder, ignore_errors=True)
        try:
            _fill(made, data)
            yield made
        finally:
            shutil.rmtree(made.folder, ignore_errors=True)


def check(root: Path, data: str | None) -> None:
    """Raises UserError where experiments cannot be made."""
    if _run(root, "git", "rev-parse", "--show-prefix", check=False).stdout.strip():
        remedy = "make it a repository of its own"
        raise UserError(f"{root} is only a folder of a git repository, but experiments are copies of one: {remedy}")
    if _run(root, "git", "rev-parse", "--verify", "--quiet", "HEAD", check=False).returncode:
        raise UserError(f"{root} has no commit, but experiments are commits: `git init && git add . && git commit`")
    if data and not Path(data).is_absolute() and not (root / data).resolve().is_relative_to(root.resolve()):
        raise UserError(f"params.yaml: data.path = {data}: leads out of the project; write an absolute path")


def _fill(made: Clone, data: str | None) -> None:
    root, folder = made.root, made.folder
    _git(root, "clone", "--quiet", "--shared", "--no-checkout", str(root), str(folder))
    _git(folder, "reset", "--quiet")
    new = _listed(root, "--others", "--", *CODE, "dvc.lock", *RESULTS)
    for name in [*_listed(root, "--cached"), *new, ".dvc/config.local"]:
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    if data and not Path(data).is_absolute():
        for path in [root / data, *(root / data).rglob("*")]:
            target = folder / path.relative_to(root)
            if path.is_file() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(path, target)
    dvc(folder, "config", "--local", "cache.dir", dvc(root, "cache", "dir").stdout.strip())
    dvc(folder, "config", "--local", "core.autostage", "true")
    for key, fallback in _IDENTITY.items():
        known = _run(root, "git", "config", key, check=False).stdout.decode().strip()
        _git(folder, "config", key, known or fallback)


def _listed(root: Path, *which: str) -> list[str]:
    """Files of the working tree, without those that git ignores."""
    return _lines(_git(root, "ls-files", "-z", "--exclude-standard", *which))


def _lines(text: str) -> list[str]:
    """What git wrote with -z."""
    return [line for line in text.split("\0") if line]


def _git(folder: Path, *arguments: str) -> str:
    return _run(folder, "git", *arguments).stdout.decode().strip()


def _run(folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    """A short command, out of the reach of the terminal's Ctrl-C: the step is finished, then the study stops."""
    environment = {key: value for key, value in os.environ.items() if key not in FOREIGN}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, check=False, start_new_session=True
        )
    except FileNotFoundError:
        raise UserError(f"{command[0]} is missing: install it") from None
    if check and done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise UserError(f"`{' '.join(command[:4])} ...` in {folder} failed ({lines[-1]}): run it there yourself")
    return done
