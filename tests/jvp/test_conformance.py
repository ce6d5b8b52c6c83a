"""Each row of docs/jvp.md's table is right or refused, and the page says which."""

import re

import pytest
import torch

from benchmarks.conformance import PAGE, outcome, rows, stored
from scm.jvp import RULES, output_and_tangent

OPERATIONS, STORED = rows(), stored()


@pytest.mark.filterwarnings("ignore")  # torch's own, of layers without draws to make and of checkpoints
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_right_or_refused_as_the_page_says(name: str):
    found = outcome(OPERATIONS[name])
    assert found.startswith(("exact", "refused"))
    assert found.replace("|", "\\|") == STORED[name], "python -m benchmarks.conformance writes docs/jvp.md"


def test_the_table_has_these_rows_and_no_others():
    assert list(STORED) == list(OPERATIONS)
    assert sum(outcome == "exact" for outcome in STORED.values()) >= 80


def test_the_pages_examples_run_and_its_rule_is_right(monkeypatch):
    monkeypatch.setitem(RULES, "erf", None)  # set back afterwards
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        exec(compile(block, PAGE.name, "exec"), {"__name__": "example"})
    x = torch.randn(5, dtype=torch.float64)
    _, tangent = output_and_tangent(torch.erf, (x,), (torch.ones_like(x),))
    assert RULES["erf"] is not None and torch.allclose(
        tangent, torch.func.jvp(torch.erf, (x,), (torch.ones_like(x),))[1]
    )
