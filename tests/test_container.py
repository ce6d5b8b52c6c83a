"""The Dockerfile, without Docker: what it copies is there, what it calls exists, and its versions are the project's."""

import re
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import pytest

from scm import cli

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
NEEDED = ("Makefile", "README.md", "LICENSE", "constraints.txt", "dvc.yaml", "params.yaml", "pyproject.toml")
"""Files without which nothing runs in the container, beside the folders of code, presets and DVC's settings."""


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments), with continued lines joined and comments left out."""
    lines = [line for line in TEXT.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    pairs = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(name, arguments) for name, arguments in pairs]


def of(name: str) -> list[str]:
    return [arguments for instruction, arguments in instructions() if instruction == name]


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("a copy without .git, as an unpacked archive is: nothing to ask git about")
    return done.stdout.splitlines()


def sent(path: str) -> bool:
    """True if the file goes to Docker, by the last pattern of .dockerignore that fits it or a folder above it."""
    answer = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern, back = line.removeprefix("!"), line.startswith("!")
        if pattern and not pattern.startswith("#"):
            above = [path, *map(str, PurePosixPath(path).parents)][:-1]
            if any(fits(name, pattern) for name in above):
                answer = back
    return answer


def fits(name: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch(PurePosixPath(name).name, pattern[3:])
    return name.count("/") == pattern.count("/") and fnmatch(name, pattern)


def test_what_is_copied_exists_and_reaches_docker():
    for arguments in of("COPY"):
        *sources, _ = [part for part in arguments.split() if not part.startswith("--")]
        for source in sources:
            assert (ROOT / source).exists() and sent(source), source
    files = tracked()
    code = [name for name in files if name.startswith(("scm/", "stages/", "pipelines/", "benchmarks/", ".dvc/"))]
    assert [name for name in (*NEEDED, *code) if not sent(name)] == []


@pytest.mark.parametrize(
    "path",
    [".git/config", ".venv/bin/python", ".dvc/config.local", "data/raw/cat/a.png", "data/shards/index.json",
     "models/scd/model.safetensors", "results/report.html", "mlflow.db", "scm/__pycache__/a.pyc", "grid.png"],
)  # fmt: skip
def test_what_is_large_secret_or_made_again_stays_here(path):
    assert not sent(path)


def test_versions_are_those_of_the_project():
    (python,) = [arguments.partition("=")[2] for arguments in of("ARG") if arguments.startswith("PYTHON=")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f">={python}" == project["requires-python"]
    assert f'python-version: "{python}"' in (ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8")
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert len([line for line in pins if re.match("^torch==", line)]) == 1, "the Dockerfile greps for ^torch=="
    assert "PIP_CONSTRAINT=constraints.txt" in "".join(of("ENV"))


def test_commands_exist():
    targets = set(re.findall(r"^([.\w/]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    for target in re.findall(r"\bmake ([.\w/]+)", " ".join(of("RUN"))):
        assert target in targets
    for command in of("CMD"):
        program, *arguments = re.findall(r'"([^"]*)"', command)
        assert program in ("make", "scm")
        if program == "make":
            assert set(arguments) <= targets
        else:
            assert cli.parser().parse_args(arguments).handler
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert "latents" in extras, "the README installs EXTRAS=latents"


def test_the_health_check_asks_what_the_server_answers():
    (check,) = of("HEALTHCHECK")
    port = cli.parser().parse_args(["serve"]).port
    assert f"http://127.0.0.1:{port}/ping" in check and [str(port)] == of("EXPOSE")
    assert '"/ping"' in (ROOT / "scm/product/web.py").read_text(encoding="utf-8")


def test_nothing_runs_as_root_and_no_cache_is_kept():
    names = [name for name, _ in instructions()]
    assert "root" not in "".join(of("USER")) and names.index("USER") < names.index("CMD")
    installs = [arguments for arguments in of("RUN") if "apt-get install" in arguments]
    assert all("--no-install-recommends" in run and "rm -rf /var/lib/apt/lists" in run for run in installs)
    assert "PIP_NO_CACHE_DIR=1" in "".join(of("ENV"))
    assert all("--chown=" in arguments for arguments in of("COPY"))
