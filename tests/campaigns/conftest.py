"""Campaigns: many random attacks with a fixed seed, whose counts become tables of docs/reliability.md.

Each has a short form, marked `long`, and the whole, marked `campaign` (`make campaign`).
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scm.base.tables import Rows, markdown_table

DOC = "SCM_CAMPAIGN_DOC"
"""Environment variable with the page that gets the tables; without it they are only printed."""


@dataclass
class Table:
    """A table, and the lines of text below it, all in Markdown."""

    name: str
    head: Sequence[str]
    align: str = ""
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: object) -> None:
        self.rows.append([str(cell) for cell in cells])

    def text(self) -> str:
        rows: Rows = self.rows
        return "\n".join([markdown_table(self.head, rows, self.align), "", *self.notes]).strip()


def put(page: Path, table: Table) -> None:
    """Replaces the section of the page between `<!-- campaign: NAME -->` and the next `<!-- end -->`."""
    begin, end = f"<!-- campaign: {table.name} -->\n", "<!-- end -->"
    text = page.read_text(encoding="utf-8")
    written, count = re.subn(
        f"{re.escape(begin)}.*?{end}", lambda _: f"{begin}{table.text()}\n{end}", text, flags=re.DOTALL
    )
    assert count == 1, f"{page} has {count} sections between {begin.strip()} and {end}"
    page.write_text(written, encoding="utf-8")


@pytest.fixture
def table() -> Iterator[Callable[..., Table]]:
    """Makes the tables of a test, which are printed and written when it has passed through them."""
    made: list[Table] = []

    def begun(name: str, *head: str, align: str = "") -> Table:
        made.append(Table(name, head, align))
        return made[-1]

    yield begun
    for each in made:
        print(f"\n{each.text()}")
        if page := os.environ.get(DOC):
            put(Path(page), each)
