"""A retraining's result as a branch, and a pull or merge request where the git service has them.

Commits are made with a temporary index on top of HEAD: work tree, index and HEAD stay as they are. Nothing is pushed
that is there already, so that a repetition changes nothing. Pictures lie on a branch of their own, so that the history
that people clone does not grow by them.
"""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scm.base.files import write_text
from scm.errors import UserError
from scm.pipeline.dvc_command import FOREIGN

CONTENT = ("dvc.lock", "params.yaml", "results/metrics", "results/curves")
"""What is proposed: what git keeps of a retraining, and the values that it was done with."""
PICTURES = "scm-pictures"
"""The branch with pictures."""
TRAILER = "Proposed-by: scm retrain"
"""Ends the message of a commit that may be replaced by a later one."""
_IDENTITY = {"NAME": "scm retrain", "EMAIL": "scm@localhost"}


@dataclass(frozen=True)
class Text:
    """What a proposal says.

    Attributes:
        title: one line.
        body: Markdown, for the commit as well.
        pictures: Markdown that only a page shows.
    """

    title: str
    body: str
    pictures: str = ""


def propose(root: Path, to: str, remote: str, branch: str, text: Text, *, renew: bool = True) -> str:
    """Pushes what is new as a branch and asks to merge it.

    Args:
        root: the project's folder, top of its git repository.
        to: github (a pull request by `gh`), gitlab (a merge request by push options) or branch.
        remote: git's name of where it is pushed to.
        branch: its name; the same content on the same HEAD is pushed once.
        text: what the commit and the request say.
        renew: whether that takes the place of what an open request says.

    Returns:
        one line that says what was done.

    Raises:
        UserError: git or gh failed, or somebody else has pushed to the branch meanwhile.
    """
    git = _Git(root, to)
    head = git("rev-parse", "HEAD")
    tree = _tree(git)
    if tree == git("rev-parse", "HEAD^{tree}"):
        return "nothing to propose: HEAD has these results"
    there = _fetched(git, remote, branch)
    pushed = there is not None and git("cat-file", "commit", there).startswith(f"tree {tree}\nparent {head}\n")
    if not pushed:
        if there is not None and TRAILER not in git("log", "-1", "--format=%B", there):
            return f"branch {branch} has a commit of somebody else: left as it is"
        options = ["merge_request.create", f"merge_request.title={text.title}"] if to == "gitlab" else []
        commit = _commit(git, tree, [head], f"{text.title}\n\n{text.body.strip()}\n\n{TRAILER}")
        _push(git, remote, branch, commit, there, options)
    said = f"branch {branch} {'is there already' if pushed else 'pushed'}"
    return f"{said}: {_pull_request(git, branch, text, renew)}" if to == "github" else said


def picture_links(root: Path, to: str, remote: str, branch: str, pictures: Sequence[Path]) -> str:
    """Pushes pictures to their branch; Markdown that shows them, empty where there is no page to show them on."""
    place = _page(to)
    if place is None or not pictures:
        return ""
    git = _Git(root, to)
    names = {path: f"{branch}/{path.parent.name}-{path.name}" for path in pictures}
    for _ in range(3):  # another job may push to the same branch at the same moment
        there = _fetched(git, remote, PICTURES)
        tree = _tree_with(git, there, dict(zip(names.values(), names, strict=True)))
        if there is not None and tree == git("rev-parse", f"{there}^{{tree}}"):
            break
        commit = _commit(git, tree, [there] if there else [], f"Pictures of {branch}")
        try:
            _push(git, remote, PICTURES, commit, there, [])
        except UserError:
            if _remote_head(git, remote, PICTURES) == there:
                raise
            continue
        there = commit
        break
    else:
        raise UserError(f"the branch {PICTURES} of {remote} moves all the time: run the command again")
    heads = [path.parent.name + ", " + path.stem for path in pictures]
    shown = [
        f"![{alt}]({place.format(sha=there, path=names[path])})" for alt, path in zip(heads, pictures, strict=True)
    ]
    return f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}\n| {' | '.join(shown)} |\n"


def _page(to: str) -> str | None:
    """Address of a file of a commit, as the service shows it to those who may read the repository."""
    if to == "github" and os.environ.get("GITHUB_REPOSITORY"):
        server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
        return f"{server}/{os.environ['GITHUB_REPOSITORY']}/blob/{{sha}}/{{path}}?raw=true"
    return None


def _pull_request(git: "_Git", branch: str, text: Text, renew: bool) -> str:
    """Opens the branch's one pull request, or renews its text; its address. One that was closed stays so."""
    listed = git.run("gh", "pr", "list", "--head", branch, "--state", "all", "--json", "url,state")
    found = sorted(json.loads(listed or "[]"), key=lambda request: request["state"] != "OPEN")
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "body.md"
        write_text(body, f"{text.body}\n{text.pictures}")
        written = ("--title", text.title, "--body-file", str(body))
        if not found:
            return git.run("gh", "pr", "create", "--head", branch, *written)
        if renew and found[0]["state"] == "OPEN":
            git.run("gh", "pr", "edit", found[0]["url"], *written)
        return found[0]["url"]


def _tree(git: "_Git") -> str:
    """HEAD's tree with what the work tree has of CONTENT."""
    with _index() as index:
        git("read-tree", "HEAD", env=index)
        paths = [path for path in CONTENT if (git.root / path).exists() or git("ls-files", "--", path)]
        git("add", "--all", "--", *paths, env=index)
        return git("write-tree", env=index)


def _tree_with(git: "_Git", base: str | None, files: Mapping[str, Path]) -> str:
    """The tree of a commit, None = an empty one, with files of other places added."""
    with _index() as index:
        if base is not None:
            git("read-tree", base, env=index)
        for name, path in files.items():
            blob = git("hash-object", "-w", "--no-filters", "--", str(path))
            git("update-index", "--add", "--cacheinfo", f"100644,{blob},{name}", env=index)
        return git("write-tree", env=index)


@contextmanager
def _index() -> Iterator[dict[str, str]]:
    """The environment in which git works on a temporary index."""
    with tempfile.TemporaryDirectory(prefix="scm-index-") as folder:
        yield {"GIT_INDEX_FILE": str(Path(folder) / "index")}


def _commit(git: "_Git", tree: str, parents: Sequence[str], message: str) -> str:
    known = {"NAME": _setting(git, "user.name"), "EMAIL": _setting(git, "user.email")}
    who = {
        f"GIT_{role}_{part}": os.environ.get(f"GIT_{role}_{part}") or known[part] or _IDENTITY[part]
        for role in ("AUTHOR", "COMMITTER")
        for part in _IDENTITY
    }
    over = [argument for parent in parents for argument in ("-p", parent)]
    return git("commit-tree", tree, *over, "-m", message, env=who)


def _setting(git: "_Git", key: str) -> str:
    return git("config", key, check=False)


def _remote_head(git: "_Git", remote: str, branch: str) -> str | None:
    line = git("ls-remote", "--heads", remote, f"refs/heads/{branch}")
    return line.split()[0] if line else None


def _fetched(git: "_Git", remote: str, branch: str) -> str | None:
    """The head of the branch, whose commits are here afterwards; None if there is no such branch."""
    there = _remote_head(git, remote, branch)
    if there is not None:
        git("fetch", "--quiet", "--no-write-fetch-head", remote, f"refs/heads/{branch}")
    return there


def _push(git: "_Git", remote: str, branch: str, commit: str, there: str | None, options: Sequence[str]) -> None:
    """Moves the branch, unless it has moved since it was looked at."""
    lease = f"--force-with-lease=refs/heads/{branch}:{there or ''}"
    asked = [f"--push-option={option}" for option in options]
    git("push", "--quiet", lease, *asked, remote, f"{commit}:refs/heads/{branch}")


class _Git:
    """Runs git and gh in a repository.

    With `to` github, git asks gh for the credentials, so that no job has to leave them in its checkout.
    """

    def __init__(self, root: Path, to: str) -> None:
        self.root = root
        helper = ("credential.helper", "!gh auth git-credential")
        keys = ("GIT_CONFIG_COUNT", "GIT_CONFIG_KEY_0", "GIT_CONFIG_VALUE_0")
        self._env = dict(zip(keys, ("1", *helper), strict=True)) if to == "github" else {}

    def __call__(self, *arguments: str, env: Mapping[str, str] | None = None, check: bool = True) -> str:
        return self.run("git", *arguments, env={**self._env, **(env or {})}, check=check)

    def run(self, *command: str, env: Mapping[str, str] | None = None, check: bool = True) -> str:
        own = {key: value for key, value in os.environ.items() if key not in FOREIGN}
        variables = {**own, "GIT_TERMINAL_PROMPT": "0", **(env or {})}
        try:
            done = subprocess.run(command, cwd=self.root, env=variables, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise UserError(f"{command[0]} is missing: install it, or use --propose branch") from None
        if check and done.returncode:
            lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
            reason = re.sub(r"//[^/@\s]+@", "//", (lines or ["no message"])[-1])
            what = " ".join(command[:3] if command[0] == "gh" else command[:2])
            raise UserError(f"`{what}` failed ({reason}): see to the access to the remote, then run the command again")
        return done.stdout.strip()
