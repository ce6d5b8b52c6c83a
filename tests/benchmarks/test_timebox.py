"""The scratch copies of benchmarks/timebox.py."""

import subprocess

from benchmarks.timebox import copied


def test_a_copy_is_a_project_in_git_of_its_own(tmp_path):
    root = copied(tmp_path)
    assert (root / "dvc.yaml").is_file() and (root / ".dvc/config").is_file() and (root / "scm/cli.py").is_file()
    told = subprocess.run(["git", "status", "--short"], cwd=root, capture_output=True, text=True, check=True)
    assert told.stdout == "" and not (root / "data/shards").exists()
