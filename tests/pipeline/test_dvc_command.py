"""How dvc and git are run on a project: in its own repository, and with the reason in one line if they fail."""

import subprocess

import pytest

from scm.errors import UserError
from scm.pipeline.dvc_command import git, reason_of

EMPTY = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
"""Git's name of an empty file."""


def test_git_works_on_the_folder_whatever_the_environment_says(tmp_path, monkeypatch):
    git(tmp_path, "init", "--quiet")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert git(tmp_path, "rev-parse", "--show-toplevel").stdout.strip() == str(tmp_path.resolve())
    assert git(tmp_path, "hash-object", "--stdin", input="").stdout.strip() == EMPTY


def test_a_failure_is_one_line_with_the_reason(tmp_path):
    with pytest.raises(UserError) as caught:
        git(tmp_path, "rev-parse", "--verify", "--end-of-options", "nothing", "more")
    start, _, end = str(caught.value).partition(" (")
    assert start == f"`git rev-parse --verify --end-of-options nothing ...` in {tmp_path} failed"
    assert end.startswith("fatal: ") and end.endswith("): run it there yourself")
    assert git(tmp_path, "rev-parse", "HEAD", check=False).returncode != 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ERROR: no space left\nHaving any troubles? Hit us up\n", "no space left"),
        ("one\n\n two \n", "two"),
        ("", "exit code 255"),
    ],
)
def test_dvcs_own_error_goes_before_its_last_line(text, reason):
    assert reason_of(subprocess.CompletedProcess((), 255, "", text)) == reason
