"""Damages a file's bytes at random, as disks, networks and enemies do."""

import random

MARKS = (b"", b"\x00" * 16, b"\xff" * 16, b"[" * 64, b"9" * 64, b"\x80\x04", b"../", b"\xed\xa0\x80")
"""Inserted or written over: nothing, long runs, nesting, digits, a pickle's start, a way out, half a surrogate."""


def flipped(data: bytes, draws: random.Random) -> bytes:
    """One bit is another."""
    place = draws.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << draws.randrange(8)]) + data[place + 1 :]


def cut(data: bytes, draws: random.Random) -> bytes:
    """The end is missing."""
    return data[: draws.randrange(len(data))]


def mutated(data: bytes, draws: random.Random) -> bytes:
    """One to three damages: a bit, the end, a stretch that is missing, doubled or overwritten."""
    for _ in range(draws.choice((1, 1, 1, 2, 3))):
        if not data:
            return data
        start = draws.randrange(len(data))
        end = min(len(data), start + draws.choice((1, 4, 16, 256)))
        stretch = draws.choice((b"", data[start:end] * 2, draws.randbytes(end - start), draws.choice(MARKS)))
        kind = draws.randrange(4)
        data = (
            flipped(data, draws) if kind == 0 else cut(data, draws) if kind == 1
            else data[:start] + stretch + data[end:]
        )  # fmt: skip
    return data
