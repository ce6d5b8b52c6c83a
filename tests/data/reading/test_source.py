"""A source is one file, found by its name."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from scm.base.registry import names
from scm.data.reading.source import SOURCES, Wanted, open_source
from scm.data.sources import digits

TOY = """
from PIL import Image

from scm.data.reading.source import ImageSource


def list_images(wanted, stack):
    stack.callback((wanted.path / "closed").touch)
    sizes = range(8, 10)
    return ImageSource("toy", [], [-1] * len(sizes), "square {}".format, lambda n: Image.new("L", (sizes[n],) * 2))
"""


def wanted(source: str, path: Path = Path("unused")) -> Wanted:
    return Wanted(source, path, labels=False, max_pixels=100, on_bad_image="error")


def test_every_file_of_sources_is_a_source():
    assert names(SOURCES) == ("cifar10", "digits", "folder", "imagenet", "parquet", "webdataset")


def test_adding_a_file_adds_a_source(tmp_path, monkeypatch):
    package = tmp_path / "toy_sources"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "squares.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("scm.data.reading.source.SOURCES", "toy_sources")
    with open_source(wanted("squares", tmp_path)) as source:
        assert [source.load(number).size for number in range(len(source))] == [(8, 8), (9, 9)]
        assert source.file_name(1) == "square 1" and source.key(1) == "00000001"
        assert not (tmp_path / "closed").exists()
    assert (tmp_path / "closed").exists()


def test_an_unknown_source_is_refused():
    with pytest.raises(ValueError, match=r"has no part 'opening'; it has cifar10, digits, "):
        open_source(wanted("opening"))


@pytest.mark.parametrize(
    ("channels", "labels", "keys"),
    [
        (1, True, []),
        (3, True, ["data.channels"]),
        (1, False, ["data.labels"]),
        (3, False, ["data.channels", "data.labels"]),
    ],
)
def test_the_digits_refuse_colour_and_missing_labels(channels, labels, keys):
    found = list(digits.refusals(SimpleNamespace(channels=channels, labels=labels)))
    assert [key for key, _, _ in found] == keys
    assert all("the digits" in problem and "; write " in problem for _, _, problem in found)


def test_the_parameters_of_the_digits_are_checked_without_heavy_imports():
    heavy = "sorted({'torch', 'numpy', 'PIL', 'sklearn'} & set(sys.modules))"
    program = f"import sys; import scm.data.sources.digits; print({heavy})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_digits_are_listed_once_for_each_image():
    with open_source(wanted("digits")) as source:
        assert len(source) == 1797 and np.bincount(np.asarray(source.labels)).tolist()[0] == 178
        assert source.load(0).size == (8, 8) and source.file_name(5) == "digit 5"
