"""DVC experiments that leave the user's files alone: made in a copy of the project, then handed over to its git.

`dvc exp run --temp` puts uncommitted changes into git's stash and detaches HEAD for a moment at its start. Killed in
that second, it leaves the project without the changes, and a stage or an editor that reads a file then finds the
committed one. Here the project is cloned to .work/studies (objects shared, files as they are in the working tree),
plain `dvc repro` runs in the clone, on the project's cache, and `dvc exp save` makes the commit that git then fetches.
The clone is made anew each time: whatever happens to it, nothing is lost. Trainings resume from the project's .work.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from scm.base import locks
from scm.base.files import link_or_copy, write_text
from scm.errors import UserError
from scm.pipeline.dvc_command import dvc, git
from scm.results.provenance import git_fault, in_repository

WANTED = ("evaluate",)
"""Stages that an experiment runs, with all that they need; an experiment has no report."""
CODE = ("scm", "stages")
"""Folders of which an experiment takes even files that git does not track yet."""
RESULTS = ("results/metrics", "results/curves")
FILES = ("codec.path", "reference.weights", "reference.statistics", "teacher.start", "select.guide")
"""Keys of params.yaml beside data.path that may name files which git does not know."""
_IDENTITY = {"user.name": "scm", "user.email": "scm@localhost"}


class Clone:
    """A copy (`folder`) of the project at `root`, in which experiments are made one after the other."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder

    def link(self, values: Mapping[str, Any]) -> None:
        """Gives the copy the files that these values of params.yaml name and git does not know."""
        for section, key in (key.split(".") for key in FILES):
            if values[section][key] is not None:
                link_images(self.root, self.folder, values[section][key])

    def write(self, params: str) -> None:
        """Writes params.yaml."""
        write_text(self.folder / "params.yaml", params)

    def prepare(self, params: str) -> None:
        """Writes params.yaml, and restores the outputs that DVC has in its cache."""
        self.write(params)
        dvc(self.folder, "checkout", "--force", "--allow-missing", "--quiet")

    def save(self, name: str) -> None:
        """Makes an experiment of the clone's contents and hands it to the project, over an older one of this name."""
        git(self.folder, "add", "--all", "--", *CODE, *RESULTS)
        dvc(self.folder, "exp", "save", "--force", "--name", name, *WANTED)
        base = git(self.folder, "rev-parse", "HEAD").stdout.strip()
        ref = f"refs/exps/{base[:2]}/{base[2:]}/{name}"
        git(self.root, "fetch", "--quiet", "--no-write-fetch-head", str(self.folder), f"+{ref}:{ref}")


@contextmanager
def clone(root: Path, data: str | None, purpose: str = "studies", *, keep: bool = False) -> Iterator[Clone]:
    """Makes a fresh copy of the project, which no other process uses for this purpose at the same time.

    Args:
        root: the project's folder.
        data: `data.path`, whose files git need not know; None = nothing that runs in the copy reads them.
        purpose: name of the copy's folder in .work.
        keep: leave the copy there afterwards, until another one for this purpose is made.

    Raises:
        UserError: the project is no git repository or has no commit, another copy is in use, or `data` leads out of
            the project.
    """
    check(root, data)
    made = Clone(root, place(root, purpose))
    with ExitStack() as stack:
        try:
            stack.enter_context(locks.held(made.folder.with_name("lock"), wait=False))
        except locks.Taken:
            problem = f"another copy of {root} for {purpose} is in use"
            raise UserError(f"{problem}: wait for that command or end it") from None
        shutil.rmtree(made.folder, ignore_errors=True)
        if not keep:
            stack.callback(shutil.rmtree, made.folder, ignore_errors=True)
        _fill(made, data)
        yield made


def place(root: Path, purpose: str) -> Path:
    """Where a copy of the project for this purpose lies."""
    return root / ".work" / purpose / "clone"


def check(root: Path, data: str | None) -> None:
    """Raises UserError if experiments cannot be made in this project."""
    if not in_repository(root):
        problem = f"{root} is in no git repository, but experiments are commits"
        raise UserError(f"{problem}: run `git init && git add . && git commit` there")
    if git(root, "rev-parse", "--show-prefix", check=False).stdout.strip():
        remedy = "make it a repository of its own"
        raise UserError(f"{root} is only a folder of a git repository, but experiments are copies of one: {remedy}")
    if fault := git_fault(root):
        raise UserError(f"{fault}; experiments are commits")
    if data and not Path(data).is_absolute() and not (root / data).resolve().is_relative_to(root.resolve()):
        raise UserError(f"params.yaml: data.path = {data}: leads out of the project; write an absolute path")


def listed(root: Path, *which: str) -> list[str]:
    """Files of the working tree, without those that git ignores."""
    return lines(git(root, "ls-files", "-z", "--exclude-standard", *which).stdout)


def lines(text: str) -> list[str]:
    """Splits the output of a git command that was run with -z."""
    return [line for line in text.split("\0") if line]


def link_images(root: Path, copy: Path, data: str) -> None:
    """Gives a copy of the project the images that git does not know, as further names of the same files.

    Each file is linked, not their folder: through that, `dvc checkout` in the copy would change the project's images.
    """
    if Path(data).is_absolute():
        return
    inside = (Path(folder, name) for folder, _, names in os.walk(root / data) for name in names)
    for path in chain([root / data], inside):  # rglob would keep all paths in memory
        target = copy / path.relative_to(root)
        if path.is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(path, target)


def _fill(made: Clone, data: str | None) -> None:
    root, folder = made.root, made.folder
    # The repository, without a checkout: the files come from the working tree, uncommitted changes included.
    git(root, "clone", "--quiet", "--shared", "--no-checkout", str(root), str(folder))
    git(folder, "reset", "--quiet")
    new = listed(root, "--others", "--", *CODE, "dvc.lock", *RESULTS)
    for name in [*listed(root, "--cached"), *new, ".dvc/config.local"]:
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    if data:
        link_images(root, folder, data)
    # The project's own cache, and an identity for the experiment's commit.
    dvc(folder, "config", "--local", "cache.dir", dvc(root, "cache", "dir").stdout.strip())
    dvc(folder, "config", "--local", "core.autostage", "true")
    for key, fallback in _IDENTITY.items():
        known = git(root, "config", key, check=False).stdout.strip()
        git(folder, "config", key, known or fallback)
