"""What README and the docstrings show runs, and does what they say."""

import doctest
import importlib
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted(ROOT.glob("scm/**/*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_docstrings(name):
    result = doctest.testmod(importlib.import_module(name), report=True)
    assert result.attempted and not result.failed, "doctest printed the difference"


def test_readmes_library_example_learns_two_modes_and_draws_them_in_one_step():
    """A tangent of the wrong sign gives samples in the thousands, one of zero a standard deviation near 3."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Use it as a library\n")[2]
    block = re.search(r"^```python\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    assert block, "README.md has no ```python block under '## Use it as a library'"
    with torch.random.fork_rng():
        exec(compile(block[1], "README.md", "exec"), names := {"__name__": "example"})
    samples, mode = names["samples"], torch.tensor([0.48, 0.48])
    assert samples.shape == (1000, 2)
    assert samples.mean(dim=0).tolist() == pytest.approx([0.0, 0.0], abs=0.1)
    assert samples.std(dim=0).tolist() == pytest.approx([0.5, 0.5], abs=0.06)
    distances = torch.stack([(samples - mode).norm(dim=1), (samples + mode).norm(dim=1)])
    assert (distances.amin(dim=0) < 0.4).float().mean() > 0.8  # three standard deviations of a mode
    assert 0.3 < (distances[0] < distances[1]).float().mean() < 0.7
    assert names["loss"] < 0.3  # 0.5 is the largest there is: normalised tangents of two elements
    assert names["slope"].abs().mean() < 2
