"""Classes as people ask for them, by name or number; torch is not needed to refuse one."""

from collections.abc import Sequence

from scm.errors import UserError

LONGEST_NUMBER, LONGEST_SHOWN = 20, 100
"""Most digits of a class's number, above which Python may refuse to read it; most characters of a name in a message."""


def class_number(text: str, names: Sequence[str], option: str = "--classes") -> int:
    """The number of a class, given by name or number."""
    if text in names:
        return names.index(text)
    if text.isdecimal() and len(text) <= LONGEST_NUMBER and int(text) < len(names):
        return int(text)
    if len(text) > LONGEST_SHOWN:
        text = f"{text[:LONGEST_SHOWN]}… ({len(text):,} characters)"
    shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    raise UserError(f"{option} {text}: no such class; this model has {shown} (or numbers 0 to {len(names) - 1})")


def class_numbers(asked: Sequence[str] | None, names: Sequence[str], option: str = "--classes") -> list[int]:
    """The numbers of the classes that are asked for (default: all); [-1] for a model without classes."""
    if not names:
        if asked:
            raise UserError(f"{option}: this model was trained without classes; leave the option out")
        return [-1]
    return [class_number(text, names, option) for text in asked or names]
