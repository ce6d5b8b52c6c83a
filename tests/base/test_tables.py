"""scm.base.tables: tables that a Markdown reader and a terminal show as meant."""

import doctest

from scm.base import tables
from scm.base.tables import columns, escape, markdown_table


def test_the_examples_of_the_docstrings_hold() -> None:
    found = doctest.testmod(tables)
    assert found.attempted >= 3 and found.failed == 0


def test_columns_of_figures_stand_right_in_markdown() -> None:
    lines = markdown_table(("Model", "NFE", "FD"), [("sCD", "2", "5.30"), ("sCT", "1", "7.00")], align="lr").split("\n")
    assert lines == ["| Model | NFE | FD |", "| --- | ---: | --- |", "| sCD | 2 | 5.30 |", "| sCT | 1 | 7.00 |"]
    assert markdown_table(("Model",), []) == "| Model |\n| --- |"


def test_escaped_text_ends_no_cell_and_begins_no_markup() -> None:
    assert escape("a|b\n  <i>*_x_*`[1]\\") == r"a\|b \<i\>\*\_x\_\*\`\[1\]\\"
    assert escape("σ = 0.5 ± 0.1, 2×2 – fine.") == "σ = 0.5 ± 0.1, 2×2 – fine."


def test_plain_columns_keep_figures_as_they_are_written() -> None:
    rows = [("teacher", "5.00", ""), ("sct", "12.10", "new")]
    assert columns(rows, ("model", "FD", "note"), align="lr") == [
        "model       FD  note",
        "teacher   5.00",
        "sct      12.10  new",
    ]
    assert columns(rows) == ["teacher  5.00", "sct      12.10  new"]
    assert columns([("0012", "1e3"), ("1,000", "True")]) == ["0012   1e3", "1,000  True"]
    assert columns([]) == []
    assert columns([], ("model", "FD")) == ["model  FD"]
