"""Each row of docs/jvp.md's table is right or refused, and the page says which."""

import pytest

from benchmarks.conformance import outcome, rows, stored

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
