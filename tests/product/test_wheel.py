"""The wheel: it holds all of scm, and serves a packaged model from an empty folder, far from any checkout."""

import json
import os
import shutil
import site
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from scm import __version__
from scm.cli import PIPELINE
from scm.product.model import Product
from tests.support.serving import ROOT, start

pytestmark = [pytest.mark.slow, pytest.mark.long]
SOURCES = ("pyproject.toml", "README.md", "LICENSE")


def pip(action: str, *arguments: str, python: Path | None = None) -> None:
    """pip in the checkout, where the relative path of `PIP_CONSTRAINT` leads to the file that make names."""
    place = ("--python", str(python)) if python else ()
    quiet = ("--quiet", "--no-deps", "--disable-pip-version-check")
    subprocess.run([sys.executable, "-m", "pip", *place, action, *quiet, *arguments], cwd=ROOT, check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy, so that no build folder is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "scm", folder / "scm", ignore=shutil.ignore_patterns("__pycache__"))
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(folder / "dist"), str(folder))
    (made,) = (folder / "dist").glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory) -> Path:
    """The python of a fresh environment with the wheel and no extra.

    It sees the packages of the tests' own environment, but for those that only the extra `pipeline` brings.
    """
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin/python"
    pip("install", str(wheel), python=python)
    (packages,) = folder.glob("lib/python*/site-packages")
    lean = f"import sys; sys.modules.update(dict.fromkeys({PIPELINE}))\n"
    (packages / "tests.pth").write_text("".join(f"{place}\n" for place in site.getsitepackages()) + lean)
    return python


def run(python: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command in an empty folder, with nothing of the checkout on the path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [str(python), *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_wheel_holds_every_file_of_scm_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "scm").rglob("*") if path.is_file()}
    assert names == {name for name in files if "__pycache__" not in name}
    assert wheel.name == f"scm-{__version__}-py3-none-any.whl"


def test_the_command_answers_from_an_empty_folder(installed, tmp_path):
    command = str(installed.with_name("scm"))
    told = run(installed, command, "--version", folder=tmp_path)
    assert (told.returncode, told.stdout) == (0, f"scm {__version__}\n"), told.stderr
    where = run(installed, "-c", "import scm; print(scm.__file__)", folder=tmp_path).stdout
    assert Path(where.strip()).is_relative_to(installed.parents[1])
    for arguments in (("--help",), ("serve", "--help"), ("completion", "bash")):
        assert run(installed, command, *arguments, folder=tmp_path).returncode == 0
    for arguments in (("sample",), ("run",), ("preset", "list"), ("serve",)):
        refused = run(installed, command, *arguments, folder=tmp_path)
        assert refused.returncode == 1 and refused.stderr.count("\n") == 1, refused.stderr
        assert f"{tmp_path} is not inside the project" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_packaged_model_draws_a_grid(installed, packed, tmp_path):
    draw = "import sys, scm; scm.load(sys.argv[1]).sample(classes=[0, 2], steps=2).grid().save('grid.png')"
    done = run(installed, "-c", draw, str(packed), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "grid.png") as grid:
        assert (grid.width, grid.height) == (58, 115)


def test_a_command_of_the_pipeline_names_the_extra(installed):
    refused = run(installed, str(installed.with_name("scm")), "plan", folder=ROOT)
    assert refused.returncode == 1
    assert refused.stderr.endswith(": run `pip install -e '.[pipeline]'`\n") and refused.stderr.count("\n") == 1


def test_a_packaged_model_is_served_with_the_images_of_the_project(installed, packed, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(installed))
    monkeypatch.setattr("tests.support.serving.ROOT", tmp_path)  # PYTHONPATH, on which nothing lies
    server = start(str(packed), folder=tmp_path)
    row = {"class": "two", "seed": 5, "steps": 2}
    try:
        body = json.dumps({"dataframe_records": [row]}).encode()
        request = urllib.request.Request(f"{server.url}/invocations", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            (drawn,) = json.loads(answer.read())["predictions"]
        with urllib.request.urlopen(f"{server.url}/card", timeout=60) as page:
            assert page.status == 200
    finally:
        assert server.end() == 0
    product = Product(packed / "artifacts/product", 16, 100, "cpu")
    assert drawn["png"] == product.draw([product.wish(row)])[0]["png"]
