"""Proposes a retraining's results as a branch, with a pull or merge request where the git service has these.

The commit is made with a temporary index on top of HEAD, so work tree, index and HEAD stay as they are. What is already
on the remote is not pushed again, so a repetition changes nothing.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from scm.base.files import write_text
from scm.base.processes import last_line, own_environment, run_program
from scm.errors import UserError
from scm.params.addresses import without_secrets
from scm.results.provenance import git_fault

CONTENT = ("dvc.lock", "params.yaml", "results/metrics", "results/curves")
"""Files that are proposed: those of a retraining that git keeps, and its parameters."""
TRAILER = "Proposed-by: scm retrain"
"""Last line of the message of a commit that a later one may replace."""
_IDENTITY = {"NAME": "scm retrain", "EMAIL": "scm@localhost"}


def propose(root: Path, to: str, remote: str, branch: str, title: str, body: str, *, renew: bool = True) -> str:
    """Pushes new results as a branch and asks to merge it.

    Args:
        root: the project's folder, the top of its git repository.
        to: github (a pull request by `gh`), gitlab (a merge request by push options) or branch.
        remote: git's name of the remote that gets the branch.
        branch: name of the branch; the same content on the same HEAD is pushed once.
        title, body: the text of the commit and of the request; one line, and Markdown.
        renew: True = replace the text of an open request.

    Returns:
        one line that says what was done.

    Raises:
        UserError: git or gh failed, or somebody else has meanwhile pushed to the branch.
    """
    if fault := git_fault(root):
        raise UserError(fault)
    git = _Git(root, to)
    # What would be proposed; nothing if HEAD has it already.
    head = git("rev-parse", "HEAD")
    tree = _tree(git)
    if tree == git("rev-parse", "HEAD^{tree}"):
        return "nothing to propose: HEAD has these results"
    # The remote may have the branch already, from an earlier call or with somebody's own commits.
    old = _fetched(git, remote, branch)
    pushed = old is not None and git("cat-file", "commit", old).startswith(f"tree {tree}\nparent {head}\n")
    if not pushed:
        if old is not None and TRAILER not in git("log", "-1", "--format=%B", old):
            return f"branch {branch} has a commit of somebody else: left as it is"
        commit = _commit(git, tree, head, f"{title}\n\n{body.strip()}\n\n{TRAILER}")
        # Fails if somebody has moved the branch meanwhile.
        lease = f"--force-with-lease=refs/heads/{branch}:{old or ''}"
        asked = ["merge_request.create", f"merge_request.title={title}"] if to == "gitlab" else []
        options = [f"--push-option={option}" for option in asked]
        git("push", "--quiet", lease, *options, remote, f"{commit}:refs/heads/{branch}")
    said = f"branch {branch} {'is there already' if pushed else 'pushed'}"
    return f"{said}: {_pull_request(git, branch, title, body, renew)}" if to == "github" else said


def _pull_request(git: "_Git", branch: str, title: str, body: str, renew: bool) -> str:
    """Opens the branch's pull request, or renews its text; returns its address. A closed request stays closed."""
    listed = git.run("gh", "pr", "list", "--head", branch, "--state", "all", "--json", "url,state")
    found = sorted(json.loads(listed or "[]"), key=lambda request: request["state"] != "OPEN")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "body.md"
        write_text(file, body)
        written = ("--title", title, "--body-file", str(file))
        if not found:
            return git.run("gh", "pr", "create", "--head", branch, *written)
        if renew and found[0]["state"] == "OPEN":
            git.run("gh", "pr", "edit", found[0]["url"], *written)
        return found[0]["url"]


def _tree(git: "_Git") -> str:
    """HEAD's tree with the files of CONTENT as the work tree has them, made in a temporary index."""
    with tempfile.TemporaryDirectory(prefix="scm-index-") as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        git("read-tree", "HEAD", env=index)
        paths = [path for path in CONTENT if (git.root / path).exists() or git("ls-files", "--", path)]
        git("add", "--all", "--", *paths, env=index)
        return git("write-tree", env=index)


def _commit(git: "_Git", tree: str, parent: str, message: str) -> str:
    """Makes a commit, in the user's name if git or the environment knows it."""
    known = {part: git("config", f"user.{part.lower()}", check=False) for part in _IDENTITY}
    who = {
        f"GIT_{role}_{part}": os.environ.get(f"GIT_{role}_{part}") or known[part] or _IDENTITY[part]
        for role in ("AUTHOR", "COMMITTER")
        for part in _IDENTITY
    }
    return git("commit-tree", tree, "-p", parent, "-m", message, env=who)


def _fetched(git: "_Git", remote: str, branch: str) -> str | None:
    """Fetches the branch and returns its head, None if the remote has no such branch."""
    line = git("ls-remote", "--heads", remote, f"refs/heads/{branch}")
    if not line:
        return None
    git("fetch", "--quiet", "--no-write-fetch-head", remote, f"refs/heads/{branch}")
    return line.split()[0]


class _Git:
    """Runs git and gh in a repository.

    With `to` github, git asks gh for credentials, so a job need not keep them in its checkout.
    """

    def __init__(self, root: Path, to: str) -> None:
        self.root = root
        helper = {"GIT_CONFIG_KEY_0": "credential.helper", "GIT_CONFIG_VALUE_0": "!gh auth git-credential"}
        self._env = {"GIT_CONFIG_COUNT": "1", **helper} if to == "github" else {}

    def __call__(self, *arguments: str, env: Mapping[str, str] | None = None, check: bool = True) -> str:
        return self.run("git", *arguments, env={**self._env, **(env or {})}, check=check)

    def run(self, *command: str, env: Mapping[str, str] | None = None, check: bool = True) -> str:
        variables = {**own_environment(), "GIT_TERMINAL_PROMPT": "0", **(env or {})}
        try:
            done = run_program(*command, cwd=self.root, env=variables)
        except FileNotFoundError:
            raise UserError(f"{command[0]} is missing: install it, or use --propose branch") from None
        if check and done.returncode:
            what = " ".join(command[:3] if command[0] == "gh" else command[:2])
            reason = without_secrets(last_line(done))
            raise UserError(f"`{what}` failed ({reason}): see to the access to the remote, then run the command again")
        return done.stdout.strip()
