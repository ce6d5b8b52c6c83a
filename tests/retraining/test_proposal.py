"""Branches and requests, against a bare repository and a gh that writes down what it is asked."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scm.errors import UserError
from scm.retraining import ci
from scm.retraining.proposal import TRAILER, propose

BRANCH, TITLE = "retrain/0123456789ab", "Promoted: digits, version 2"
BODY = "# Promoted\n\n| | candidate |\n|---|---|\n| fd@2 | 1.1 |\n"
TEXT = (TITLE, BODY)
GH = """#!{python}
import json, pathlib, sys
log, state = pathlib.Path({log!r}), pathlib.Path({state!r})
asked = json.loads(log.read_text()) if log.exists() else []
arguments = sys.argv[1:]
body = arguments.index("--body-file") + 1 if "--body-file" in arguments else None
shown = [pathlib.Path(a).read_text() if n == body else a for n, a in enumerate(arguments)]
log.write_text(json.dumps([*asked, shown]))
if arguments[:2] == ["pr", "list"]:
    there = state.read_text()
    print(json.dumps([{{"url": "https://example.invalid/1", "state": there}}] if there else []))
elif arguments[:2] == ["pr", "create"]:
    state.write_text("OPEN")
    print("https://example.invalid/1")
"""


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of a bare repository in which a retraining has left new results."""
    for name in [*os.environ]:
        if name.startswith(("GIT_", "GITHUB_", "CI_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    git(tmp_path, "init", "-q", "--bare", "-b", "main", "origin")
    git(tmp_path / "origin", "config", "receive.advertisePushOptions", "true")
    git(tmp_path, "clone", "-q", "origin", "clone")
    folder = tmp_path / "clone"
    write(
        folder, {"dvc.lock": "old", "params.yaml": "a: 1", "results/metrics/a.json": "1", "results/metrics/b.json": "1"}
    )
    write(folder, {".gitignore": "/results/samples\n", "README.md": "read me"})
    git(folder, "add", ".")
    git(folder, "-c", "user.name=t", "-c", "user.email=t@example.invalid", "commit", "-qm", "start")
    git(folder, "push", "-q", "origin", "HEAD:main")
    write(
        folder, {"dvc.lock": "new", "results/metrics/a.json": "2", "results/curves/a.csv": "x", "README.md": "edited"}
    )
    write(folder, {"results/samples/scd/nfe-1.png": "which git ignores"})
    (folder / "results/metrics/b.json").unlink()
    return folder


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def state(folder: Path) -> tuple[str, str, str]:
    return git(folder, "rev-parse", "HEAD"), git(folder, "status", "--porcelain"), git(folder, "ls-files", "--stage")


def test_what_is_new_is_on_the_branch_and_nothing_moves_here(root):
    before = state(root)
    assert propose(root, "branch", "origin", BRANCH, *TEXT) == f"branch {BRANCH} pushed"
    assert state(root) == before
    git(root, "fetch", "-q", "origin")
    shown = git(root, "diff", "--name-status", "HEAD", f"origin/{BRANCH}").splitlines()
    assert shown == ["M\tdvc.lock", "A\tresults/curves/a.csv", "M\tresults/metrics/a.json", "D\tresults/metrics/b.json"]
    assert git(root, "rev-parse", f"origin/{BRANCH}^") == before[0]
    who, _, message = git(root, "log", "-1", "--format=%an <%ae>%n%B", f"origin/{BRANCH}").partition("\n")
    assert who == "scm retrain <scm@localhost>"
    assert message.startswith(TITLE) and message.endswith(TRAILER)
    assert "| fd@2 | 1.1 |" in message


def test_again_pushes_nothing_and_new_results_replace_it(root):
    propose(root, "branch", "origin", BRANCH, *TEXT)
    first = git(root, "ls-remote", "origin", BRANCH)
    assert propose(root, "branch", "origin", BRANCH, *TEXT) == f"branch {BRANCH} is there already"
    assert git(root, "ls-remote", "origin", BRANCH) == first
    write(root, {"dvc.lock": "newer"})
    assert propose(root, "branch", "origin", BRANCH, *TEXT) == f"branch {BRANCH} pushed"
    assert git(root, "ls-remote", "origin", BRANCH) != first


def test_without_new_results_there_is_nothing_to_propose(root):
    git(root, "checkout", "-q", "HEAD", "--", "dvc.lock", "results")
    (root / "results/curves/a.csv").unlink()
    assert propose(root, "github", "origin", BRANCH, *TEXT) == "nothing to propose: HEAD has these results"
    assert git(root, "ls-remote", "origin", BRANCH) == ""


def test_ones_own_identity_is_kept(root):
    git(root, "config", "user.name", "somebody")
    git(root, "config", "user.email", "somebody@example.invalid")
    propose(root, "branch", "origin", BRANCH, *TEXT)
    git(root, "fetch", "-q", "origin")
    assert git(root, "log", "-1", "--format=%an %cn", f"origin/{BRANCH}") == "somebody somebody"


@pytest.fixture
def asked(root, tmp_path, monkeypatch):
    """A function that gives the calls of gh since it was asked last; `state` of the request that is there."""
    log, state = tmp_path / "asked.json", tmp_path / "state"
    program = tmp_path / "bin/gh"
    write(tmp_path, {"bin/gh": GH.format(python=sys.executable, log=str(log), state=str(state)), "state": ""})
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    def calls() -> list[list[str]]:
        found = json.loads(log.read_text())
        log.unlink()
        return found

    return calls


def test_github_has_one_pull_request_whose_text_is_renewed(root, asked):
    said = propose(root, "github", "origin", BRANCH, *TEXT)
    assert said == f"branch {BRANCH} pushed: https://example.invalid/1"
    listed, created = asked()
    assert listed[:6] == ["pr", "list", "--head", BRANCH, "--state", "all"]
    assert created == ["pr", "create", "--head", BRANCH, "--title", TITLE, "--body-file", BODY]
    said = propose(root, "github", "origin", BRANCH, TITLE, "measured again")
    assert said == f"branch {BRANCH} is there already: https://example.invalid/1"
    listed, edited = asked()
    assert edited == ["pr", "edit", "https://example.invalid/1", "--title", TITLE, "--body-file", "measured again"]


def test_what_nothing_new_is_known_of_is_not_written_again_nor_opened_again(root, asked, tmp_path):
    propose(root, "github", "origin", BRANCH, *TEXT)
    asked()
    propose(root, "github", "origin", BRANCH, "Unchanged", "nothing new", renew=False)
    assert [call[1] for call in asked()] == ["list"]
    (tmp_path / "state").write_text("CLOSED")
    write(root, {"dvc.lock": "newer"})
    assert propose(root, "github", "origin", BRANCH, *TEXT) == f"branch {BRANCH} pushed: https://example.invalid/1"
    assert [call[1] for call in asked()] == ["list"]


def test_a_commit_of_somebody_else_is_not_replaced(root, tmp_path):
    propose(root, "branch", "origin", BRANCH, *TEXT)
    git(tmp_path, "clone", "-q", "-b", BRANCH, "origin", "other")
    write(tmp_path / "other", {"NOTES": "mine"})
    git(tmp_path / "other", "add", ".")
    git(tmp_path / "other", "-c", "user.name=t", "-c", "user.email=t@example.invalid", "commit", "-qm", "mine")
    git(tmp_path / "other", "push", "-q")
    before = git(root, "ls-remote", "origin", BRANCH)
    assert propose(root, "branch", "origin", BRANCH, *TEXT).endswith("has a commit of somebody else: left as it is")
    assert git(root, "ls-remote", "origin", BRANCH) == before


def test_gitlab_is_asked_with_the_push(root, tmp_path):
    hook = tmp_path / "origin/hooks/pre-receive"
    write(tmp_path, {"origin/hooks/pre-receive": "#!/bin/sh\nenv | grep GIT_PUSH_OPTION_ | sort > asked\n"})
    hook.chmod(0o755)
    propose(root, "gitlab", "origin", BRANCH, *TEXT)
    asked = (tmp_path / "origin/asked").read_text().splitlines()
    assert asked == [
        "GIT_PUSH_OPTION_0=merge_request.create", f"GIT_PUSH_OPTION_1=merge_request.title={TITLE}",
        "GIT_PUSH_OPTION_COUNT=2",
    ]  # fmt: skip


@pytest.mark.parametrize(("to", "missing"), [("github", "gh"), ("branch", "git")])
def test_a_missing_program_is_named(root, tmp_path, monkeypatch, to, missing):
    folder = tmp_path / "bin"
    folder.mkdir()
    if missing != "git":
        found = subprocess.run(["which", "git"], capture_output=True, text=True, check=True).stdout.strip()
        (folder / "git").symlink_to(found)
    monkeypatch.setenv("PATH", str(folder))
    remedy = "install it, or use --propose branch" if missing == "gh" else "install it"
    with pytest.raises(UserError, match=f"^{missing} is missing: {remedy}$"):
        propose(root, to, "origin", BRANCH, *TEXT)


def test_a_remote_that_refuses_is_one_line_without_its_password(root, tmp_path):
    hook = tmp_path / "origin/hooks/pre-receive"
    write(tmp_path, {"origin/hooks/pre-receive": "#!/bin/sh\nexit 1\n"})
    hook.chmod(0o755)
    with pytest.raises(UserError, match=r"^`git push` failed \(.*\): see to the access to the remote, then run the c"):
        propose(root, "branch", "origin", BRANCH, *TEXT)
    git(root, "remote", "add", "gone", "https://user:secret@127.0.0.1:9/x.git")
    with pytest.raises(UserError, match=r"^`git ls-remote` failed \(") as caught:
        propose(root, "branch", "gone", BRANCH, *TEXT)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_what_somebody_else_has_pushed_meanwhile_stays(root, tmp_path, monkeypatch):
    """Somebody pushes between the look at the remote and the push: a git that pushes first stands in for that."""
    true = shutil.which("git")
    write(tmp_path, {"bin/git": f"""#!/bin/sh
case "$1 $2" in
"push --quiet") {true} push -q origin HEAD:refs/heads/{BRANCH};;
esac
exec {true} "$@"
"""})  # fmt: skip
    (tmp_path / "bin/git").chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
        with pytest.raises(UserError, match=r"^`git push` failed \(.*\): "):
            propose(root, "branch", "origin", BRANCH, *TEXT)
    assert git(root, "ls-remote", "origin", BRANCH).split()[0] == git(root, "rev-parse", "HEAD")


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({}, None),
        (
            {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "o/r", "GITHUB_RUN_ID": "7"},
            "https://github.com/o/r/actions/runs/7",
        ),
        ({"CI_JOB_URL": "https://gitlab.com/o/r/-/jobs/7"}, "https://gitlab.com/o/r/-/jobs/7/artifacts/browse"),
        ({"CI_PIPELINE_URL": "https://gitlab.com/o/r/-/pipelines/7"}, "https://gitlab.com/o/r/-/pipelines/7"),
    ],
    ids=["no service", "github", "gitlab", "gitlab's pipeline"],
)
def test_a_ci_service_offers_the_files_of_a_job(monkeypatch, variables, address):
    for name in [*os.environ]:
        if name.startswith(("GITHUB_", "CI_")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ci.artifacts() == address


def test_a_ci_service_is_told_where_there_is_one(tmp_path, monkeypatch):
    for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    ci.output("runs", "true")
    ci.summary("nobody reads this")
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    ci.output("runs", "true")
    ci.output("state", "done")
    ci.summary("# A\n")
    ci.summary("B")
    assert (tmp_path / "output").read_text() == "runs=true\nstate=done\n"
    assert (tmp_path / "summary").read_text() == "# A\n\nB\n\n"
    with pytest.raises(AssertionError):
        ci.output("state", "two\nlines")
