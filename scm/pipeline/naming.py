"""Names of runs: the stage, what its parameters change against the preset, and the commit."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from scm.errors import UserError
from scm.params import dump, flatten
from scm.params.project import Project
from scm.presets.apply import preview
from scm.presets.changes import same
from scm.results.provenance import chain, commit_of, params_hash

MOST_CHANGES = 4
"""Changed parameters that a name holds at most."""
FIRST = ("teacher.", "student.")
"""Beginnings of the parameters that a name mentions before others."""
NO_RESULT = ("evaluate.models",)
"""Parameters that change which models are measured, and nothing about one of them."""


def run_name(project: Project, stage: str, item: str | None, own: Mapping[str, Any]) -> str:
    """The name of a run, e.g. "evaluate@scd · teacher.images=8Ki, seed=1 · 29212f2+".

    The preset's name stands in the place of changes if there are none, and with a hash of the parameters if the preset
    is not known. The "+" stands for uncommitted changes.

    Args:
        own: flat values of the parameters that the stage tracks; a model's run is named by all that it follows from.
    """
    commit, dirty = commit_of(project.root)
    full_name = stage if item is None else f"{stage}@{item}"
    return " · ".join([full_name, _settings(project, item, own), *([f"{commit[:7]}{'+' * dirty}"] if commit else [])])


def _settings(project: Project, item: str | None, own: Mapping[str, Any]) -> str:
    name = project.params.preset
    try:
        preset = preview(project.root / "params.yaml", project.root, name)
    except UserError:  # one of the user's own
        return f"{name} {params_hash(project.params)}"
    if item is None:
        values, usual = own, flatten(dump(preset))
    else:
        values, usual = chain(project, item), chain(replace(project, params=preset), item)
    if not any(key.startswith("student.") for key in usual):  # the preset has no such student
        values = {key: value for key, value in values.items() if not key.startswith("student.")}
    absent = object()
    changed = [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in sorted(values.items(), key=lambda pair: not pair[0].startswith(FIRST))
        if key not in NO_RESULT and not same(usual.get(key, absent), value)
    ]
    more = len(changed) - MOST_CHANGES
    return ", ".join(changed[:MOST_CHANGES]) + (f" and {more} more" if more > 0 else "") if changed else name
