"""Tables as text: Markdown for pages, aligned columns for a terminal."""

from collections.abc import Sequence

from tabulate import tabulate

from scm.errors import printable

Rows = Sequence[Sequence[str]]
MARKUP = "\\|<>`*_[]"
"""Characters that end a cell or begin markup."""


def markdown_table(head: Sequence[str], rows: Rows, align: str = "") -> str:
    r"""A table in Markdown, without a newline at its end.

    Cells are not padded, so a changed figure changes one line of a diff.

        >>> print(markdown_table(("Model", "FD"), [("sCD", "5.30")], align="lr"))
        | Model | FD |
        | --- | ---: |
        | sCD | 5.30 |

    Args:
        head: names of the columns, as Markdown.
        rows: cells as Markdown; `escape` converts plain text.
        align: "l" or "r" for each column; missing letters mean "l".
    """
    rule = ["---:" if letter == "r" else "---" for letter in align.ljust(len(head), "l")]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def escape(text: str) -> str:
    r"""Plain text as printable Markdown that neither ends a line or a table cell nor begins markup.

    >>> print(escape("a_b | <c>"))
    a\_b \| \<c\>
    """
    line = printable(" ".join(text.split()))
    return line.translate({ord(character): f"\\{character}" for character in MARKUP})


def columns(rows: Rows, head: Sequence[str] | None = None, align: str = "") -> list[str]:
    """Lines of aligned and printable text, with two spaces between columns.

        >>> columns([("sCD", "5.30"), ("teacher", "12.1")], align="lr")
        ['sCD      5.30', 'teacher  12.1']

    Args:
        rows: cells; spaces around a cell are dropped.
        head: names of the columns; None leaves the line out.
        align: "l" or "r" for each column; missing letters mean "l".
    """
    sides = ["right" if letter == "r" else "left" for letter in align]
    # tabulate's own heads have wider columns.
    lines = [[printable(cell) for cell in row] for row in (*([head] if head else []), *rows)]
    text = tabulate(lines, tablefmt="plain", colalign=sides, disable_numparse=True)
    return [line.rstrip() for line in text.splitlines()]
