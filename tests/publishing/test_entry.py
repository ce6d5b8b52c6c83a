"""A version's tags hold its entry, and tags that somebody has edited are one line."""

import pytest

from scm.errors import UserError
from scm.publishing.entry import Entry, entry_of, tags_of
from scm.tracking.registry import Version

FIGURES = {"fd@2": 4.5, "recall@2": 0.9}
ENTRY = Entry("key", "scd", 2, {1: (9.0, 9.1), 2: (4.5, 5.0)}, FIGURES, "weights", "protocol", {"seed": "1"})
DAMAGES = ["", "null", "[]", "5", '"text"', "{", "9" * 5000, "[" * 100_000, "<<<<<<< HEAD"]
OWN_DAMAGES = {
    "scm.evaluations": ["two", "9" * 5000, ""],
    "scm.distances": [*DAMAGES, '{"2": 5}', '{"2": "123"}', '{"2": [null]}', '{"2": [[1]]}', '{"two": [1.0]}'],
    "scm.figures": [*DAMAGES, '{"fd@2": "5"}', '{"fd@2": null}', '{"fd@2": true}', '{"fd@2": [5]}'],
    "eval.parts": [*DAMAGES, '{"seed": 1}', '{"seed": null}'],
}


def test_an_entry_comes_back_from_its_tags():
    assert entry_of("digits", Version("3", tags_of(ENTRY))).version == "3"
    assert tags_of(entry_of("digits", Version("3", tags_of(ENTRY)))) == tags_of(ENTRY)


@pytest.mark.parametrize(("tag", "value"), [(tag, value) for tag, values in OWN_DAMAGES.items() for value in values])
def test_edited_tags_are_one_line(tag, value):
    with pytest.raises(UserError, match=r"^version 3 of digits lacks the tags that `scm publish` writes \(.*champion"):
        entry_of("digits", Version("3", tags_of(ENTRY) | {tag: value}))
