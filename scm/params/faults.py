"""Faults in params.yaml, each described in one line with its key, value and remedy."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from scm.base.forms import shown
from scm.errors import did_you_mean
from scm.params.schema import METHODS, Params, Student

_STARTS = ("student", "methods")


GONE: dict[tuple[int | str, ...], str] = {
    ("runtime", "shards"): "and fetch data/latents with `dvc pull data/latents`",
}
"""Keys that earlier versions had, and what takes their place."""


class Fault(NamedTuple):
    """A fault of one key; `text` states the rule and the remedy."""

    key: str
    value: Any
    text: str

    def __str__(self) -> str:
        value = "" if self.value is ABSENT else f" = {shown(self.value)}"
        return f"{self.key}{value}: {self.text}"


ABSENT = object()
"""The value of a missing key."""


def decimal(number: float) -> str:
    """A number in a form that every YAML reader parses as a number: 1.0e-4, not 1e-4."""
    if number == 0 or 1e-3 <= abs(number) < 1e6:
        return repr(number)
    mantissa, exponent = f"{Decimal(repr(number)).normalize():e}".split("e")
    mantissa = mantissa if "." in mantissa else mantissa + ".0"
    return f"{mantissa}e{int(exponent):+d}"


def explain(error: ErrorDetails) -> Fault:
    """Converts one of pydantic's errors."""
    location, kind, value = error["loc"], error["type"], error["input"]
    if location[:2] == _STARTS:
        return _start_fault(location[2:], value)
    key = ".".join(str(part) for part in location)
    if kind == "extra_forbidden":
        return Fault(key, value, _unknown(location))
    if kind == "missing" and isinstance(location[-1], int):
        key, kind = ".".join(str(part) for part in location[:-1]), "too_short"
    elif kind == "missing":
        # The preset digits-plain lacks some of the methods.
        own = location[0] == "student" and len(location) > 2 and location[1] != "common"
        example = "" if own else " (`scm preset show digits-plain` prints a complete set)"
        return Fault(key, ABSENT, f"missing; add it{example}")
    rule = _RULES.get(kind)
    return Fault(key, value, rule(value, error.get("ctx", {})) if rule else error["msg"])


def _start_fault(rest: tuple[int | str, ...], value: Any) -> Fault:
    """A fault in `student.methods`: in the mapping, in a method's name, or in the model that it starts from."""
    key = ".".join(_STARTS)
    if rest[1:]:  # pydantic appends a mark if the key is at fault
        return Fault(key, value, _unknown_method(str(rest[0])))
    if rest:
        return Fault(f"{key}.{rest[0]}", value, "must name the model that it starts from; write teacher, or a method")
    listed = value if isinstance(value, list) and value and all(name in METHODS for name in value) else ["scd"]
    example = ", ".join(f"{name}: teacher" for name in dict.fromkeys(listed))
    return Fault(key, value, f"must map each method to the model that it starts from; write {{{example}}}")


def _unknown_method(name: str) -> str:
    meant = did_you_mean(name, METHODS)
    return f"unknown method; {meant}{' ' if meant else ''}the methods are {', '.join(METHODS)}"


def _unknown(location: tuple[int | str, ...]) -> str:
    model = _model_at(location[:-1])
    if model is Student:
        return _unknown_method(str(location[-1]))
    if location in GONE:
        return f"gone; remove it, {GONE[location]}"
    known = list(model.model_fields)
    if close := difflib.get_close_matches(str(location[-1]), known, n=1):
        return f"unknown key; did you mean {'.'.join(str(part) for part in (*location[:-1], close[0]))}?"
    return f"unknown key; remove it (known here: {', '.join(known)})"


def _model_at(location: Iterable[int | str]) -> type[BaseModel]:
    model: type[BaseModel] = Params
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        model = next(kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type))
    return model


def _number(value: Any, _: Mapping[str, Any]) -> str:
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        return f"text, but must be a number; write {decimal(number)} without quotes"
    return "must be a number; write one such as 0.5 or 1.0e-4"


def _whole(value: Any, _: Mapping[str, Any]) -> str:
    if isinstance(value, str) and value.isdecimal():
        return f"text, but must be a whole number; write {value} without quotes"
    return "must be a whole number; write one such as 128"


def _pattern(value: Any, context: Mapping[str, Any]) -> str:
    if "0-9a-f" in str(context.get("pattern")):
        return "not a SHA-256; write its 64 digits, 0 to 9 and a to f in lower case"
    return "must not be empty; write a value"


def _limit(words: str, name: str) -> Callable[[Any, Mapping[str, Any]], str]:
    def rule(_: Any, context: Mapping[str, Any]) -> str:
        limit = context[name]
        return f"must be {words} {limit:.4g}" if isinstance(limit, float) else f"must be {words} {limit}"

    return rule


_RULES: dict[str, Callable[[Any, Mapping[str, Any]], str]] = {
    "count": lambda value, _: "must be a count; write a whole number or one such as 128Ki or 8Mi",
    "int_type": _whole,
    "float_type": _number,
    "finite_number": lambda value, _: "must be a finite number; write one such as 0.5 or 1.0e-4",
    "bool_type": lambda value, _: "must be true or false",
    "string_type": lambda value, _: (
        "must not be empty; write a value" if value is None else "must be text; put quotes around it"
    ),
    "string_pattern_mismatch": _pattern,
    "tuple_type": lambda value, _: "must be a list; write [a, b]",
    "too_short": lambda value, _: "has too few entries; add what is missing",
    "too_long": lambda value, context: f"has too many entries; keep {context['max_length']}",
    "model_type": lambda value, _: "must be a mapping; write its keys indented below it",
    "literal_error": lambda value, context: f"must be {context['expected']}",
    "invalid_key": lambda value, _: "this key is not text; remove it",
    "value_error": lambda value, context: f"{context['error']}; correct the list",
    "greater_than": _limit("greater than", "gt"),
    "greater_than_equal": _limit("at least", "ge"),
    "less_than": _limit("less than", "lt"),
    "less_than_equal": _limit("at most", "le"),
}
