"""Messages are one line of printable text, whatever stands in the names that they quote."""

import pytest

from scm.errors import UserError, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("tab\there", r"tab\there"),
        ("\udcff", r"\udcff"),
        ("\u202egnp", r"\u202egnp"),
        ("\x85", r"\x85"),
        ("été 東京\u3000\xa0", "été 東京\u3000\xa0"),
    ],
)
def test_what_a_terminal_could_act_on_is_escaped(text, shown):
    assert printable(text) == shown
    printable(text).encode()


def test_an_error_is_one_printable_line():
    assert str(UserError("the file x\nerror: all is well\x1b[0m\r\nend")) == r"the file x error: all is well\x1b[0m end"
