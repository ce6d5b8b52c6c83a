"""Rows out of a request's body: JSON in the forms that MLflow's servers read, and nothing that JSON leaves open."""

import json
import math
from typing import Any, NoReturn

from scm.errors import UserError

FORMS = ("dataframe_records", "dataframe_split", "inputs", "instances")
COMMAS_PER_ROW = 64
"""Most commas of a body for each row that a request may have: those between its values, and those in a class's name."""
MAX_DIGITS = 20
"""Most characters of a whole number; the largest seed has 19."""
EXAMPLE = "GET /about shows an example"


def rows_of(body: bytes, max_rows: int) -> list[dict[str, Any]]:
    """Reads 1 to `max_rows` rows, whose values are texts, finite numbers, true, false or None.

    Raises:
        UserError: the body is something else.
    """
    rows = _unwrapped(_parsed(body, max_rows), max_rows)
    for place, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(f"row {place}: must be an object; {EXAMPLE}")
        for name, value in row.items():
            if isinstance(value, dict | list):
                raise UserError(f"row {place}: {name}: must be one value")
            if isinstance(value, str) and not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
                raise UserError(f"row {place}: {name}: half a character (a lone surrogate); send whole ones")
    return rows


def _parsed(body: bytes, max_rows: int) -> Any:
    commas = body.count(b",")  # bounds what parsing costs, in time and memory
    if commas > COMMAS_PER_ROW * max_rows:
        raise UserError(f"body: {commas:,} commas, too many rows or values; a request takes 1 to {max_rows} rows")
    hooks = {"object_pairs_hook": _object, "parse_int": _whole, "parse_float": _real, "parse_constant": _refused}
    try:
        return json.loads(body.decode("utf-8"), **hooks)
    except UnicodeDecodeError:
        raise UserError("body: not valid JSON: not UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(f"body: not valid JSON: {error.msg}, character {error.pos}") from None
    except RecursionError:
        raise UserError(f"body: nested too deeply; {EXAMPLE}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise UserError(f"{name}: given twice in one object; give it once")
        content[name] = value
    return content


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise UserError(f"body: a number of {len(text):,} characters; at most {MAX_DIGITS} are read")
    return int(text)


def _real(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refused(text)


def _refused(text: str) -> NoReturn:
    raise UserError(f"body: {text[:MAX_DIGITS]} is not a finite number; use null for a value that is left out")


def _unwrapped(content: Any, max_rows: int) -> list[Any]:
    """The rows within the one form that the body has."""
    given = [form for form in FORMS if form in content] if isinstance(content, dict) else []
    if len(given) != 1:
        raise UserError(f"body: must be an object with exactly one of {', '.join(FORMS)}; {EXAMPLE}")
    form = given[0]
    for name in content:
        if name != form and (name != "params" or content[name]):  # MLflow's clients send empty `params`
            raise UserError(f"{name}: unknown; the body holds {form} alone")
    value = content[form]
    if form == "dataframe_split":
        return _split(value, max_rows)
    if form != "dataframe_records" and isinstance(value, dict):
        return _turned(form, value, max_rows)
    return _listed(form, value, max_rows)


def _listed(name: str, value: Any, max_rows: int) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"{name}: must be a list; {EXAMPLE}")
    if not 1 <= len(value) <= max_rows:
        raise UserError(f"{len(value):,} rows: a request takes 1 to {max_rows}")
    return value


def _split(value: Any, max_rows: int) -> list[dict[str, Any]]:
    """Rows that are lists, with the columns' names beside them."""
    if not isinstance(value, dict) or not isinstance(names := value.get("columns"), list):
        raise UserError("dataframe_split: must be an object with columns and data")
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise UserError("dataframe_split: columns: must be different texts")
    rows = _listed("dataframe_split: data", value.get("data"), max_rows)
    for place, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(names):
            raise UserError(f"row {place}: must be a list of {len(names)} values, one for each column")
    return [dict(zip(names, row, strict=True)) for row in rows]


def _turned(form: str, columns: dict[str, Any], max_rows: int) -> list[dict[str, Any]]:
    """Rows out of a list for each column."""
    lists = [_listed(f"{form}: {name}", values, max_rows) for name, values in columns.items()]
    if not lists or len({len(values) for values in lists}) > 1:
        raise UserError(f"{form}: must be lists of one length, one for each column")
    return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]
