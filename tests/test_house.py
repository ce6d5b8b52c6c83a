"""What the files beside the code promise: outputs ignored or shown by git, pinned versions, no machine named."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from scm import __version__

ROOT = Path(__file__).parents[1]
STAGES = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


OF_IMAGES = ("data/raw/.gitignore", "data/raw/images.dvc")
"""Files by which `dvc add data/raw/images` keeps a version of the images, as data/README.md proposes."""


def outputs(cached: bool) -> list[str]:
    """Paths of all stages' outs, metrics and plots that DVC does (or does not) keep in its cache."""
    paths = []
    for stage in (stage.get("do", stage) for stage in STAGES.values()):
        for entry in [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]:
            path, options = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
            if (options.get("cache", True)) == cached:
                paths.append(re.sub(r"\$\{(item\.\w+|key)\}", "scd", path))
    return paths


def git(*arguments: str) -> subprocess.CompletedProcess:
    result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode > 1:
        pytest.skip("a copy without .git, as an unpacked archive is: nothing to ask git about")
    return result


def names_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=\[]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def test_git_ignores_what_dvc_caches_and_sees_the_rest():
    assert "models/scd/snapshots" in outputs(cached=True)
    assert "results/metrics/evaluate-scd.json" in outputs(cached=False)
    for path in (*outputs(cached=True), "data/raw/a.png", "data/raw/cat/a.png", "data/raw/cat/a.dvc"):
        assert git("check-ignore", "-q", path).returncode == 0, f"{path} is not ignored"
    for path in [
        *outputs(cached=False),
        "results/.gitignore",
        "models/.gitignore",
        "data/README.md",
        "dvc.lock",
        *OF_IMAGES,
    ]:
        assert git("check-ignore", "-q", path).returncode == 1, f"{path} is ignored"


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    wanted = names_of([*project["dependencies"], *extras])
    lines = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    assert wanted - {project["name"]} <= names_of(lines)  # an extra may take in others
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)


def test_one_version_everywhere():
    cited = YAML(typ="safe", pure=True).load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    versions = re.findall(r"^## \[(\d\S*)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.M)
    assert cited["version"] == versions[0] == __version__
    assert cited["references"][0]["identifiers"][0]["value"] == "arXiv:2410.11081"


def test_no_tracked_file_names_a_package_index_or_a_home():
    pattern = "/(root|home)/[a-z]|index-url|pypi[.]org|find-links"
    found = git("grep", "--untracked", "-I", "-n", "-E", pattern, "--", ".", ":!tests/test_house.py")
    assert found.stdout == ""


def test_architectures_tree_names_every_file_of_the_source():
    """One line a file, in the order of folders; a file that is new, gone or moved is told by its path."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    block = re.search(r"^## The tree\n.*?^```text\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert block, "ARCHITECTURE.md has no ```text block under '## The tree'"
    listed, folders = set(), [""]
    for line in block[1].splitlines():
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        path = f"{folders[indent // 2]}{name}"
        if name.endswith("/"):
            folders[indent // 2 + 1 :] = [path]
        else:
            listed.add(path)
        assert len(line.split(maxsplit=1)) == 2, f"{path} has no description"
    there = set(
        git("ls-files", "--cached", "--others", "--exclude-standard", "scm", "stages", "benchmarks").stdout.split()
    )
    assert listed == {path for path in there if not path.endswith("__init__.py")}


def test_remedies_name_the_command_that_the_readme_names():
    assert "scm run  " in (ROOT / "README.md").read_text(encoding="utf-8")
    for folder in ("scm", "stages"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert "run `dvc repro" not in text and "or `dvc repro" not in text, path
