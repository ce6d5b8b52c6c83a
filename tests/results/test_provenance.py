"""scm.results.provenance: the commit that a result was made from, or why git does not tell it, and its times."""

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scm.params.project import Project
from scm.results.provenance import commit_of, git_fault, in_repository, run_entry
from tests.support.projects import ROOT


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=tests", "-c", "user.email=tests@example.invalid", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit, and a project in a folder of it."""
    project = tmp_path / "top" / "it's a project"
    project.mkdir(parents=True)
    (project / "dvc.yaml").touch()
    git(tmp_path / "top", "init", "-q")
    git(tmp_path / "top", "add", ".")
    git(tmp_path / "top", "commit", "-qm", "one")
    return project


def test_the_commit_and_whether_files_differ_from_it(repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD")
    assert commit_of(repository) == (head, False) and git_fault(repository) is None
    (repository / "dvc.yaml").write_text("stages: {}")
    assert commit_of(repository) == (head, True)


def test_a_hooks_variables_lead_to_no_other_repository(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "-q", "other")
    head = git(repository, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other/.git"))
    assert commit_of(repository) == (head, False) and git_fault(repository) is None


def test_another_users_repository_is_named_with_gits_remedy(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    fault = git_fault(repository)
    assert fault is not None and commit_of(repository)[0] == ""
    assert f"{repository}, which belongs to another user: run `git config --global --add safe.directory" in fault
    # The remedy works as it stands, though it names another folder than the project's.
    home = repository.parents[1] / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    subprocess.run(fault.split("`")[1], shell=True, check=True, cwd=home)
    assert git_fault(repository) is None and commit_of(repository)[0] != ""


def test_git_that_is_missing_or_has_no_commit_is_named(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "-q", "new")
    assert git_fault(tmp_path / "new") == f"{tmp_path / 'new'} has no commit yet: run `git add . && git commit`"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_fault(repository) == "git is missing: install it"


def test_a_folder_without_a_repository_has_nothing_to_lose(tmp_path: Path) -> None:
    assert not in_repository(tmp_path) and git_fault(tmp_path) is None


def test_a_worktree_is_a_repository_while_it_leads_to_one(repository: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "-q", str(tmp_path / "tree"))
    assert in_repository(tmp_path / "tree") and git_fault(tmp_path / "tree") is None
    repository.parent.rename(tmp_path / "elsewhere")  # as in a container that sees the work tree alone
    assert not in_repository(tmp_path / "tree")


def test_a_clock_that_was_set_back_makes_no_negative_duration() -> None:
    started = time.time() + 3600
    facts = {"key": "k", "stage": "prepare", "item": None, "name": "n", "params": {}, "deps": {}, "chain": {}}
    entry = run_entry(Project.open(ROOT), started=started, **facts)
    assert entry["seconds"] == 0 and entry["ended"] == entry["started"]


def test_the_seconds_of_cpu_are_this_processs_and_its_childrens() -> None:
    facts = {"key": "k", "stage": "prepare", "item": None, "name": "n", "params": {}, "deps": {}, "chain": {}}

    def told() -> float:
        return run_entry(Project.open(ROOT), started=time.time(), **facts)["cpu_seconds"]

    def used() -> float:
        of = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(each.ru_utime + each.ru_stime for each in of)

    assert told() == pytest.approx(used(), abs=0.5)
    subprocess.run([sys.executable, "-c", "while __import__('time').process_time() < 1: pass"], check=True)
    assert told() == pytest.approx(used(), abs=0.5)
