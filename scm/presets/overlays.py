"""Named YAML files in a folder, and mappings laid over mappings: what presets and studies have in common."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scm.errors import UserError, did_you_mean

WHOLE = ("methods",)
"""Mappings that an overlay replaces as a whole, order included: a method that it does not name is switched off."""
RESTORE = "restore it with git"
"""Remedy for a file of the project that is missing."""


def names_in(folder: Path) -> list[str]:
    """Names of the YAML files in the folder, without those in its subfolders."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def named_file(folder: Path, name: str, kind: str) -> Path:
    """The file NAME.yaml in the folder; "base/NAME" is a file in its subfolder base.

    If there is none, the UserError calls it a `kind` and suggests another name.
    """
    remedy = remedy_for(folder, name)
    if remedy:
        raise UserError(f"no {kind} {name} in {folder}: {remedy}")
    return folder / f"{name}.yaml"


def remedy_for(folder: Path, name: str) -> str | None:
    """Suggests the name that was probably meant, or all names; None if the folder has a file of this name."""
    # Names are compared, never joined to the folder, so that "../other" leads nowhere.
    part = name.partition("/")[0] if "/" in name else ""
    parts = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
    known = [f"{part}/{each}" for each in names_in(folder / part)] if part in parts else names_in(folder)
    if name in known:
        return None
    return did_you_mean(name, known) or f"choose from {', '.join(known) or 'none'}"


def laid_over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` in place of its values, key by key in mappings within; neither argument changes.

    >>> laid_over({"lr": {"max": 0.01, "decay": "cosine"}, "batch": 64}, {"lr": {"max": 0.02}})
    {'lr': {'max': 0.02, 'decay': 'cosine'}, 'batch': 64}
    """
    result: dict[str, Any] = {}
    for key in {**base, **changes}:
        below, above = base.get(key), changes.get(key)
        if key in changes and key not in WHOLE and isinstance(below, Mapping) and isinstance(above, Mapping):
            result[key] = laid_over(below, above)
        else:
            result[key] = copy.deepcopy(above if key in changes else below)
    return result
