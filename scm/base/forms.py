"""Forms: types that say what a plain value read from a file must be, and the check that it is.

A form is a TypedDict or a dataclass for a mapping of known keys; list, tuple or dict; Literal, a union or a plain type;
or Annotated with a `Rule`. It stands beside what writes or uses the value.

    class Run(TypedDict):
        seconds: Annotated[float, at_least(0)]

    require(value, Run, "encode.json", REMEDY)    # UserError: encode.json: seconds = "6": must be a number: REMEDY

Only the standard library is imported, because the files of weights have headers that are checked so.
"""

import functools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NotRequired,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from scm.errors import UserError

T = TypeVar("T")


class Rule(NamedTuple):
    """A condition on a value that has the right type."""

    holds: Callable[[Any], bool]
    problem: str  # e.g. "must be at least 0"


def at_least(limit: float) -> Rule:
    return Rule(lambda value: value >= limit, f"must be at least {limit:g}")


def matching(pattern: str, problem: str) -> Rule:
    return Rule(lambda text: re.fullmatch(pattern, text) is not None, problem)


Natural = Annotated[int, at_least(0)]
Whole = Annotated[int, at_least(1)]
Positive = Annotated[float, Rule(lambda value: value > 0, "must be greater than 0")]
Sha256 = Annotated[str, matching("[0-9a-f]{64}", "must be a SHA-256 of 64 digits")]
FileName = Annotated[str, matching(r"[^/\\\0]*[^/\\\0.][^/\\\0]*", "must be the name of a file")]


class Fault(NamedTuple):
    """What keeps a value from having a form; `text` follows the name of the document."""

    key: str
    text: str  # e.g. ": seconds = "6": must be a number"


def require(value: Any, form: type[T], source: str, remedy: str) -> T:
    """Returns the value, unchanged, if it has the form."""
    fault = fault_of(value, form)
    if fault is not None:
        raise UserError(f"{source}{fault.text}: {remedy}")
    return value


def fault_of(value: Any, form: Any, key: str = "") -> Fault | None:
    """The first fault of a value under a form, None if it has the form; `key` is its place in the document."""
    kind, parts = get_origin(form), get_args(form)
    if kind is Annotated:
        broken = (rule for rule in parts[1:] if isinstance(rule, Rule) and not rule.holds(value))
        return fault_of(value, parts[0], key) or next((_told(key, value, rule.problem) for rule in broken), None)
    if kind is NotRequired:
        return fault_of(value, parts[0], key)
    if kind in (Union, UnionType):
        return _fault_of_union(value, parts, key)
    if kind is Literal:
        same = any(type(value) is type(each) and value == each for each in parts)
        return None if same else _told(key, value, f"must be {' or '.join(map(shown, parts))}")
    if is_typeddict(form) or is_dataclass(form):
        return _fault_of_record(value, form, key)
    return None if form is Any else _fault_of_plain(value, kind or form, parts, key)


def _fault_of_union(value: Any, forms: tuple[Any, ...], key: str) -> Fault | None:
    """The fault under the form that fits best: the one whose fault lies deepest in the value."""
    faults = [fault_of(value, form, key) for form in forms]
    if None in faults:
        return None
    some = [form for form in forms if form is not NoneType]
    if len(some) == 1:
        return fault_of(value, some[0], key)
    deepest = max(filter(None, faults), key=lambda fault: fault.key.count("."))
    names = dict.fromkeys(PLAIN.get(get_origin(form) or form, (None, "a mapping"))[1] for form in forms)
    return deepest if deepest.key != key else _told(key, value, f"must be {' or '.join(names)}")


def _fault_of_record(value: Any, form: Any, key: str) -> Fault | None:
    """The fault of a mapping whose keys a TypedDict or a dataclass names; a dataclass takes no others."""
    if not isinstance(value, dict):
        return _told(key, value, "must be a mapping")
    hints, required = _record(form)
    if lacking := [name for name in hints if name in required and name not in value]:
        return Fault(_joined(key, lacking[0]), f"{f': {key}' if key else ''} lacks {', '.join(lacking)}")
    if is_dataclass(form) and (unknown := [name for name in value if name not in hints]):
        return _told(_joined(key, unknown[0]), value[unknown[0]], "is unknown")
    faults = (fault_of(value[name], hint, _joined(key, name)) for name, hint in hints.items() if name in value)
    return next(filter(None, faults), None)


@functools.cache
def _record(form: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """The forms of a record's keys, and the keys that it must have."""
    hints = get_type_hints(form, include_extras=True)
    if is_typeddict(form):
        return hints, form.__required_keys__
    return hints, frozenset(each.name for each in fields(form) if each.default is each.default_factory is MISSING)


PLAIN: dict[Any, tuple[type | tuple[type, ...], str]] = {
    str: (str, "text"), int: (int, "a whole number"), float: ((int, float), "a number"), bool: (bool, "true or false"),
    list: (list, "a list"), tuple: ((list, tuple), "a list"), dict: (dict, "a mapping"), NoneType: (NoneType, "null"),
}  # fmt: skip
"""The types that have a plain form, and its name."""


def _fault_of_plain(value: Any, kind: Any, parts: tuple[Any, ...], key: str) -> Fault | None:
    """The fault of a value of a plain type, or of an entry in a list or mapping with `parts`."""
    types, name = PLAIN[kind]
    if not isinstance(value, types) or (isinstance(value, bool) and kind is not bool):
        return _told(key, value, f"must be {name}")
    if not isinstance(value, list | tuple | dict):
        return None
    if kind is tuple and parts[-1] is not ...:
        if len(value) != len(parts):
            return _told(key, value, f"must have {len(parts)} entries")
        forms = parts
    else:
        forms = (parts[kind is dict],) * len(value) if parts else ()
    pairs = zip(entries_of(value), forms, strict=False)
    faults = (fault_of(inner, form, _joined(key, name)) for (name, inner), form in pairs)
    return next(filter(None, faults), None)


def entries_of(value: Any) -> Iterator[tuple[Any, Any]]:
    """Names and values of the entries of a mapping or a list."""
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list | tuple):
        yield from enumerate(value)


def _joined(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def _told(key: str, value: Any, problem: str) -> Fault:
    return Fault(key, f": {key} = {shown(value)}: {problem}" if key else f" {problem}")


def shown(value: Any) -> str:
    """A value as one line of at most 60 characters."""
    text = json.dumps(value, default=str, ensure_ascii=False, skipkeys=True)
    return text if len(text) <= 60 else text[:57] + "..."
