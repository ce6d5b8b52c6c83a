"""The two ways in which a command ends early without being a bug, and text that is safe to print."""

import difflib
import unicodedata
from collections.abc import Iterable

EXIT_INTERRUPTED = 75
"""Exit code of work that was interrupted and goes on when the same command is run again (EX_TEMPFAIL)."""


def printable(text: str) -> str:
    r"""Escapes what a terminal could act on or no encoding can write: control characters, lone surrogates.

    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return "".join(
        char if char.isprintable() or unicodedata.category(char) == "Zs" else ascii(char)[1:-1] for char in text
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The question after a name that nobody knows, if it resembles one of the known names; else nothing.

    >>> did_you_mean("sampel", ["plan", "sample"]), did_you_mean("x", ["plan", "sample"])
    ('did you mean sample?', '')
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]}?" if close else ""


class UserError(Exception):
    """Bad input: one line that names the file, key or value and the remedy. Shown without a traceback, exit code 1.

    The message is made printable and put on one line, because names in it may come from strangers' files.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.splitlines())))


class Interrupted(Exception):
    """The work was asked to stop and has saved its state. Exit code 75: run the same command to go on."""
