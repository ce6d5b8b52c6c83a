"""Files that are left out: listed in order, counted by reason, and small in memory."""

import tracemalloc

from scm.data.reading.skipped import Skipped

ENTRIES = [
    {"file": "b/notes.txt", "reason": "not an image file"},
    {"file": "a/1.png", "reason": "the file is empty"},
    {"file": "a/é.txt", "reason": "not an image file"},
]


def test_files_come_back_in_order_with_their_reasons():
    skipped = Skipped(ENTRIES[:1])
    assert not Skipped() and len(skipped) == 1
    skipped.extend(iter(ENTRIES[1:]))
    assert list(skipped) == ENTRIES and list(Skipped(skipped)) == ENTRIES
    assert skipped.reasons() == {"not an image file": 2, "the file is empty": 1}


def test_what_cannot_be_printed_is_escaped_at_once():
    (entry,) = Skipped([{"file": "a/\udcff\n.txt", "reason": "\x1b[31m"}])
    assert entry == {"file": r"a/\udcff\n.txt", "reason": r"\x1b[31m"}


def test_a_file_takes_few_bytes_besides_its_name():
    tracemalloc.start()
    skipped = Skipped({"file": f"{number:08d}.xml", "reason": "not an image file"} for number in range(20_000))
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(skipped) == 20_000 and grown / 20_000 < 12 + 24 + 12
