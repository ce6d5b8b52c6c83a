"""Documents that are read back: text and JSON within bounds, in the form that they must have.

read_json(path, Run)    # UserError: encode.json: seconds = "6": must be a number: delete it and run `scm run`
"""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar

from scm.base.forms import entries_of, require
from scm.errors import UserError

T = TypeVar("T")
MAX_BYTES, MAX_DEPTH, MAX_DIGITS = 2**28, 64, 19
"""Most bytes of a document, levels of nesting in it, and digits of a whole number."""
MISSING_RESULT, DAMAGED_RESULT = "run `scm run` first", "delete it and run `scm run`"
"""Remedies for outputs of stages, which DVC restores from its cache or makes again."""
_CONFLICT = re.compile(r"^(?:<{7}|>{7}|={7})(?: |$)", re.MULTILINE)
_SURROGATE = re.compile("[\ud800-\udfff]")


def is_there(path: Path) -> bool:
    """True if there is something to read or to complain about; a link to itself is something."""
    return path.exists() or path.is_symlink()


def read_text(path: Path, missing: str, damaged: str) -> str:
    """The text of a file in UTF-8; `missing` and `damaged` are remedies."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {missing}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: {damaged}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the file and its permissions") from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{path} has more than {MAX_BYTES:,} bytes: {damaged}")
    if text.startswith("\ufeff"):
        raise UserError(f"{path} begins with a byte order mark: save it as UTF-8 without one")
    if conflict := _CONFLICT.search(text):
        line = text.count("\n", 0, conflict.start()) + 1
        choice = f"`git checkout --ours {path}`, or `--theirs`, keeps one side"
        raise UserError(
            f"{path}:{line} has the marks of a merge conflict: {choice}; take the same side for params.yaml, dvc.lock "
            "and results, then run `scm run`"
        )
    return text


def read_json(path: Path, form: type[T], missing: str = MISSING_RESULT, damaged: str = DAMAGED_RESULT) -> T:
    """The content of a JSON file that has the form.

    Raises:
        UserError: one line with the file, the key, the problem and the remedy `missing` or `damaged`.
    """
    return parse_json(read_text(path, missing, damaged), form, str(path), damaged)


def parse_json(text: str, form: type[T], source: str, remedy: str, *, finite: bool = True) -> T:
    """Parses JSON of the form; errors call its origin `source`.

    Args:
        finite: False takes NaN and infinity, which Python's `json` writes and JSON lacks.
    """
    if not text.strip():
        raise UserError(f"{source} is empty: {remedy}")
    try:
        value = json.loads(text, object_pairs_hook=_distinct, parse_int=_whole)
    except RecursionError:
        raise UserError(f"{source} nests deeper than {MAX_DEPTH} levels: {remedy}") from None
    except ValueError as error:
        raise UserError(f"{source} is not valid JSON ({error}): {remedy}") from None
    require_usable(value, source, remedy, finite=finite)
    return require(value, form, source, remedy)


def require_usable(value: Any, source: str, remedy: str, *, finite: bool = True) -> None:
    """Refuses what JSON and YAML can write, but no later step can use: deep nesting, numbers that no number type holds,
    text that is not Unicode.
    """
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), value)]
    while waiting:
        path, each = waiting.pop()
        problem = _unusable(each, finite)
        if problem is None and len(path) > MAX_DEPTH:
            path, problem = path[:4], f" nests deeper than {MAX_DEPTH} levels"
        if problem is not None:
            place = ".".join(map(str, path))
            raise UserError(f"{source}{f': {place}' if place else ''}{problem}: {remedy}")
        waiting += [((*path, name), inner) for name, inner in entries_of(each)]
        if isinstance(each, dict):
            waiting += [((*path, "(a key)"), key) for key in each]


def _unusable(value: Any, finite: bool) -> str | None:
    if isinstance(value, str) and _SURROGATE.search(value):
        return f" = {ascii(value)[:60]}: is no Unicode text"
    if isinstance(value, float) and finite and not math.isfinite(value):
        return f" = {value}: must be a finite number"
    if isinstance(value, int) and value.bit_length() > 64:
        return f": a number of some {value.bit_length() * 3 // 10:,} digits is too large"
    return None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {key!r} is there twice")
    return values


def _whole(digits: str) -> int | float:
    """A whole number; one with too many digits becomes a float, if need be infinity, which is refused later."""
    return int(digits) if len(digits) <= MAX_DIGITS else float(digits)
