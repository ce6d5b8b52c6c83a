"""Damages of the files that a project reads back: names, and what the file's bytes become."""

import copy
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DEEP, DIGITS = 100_000, "9" * 5_000
NETWORK = (("width", 10**9), ("width", 0), ("blocks", 10**9), ("architecture", "x"), ("multipliers", []))
"""Settings of a network that no weights have."""
OTHER: dict[str, Any] = {"x": [None]}
"""A value that no key takes."""


@contextmanager
def put(path: Path, content: bytes | str) -> Iterator[None]:
    """The file with other content for the block; "folder" and "loop" put a folder or an unreadable link there."""
    kept = path.read_bytes()
    path.unlink()
    if content == "folder":
        path.mkdir()
    elif content == "loop":
        path.symlink_to(path.name)
    else:
        assert isinstance(content, bytes)
        path.write_bytes(content)
    try:
        yield
    finally:
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        path.write_bytes(kept)


def of_any_text(text: str) -> Iterator[tuple[str, bytes | str]]:
    """Damages of a file of text, whatever its format."""
    half = len(text) // 2
    yield "empty", b""
    yield "a folder", "folder"
    yield "unreadable", "loop"
    yield "not UTF-8", b"\xff\xfe" + text.encode()
    yield "a byte order mark", b"\xef\xbb\xbf" + text.encode()
    yield "a merge conflict", f"<<<<<<< HEAD\n{text}=======\n{text}>>>>>>> b\n".encode()
    yield "cut in the middle of a conflict", f"{text[:half]}\n=======\n{text}".encode()
    yield "binary", bytes(range(256))


def of_json(text: str) -> Iterator[tuple[str, bytes | str]]:
    """Damages of a JSON object."""
    yield from of_any_text(text)
    for name, value in json_values():
        yield name, value.encode()
    yield "cut", text[: len(text) // 2].encode()
    yield from ((name, json.dumps(value).encode()) for name, value in of_keys(json.loads(text)))
    inner = text.strip().removeprefix("{").removesuffix("}")
    first = next(iter(json.loads(text)))
    yield "a key twice", f'{{{inner}, "{first}": 1}}'.encode()
    for name, value in (("digits", DIGITS), ("NaN", "NaN"), ("infinity", "-Infinity"), ("1e999", "1e999")):
        yield f"{first}: {name}", ('{"' + first + '": ' + value + ", " + inner.partition(",")[2] + "}").encode()
    yield "a surrogate", f'{{{inner}, "more": "\\ud800"}}'.encode()


def json_values() -> Iterator[tuple[str, str]]:
    """Whole documents that are no object, or none that can be used."""
    yield from (("a list", "[1, 2]"), ("a number", "5"), ("text", '"x"'), ("null", "null"), ("no keys", "{}"))
    yield from (("deep lists", "[" * DEEP), ("closed", "[" * 900 + "]" * 900), ("deep objects", '{"a":' * DEEP))
    yield "a long number", DIGITS
    yield "a long number in it", f'{{"format": {DIGITS}}}'


def of_keys(value: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The object with one of its keys missing or of another type, in the objects and lists within as well."""
    for path, inner in _places(value, ()):
        for name, other in (("of another type", OTHER), ("null", None), ("text", "x"), ("a list", [[]]), ("-1", -1)):
            if type(other) is not type(inner):
                yield f"{'.'.join(map(str, path))} {name}", _with(value, path, other)
        if isinstance(path[-1], str):
            yield f"{'.'.join(map(str, path))} missing", _with(value, path, None, remove=True)


def _places(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, inner in entries:
        yield (*path, key), inner
        yield from _places(inner, (*path, key))


def _with(value: Any, path: tuple[Any, ...], other: Any, *, remove: bool = False) -> Any:
    changed = copy.deepcopy(value)
    place = changed
    for key in path[:-1]:
        place = place[key]
    if remove:
        del place[path[-1]]
    else:
        place[path[-1]] = other
    return changed


def of_yaml(text: str) -> Iterator[tuple[str, bytes | str]]:
    """Damages of a YAML mapping."""
    yield from of_any_text(text)
    bomb = "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 30))
    merges = "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], z{n}: 1}}\n" for n in range(1, 30))
    lines = {
        "a date that is none": "x: 2026-13-01", "a number that is none": "x: !!int abc", "a bool": "x: !!bool maybe",
        "a long number": f"x: {DIGITS}", "a long hexadecimal number": f"x: 0x{'f' * 4000}",
        "a character that is none": 'x: "\\U00110000"', "a surrogate": 'x: "\\ud800"', "itself": "x: &x [*x]",
        "deep": f"x: {'[' * DEEP}", "closed": f"x: {'[' * 900}{']' * 900}", "many": f"a0: &a0 [1, 2]\n{bomb}",
        "many merged": f"a0: &a0 {{x: 1}}\n{merges}", "a key twice": "x: 1\nx: 2", "a tab": "x:\n\t- 1",
        "an unknown tag": "x: !!python/object:os.system {}", "a second document": "a: 1\n--- {a: 1}", "NUL": "x: \0",
    }  # fmt: skip
    yield from ((name, f"{line}\n".encode()) for name, line in lines.items())
    for name, whole in (("a list", "- 1\n"), ("a number", "5\n"), ("text", "x\n"), ("null", "null\n")):
        yield name, whole.encode()


def of_csv(text: str) -> Iterator[tuple[str, bytes | str]]:
    """Damages of a table of numbers."""
    yield from of_any_text(text)
    head, first, *rest = text.splitlines()
    rows = {
        "no rows": [head], "text in a cell": [head, "high," + first.partition(",")[2], *rest],
        "a short row": [head, "1", *rest], "a long row": [head, f"{first},1", *rest],
        "a long number": [head, f"{DIGITS}," + first.partition(",")[2], *rest],
        "a column twice": [head + "," + head.partition(",")[0], f"{first},1"], "a quote": [head, f'"{first}', *rest],
        "NUL": [head, f"\0{first}", *rest], "a wide cell": [head, "1" * 200_000 + "," + first.partition(",")[2]],
    }  # fmt: skip
    yield from ((name, "\n".join(lines).encode()) for name, lines in rows.items())


def of_weights(content: bytes) -> Iterator[tuple[str, bytes | str]]:
    """Damages of a safetensors file with a header of ours."""
    yield from (("empty", b""), ("a folder", "folder"), ("unreadable", "loop"), ("cut", content[:-9]))
    yield from (("text", b"no weights at all"), ("a long header", b"\xff" * 8 + content[8:]))
    size = struct.unpack("<Q", content[:8])[0]
    about, tensors = json.loads(content[8 : 8 + size]), content[8 + size :]

    def packed(scm: str) -> bytes:
        header = json.dumps({**about, "__metadata__": {"scm": scm}}).encode()
        return struct.pack("<Q", len(header)) + header + tensors

    yield from ((f"header: {name}", packed(text)) for name, text in json_values())
    header = json.loads(about["__metadata__"]["scm"])
    yield from ((f"header: {name}", packed(json.dumps(value))) for name, value in of_keys(header))
    text = about["__metadata__"]["scm"]
    yield "header: NaN", packed(text.replace('"sigma_d": 0.5', '"sigma_d": NaN'))
    yield "header: a surrogate", packed(json.dumps({**header, "classes": ["\udcff", "b", "c"]}))
    for key, other in NETWORK:
        yield f"header: {key} {other}", packed(json.dumps({**header, "network": {**header["network"], key: other}}))
    yield "header: no mapping of text", content[:8] + content[8:].replace(b'"__metadata__":{', b'"__metadata__":[', 1)
