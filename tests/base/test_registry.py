"""A part of the system is found by the name of its file."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scm.base.registry import names, part


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package with two parts, one of which cannot be imported, and three files that are no parts."""
    folder = tmp_path / "toy_parts"
    (folder / "inner").mkdir(parents=True)
    for name in ("__init__.py", "_shared.py", "notes.txt", "inner/__init__.py"):
        (folder / name).touch()
    (folder / "second.py").write_text("NAME = 'the second part'\n")
    (folder / "broken.py").write_text("raise RuntimeError('this part was imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield "toy_parts"
    for module in [name for name in sys.modules if name.split(".")[0] == "toy_parts"]:
        del sys.modules[module]


def test_the_names_are_the_public_module_files_sorted_and_none_is_imported(package: str) -> None:
    assert names(package) == ("broken", "second")
    assert f"{package}.second" not in sys.modules


def test_a_part_is_imported_by_its_name(package: str) -> None:
    assert part(package, "second").NAME == "the second part"


@pytest.mark.parametrize("name", ["third", "_shared", "inner", "__init__", "second.py", ".second", ""])
def test_only_a_listed_name_is_imported(package: str, name: str) -> None:
    with pytest.raises(ValueError, match=r"has no part .*; it has broken, second"):
        part(package, name)


@pytest.mark.parametrize("name", ["no_such_package_here", "scm.errors"])
def test_a_name_that_is_no_package_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is not a package"):
        names(name)


def test_a_file_added_while_the_program_runs_is_found(package: str, tmp_path: Path) -> None:
    (tmp_path / "toy_parts/third.py").write_text("NAME = 'the third part'\n")
    importlib.invalidate_caches()
    assert names(package) == ("broken", "second", "third")
