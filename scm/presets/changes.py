"""Differences between two sets of parameters, in the one form in which every command prints them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

ABSENT = object()
"""Stands for the value of a key that one side does not have."""


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """One line "key: old -> new" for each value that differs, under its dotted key.

    >>> changes({"seed": 0, "select": {"t_mid": [0.8]}}, {"seed": 0, "select": {"t_mid": [0.8, 1.1]}, "labels": True})
    ['select.t_mid: [0.8] -> [0.8, 1.1]', 'labels: (absent) -> true']
    """
    return [f"{key}: {left} -> {right}" for key, left, right in differences(before, after)]


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Dotted key, old and new value as text, of each value that differs."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    pairs = {key: (old.get(key, ABSENT), new.get(key, ABSENT)) for key in [*old, *new]}
    return [(key, _shown(left), _shown(right)) for key, (left, right) in pairs.items() if not same(left, right)]


def same(old: Any, new: Any) -> bool:
    """True if both are the same value in YAML, where 1 and true are two."""
    return old == new and isinstance(old, bool) == isinstance(new, bool)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; an empty mapping is a value, so that its coming and going shows."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    if value is ABSENT:
        return "(absent)"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
