"""The values of params.yaml, checked without importing torch.

params = load(Path("params.yaml"))
params.teacher.lr.max                # attributes have the file's names
params.student.method("scd").p_mean  # the common value, unless the method's block overrides it
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from scm.base.yaml_files import read_mapping
from scm.errors import UserError
from scm.params.faults import Fault, explain
from scm.params.rules import impossible
from scm.params.schema import METHODS, USERS_SECTIONS, Params

__all__ = ["METHODS", "USERS_SECTIONS", "Params", "dump", "flatten", "load", "validate"]

SCHEDULE = (".lr.warmup", ".lr.decay_from", ".tangent_warmup", ".doubling")
"""Ends of keys that count images within a training."""


def load(path: Path) -> Params:
    """Reads and checks a parameter file; a fault raises a one-line UserError."""
    remedy = "run the command in the project's folder, or restore the file with git"
    return validate(read_mapping(path, remedy), str(path))


def validate(mapping: Mapping[str, Any], source: str) -> Params:
    """Checks plain values; error messages call their origin `source`."""
    try:
        params = Params.model_validate(mapping)
    except ValidationError as error:
        found = sorted(error.errors(include_url=False), key=lambda details: details["type"] != "extra_forbidden")
        faults = [explain(details) for details in found]  # a misspelt key comes before the key missing for it
    else:
        faults = list(impossible(params))
        if not faults:
            return params
    more = f" (and {len(faults) - 1} more{_together(faults, mapping)})" if len(faults) > 1 else ""
    raise UserError(f"{source}: {faults[0]}{more}")


def _together(faults: Sequence[Fault], mapping: Mapping[str, Any]) -> str:
    """A remedy for a budget that was cut alone, so that several of its schedule's keys are too long for it."""
    if sum(fault.key.endswith(SCHEDULE) for fault in faults) < 2:
        return ""
    return f"; `scm preset apply {mapping['preset']} --scale 0.1` cuts a budget with all that belongs to it"


def dump(params: Params) -> dict[str, Any]:
    """The values as the file states them: `dump(load(path))` equals what a YAML reader finds in `path`."""
    return params.model_dump(mode="json", exclude_unset=True)


def flatten(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens to dotted keys, {"teacher.lr.max": 0.01, ...}; a list becomes the text "[0.9, 0.99]"."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{inner}": leaf for inner, leaf in flatten(value).items()})
        else:
            flat[key] = f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else value
    return flat
