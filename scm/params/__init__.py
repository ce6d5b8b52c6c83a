"""The values of params.yaml, checked before anything heavy is imported (no torch here).

params = load(Path("params.yaml"))
params.teacher.lr.max                # attributes are named as in the file
params.student.method("scd").p_mean  # common settings, overridden by the method's block
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from scm.base.yaml_files import parse_mapping, read_text
from scm.errors import UserError
from scm.params.faults import explain
from scm.params.rules import impossible
from scm.params.schema import METHODS, USERS_SECTIONS, Params

__all__ = ["METHODS", "USERS_SECTIONS", "Params", "dump", "flatten", "load", "validate"]


def load(path: Path) -> Params:
    """Reads and checks a parameter file; any fault is a UserError of one line."""
    text = read_text(path, "run the command in the project's folder, or restore the file with git")
    return validate(parse_mapping(text, str(path)), str(path))


def validate(mapping: Mapping[str, Any], source: str) -> Params:
    """Checks plain values; `source` names where they came from."""
    try:
        params = Params.model_validate(mapping)
    except ValidationError as error:
        found = sorted(error.errors(include_url=False), key=lambda details: details["type"] != "extra_forbidden")
        faults = [explain(details) for details in found]  # a misspelt key before the one that is missing for it
    else:
        faults = list(impossible(params))
        if not faults:
            return params
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    raise UserError(f"{source}: {faults[0]}{more}")


def dump(params: Params) -> dict[str, Any]:
    """The plain values as the file states them: `dump(load(path))` equals what a YAML reader gets from `path`."""
    return params.model_dump(mode="json", exclude_unset=True)


def flatten(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """One level of dotted keys: {"teacher.lr.max": 0.01, ...}; lists become text, "[0.9, 0.99]"."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{inner}": leaf for inner, leaf in flatten(value).items()})
        else:
            flat[key] = f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else value
    return flat
