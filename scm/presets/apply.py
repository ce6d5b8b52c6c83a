"""Presets: named sets of values in pipelines/presets, written into params.yaml by `scm preset apply`.

A preset is an overlay in YAML that may extend others: `extends: name` or `extends: [name, name]`, of which a later one
wins. Presets in base/ are parts that others share; they cannot be applied.

With all that it extends, a preset names every value but those of runtime, mlflow and publish. So applying it gives the
same values whatever was applied before. Those three sections are the user's: they stay as they are, except for keys
that a preset names, such as how often a training reports and is saved, which belongs to its batch. Keys of other
sections that the preset does not name (say, a method's own `p_mean`) are removed.

The values become ordinary parameters, so `dvc params diff`, `dvc exp show` and MLflow see them; values that DVC's own
Hydra composition writes at run time would stay hidden. The key `paper` is not a value; it says which column of the
paper's tables a preset stands for (`scm.presets.table`).
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml.comments import CommentedMap

from scm.base.yaml_files import parse_for_editing, read_mapping, read_text
from scm.errors import UserError
from scm.params import USERS_SECTIONS, Params, validate
from scm.params.faults import Fault, explain
from scm.params.scaling import Scaled, scaled
from scm.presets.changes import changes
from scm.presets.editing import plain, read_tree, write_tree
from scm.presets.overlays import RESTORE, laid_over, named_file, names_in, remedy_for

EXTENDS, PAPER = "extends", "paper"
PAPER_KEYS = {"dataset": str, "size": str, "comparison": str, "parameters": int}
BASE = "base/"


def names(root: Path) -> list[str]:
    return names_in(_folder(root))


def show(root: Path, name: str) -> str:
    """The text of `file`."""
    return read_text(file(root, name), RESTORE)


def summary(root: Path, name: str) -> str:
    """First line of the preset's header."""
    first = show(root, name).partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def header(root: Path, name: str) -> str:
    """The comment at the beginning of a preset's file, in one line."""
    lines = takewhile(lambda line: line.startswith("#"), show(root, name).splitlines())
    return " ".join(line.removeprefix("#").strip() for line in lines)


def file(root: Path, name: str) -> Path:
    """The file of a preset, or of a part in base/."""
    return named_file(_folder(root), name, "preset")


def preview(params_file: Path, root: Path, name: str, scale: float = 1.0) -> Params:
    """The parameters that `apply` would leave."""
    return validate(*_checkable(params_file, root, name, scale))


def diff(params_file: Path, root: Path, name: str, scale: float = 1.0) -> list[str]:
    """What `apply` would change, one line "key: old -> new" for each value."""
    after, what = _checkable(params_file, root, name, scale)
    validate(after, what)
    return changes(read_mapping(params_file, RESTORE), after)


def apply(
    params_file: Path, root: Path, name: str, scale: float = 1.0, further: Mapping[str, Any] | None = None
) -> list[str]:
    """Writes the preset's values into the file and returns what changed.

    Comments and layout stay. The result is checked before it is written, and nothing is written if nothing changes.

    Args:
        scale: of all budgets together (`scm.params.scaling`).
        further: values that are laid over the preset's.
    """
    tree = read_tree(params_file)
    target = laid_over(_target(tree, root, name, scale), further or {})
    return write_tree(params_file, tree, target, _what(name, scale))


def scaled_preset(root: Path, name: str, scale: float) -> Scaled:
    """The preset's values with all budgets scaled, and what does not follow the scale."""
    return scaled(resolve(root, name), scale)


def set_values(params_file: Path, values: Mapping[str, Any]) -> list[str]:
    """Writes values under dotted keys, each in place of all that is there; otherwise like `apply`."""
    tree = read_tree(params_file)
    target = copy.deepcopy(tree)
    for key, value in values.items():
        *parents, last = key.split(".")
        node: Any = target
        for part in parents:
            node = node.setdefault(part, CommentedMap()) if isinstance(node, CommentedMap) else None
        if not isinstance(node, CommentedMap):
            raise UserError(f"{params_file} has no key {key}: `scm params show` prints them all")
        node[last] = value
    return write_tree(params_file, tree, target, "values set in")


def read_preset(path: Path) -> CommentedMap:
    """The file of a preset or of a part in base/, with its comments, checked without what it extends."""
    read_values(path)
    return parse_for_editing(read_text(path, RESTORE), str(path))


def read_values(path: Path) -> dict[str, Any]:
    """The values of a preset's file, in a tenth of the time of `read_preset`."""
    values = read_mapping(path, RESTORE)
    for fault in _faults(values):
        raise UserError(f"{path}: {fault}")
    return values


Read = Callable[[Path], Mapping[str, Any]]
"""How presets are read: `read_preset`, its cached form, or `read_values`."""


def resolve(root: Path, name: str, read: Read = read_preset) -> dict[str, Any]:
    """The preset's values, laid over those of all that it extends."""
    values: dict[str, Any] = {}
    for _, overlay in _overlays(root, name, read):
        values = laid_over(values, {key: value for key, value in overlay.items() if key not in (EXTENDS, PAPER)})
    return values


def paper_row(root: Path, name: str, read: Read = read_preset) -> dict[str, Any]:
    """The preset's `paper` block, completed from base/; empty if it has none, whatever it extends."""
    parts = list(_overlays(root, name, read))
    row: dict[str, Any] = {}
    for part, overlay in parts if PAPER in parts[-1][1] else ():
        if part == name or part.startswith(BASE):
            row |= overlay.get(PAPER, {})
    return row


def _folder(root: Path) -> Path:
    return root / "pipelines" / "presets"


def _what(name: str, scale: float) -> str:
    """The beginning of a message about values that came about by applying a preset."""
    return f"preset {name} applied to" if scale == 1 else f"preset {name}, scaled by {scale:g}, applied to"


def _checkable(params_file: Path, root: Path, name: str, scale: float) -> tuple[dict[str, Any], str]:
    """The values after applying, and what an error calls them."""
    values = _target(read_mapping(params_file, RESTORE), root, name, scale, read_values)
    return values, f"{_what(name, scale)} {params_file}"


def _target(tree: Mapping[str, Any], root: Path, name: str, scale: float, read: Read = read_preset) -> dict[str, Any]:
    """The values after applying: the preset's, on top of the user's own sections."""
    if name.startswith(BASE):
        raise UserError(f"{name} is a part of presets, not a preset: choose from {', '.join(names(root))}")
    own = {key: tree[key] for key in USERS_SECTIONS if key in tree}
    values = resolve(root, name, read)
    target = {**laid_over(own, values), "preset": name}
    if scale == 1:
        return target
    validate(plain(target), f"preset {name}")  # only whole values can be scaled
    return {**laid_over(own, scaled(values, scale).values), "preset": name}


def _overlays(
    root: Path, name: str, read: Read, chain: tuple[str, ...] = ()
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields the names and contents of the files that make up a preset, each after those that it extends."""
    if name in chain:
        circle = " -> ".join([*chain, name])
        raise UserError(f"{file(root, chain[0])}: extends itself ({circle}); cut the circle")
    remedy = remedy_for(_folder(root), name) if chain else None
    if remedy:
        raise UserError(f"{file(root, chain[-1])}: {Fault(EXTENDS, name, f'no such preset; {remedy}')}")
    overlay = read(file(root, name))
    extended = overlay.get(EXTENDS, [])
    for other in extended if isinstance(extended, list) else [extended]:
        yield from _overlays(root, other, read, (*chain, name))
    yield name, overlay


def _faults(preset: Mapping[str, Any]) -> Iterator[Fault]:
    """Faults of one file, whatever it extends: params.yaml's rules hold for its values, but it may leave any out."""
    values = dict(preset)
    extended, paper = values.pop(EXTENDS, []), values.pop(PAPER, {})
    if not all(isinstance(name, str) for name in (extended if isinstance(extended, list) else [extended])):
        yield Fault(EXTENDS, extended, "must be a preset's name or a list of names; correct it or take it out")
    if not isinstance(paper, dict):
        yield Fault(PAPER, paper, f"must be a mapping; write some of {', '.join(PAPER_KEYS)} below it, or take it out")
        paper = {}
    for key, value in paper.items():
        if key not in PAPER_KEYS:
            yield Fault(f"{PAPER}.{key}", value, f"unknown key; remove it (known here: {', '.join(PAPER_KEYS)})")
        elif type(value) is not PAPER_KEYS[key]:
            number, text = "a whole number; write one such as 60066692", "text; put quotes around it"
            yield Fault(f"{PAPER}.{key}", value, f"must be {text if PAPER_KEYS[key] is str else number}")
    try:
        Params.model_validate(values)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            if details["type"] != "missing" or isinstance(details["loc"][-1], int):
                yield explain(details)
