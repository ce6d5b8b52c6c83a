"""Presets: named sets of values in pipelines/presets, written into params.yaml by `scm preset apply`.

A preset is an overlay in YAML that may extend others, `extends: name` or `extends: [name, name]`, of which a later one
wins. Those in base/ are parts that presets share; they cannot be applied. Resolved, a preset names every value but
runtime.*, mlflow.* and publish.*, so applying it gives the same ones whatever was applied before. Those three are the
user's: they stay as they are, but for keys that a preset names all the same. Keys of other sections that the preset
does not name (say, a method's own `p_mean`) are taken out. The values become ordinary parameters, so that
`dvc params diff`, `dvc exp show` and MLflow see them (DVC's own Hydra composition does not). `paper` is no value: it
says which column of the paper's tables a preset stands for (`scm.presets.table`).
"""

import copy
import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from scm.base.files import write_text
from scm.base.yaml_files import parse_for_editing, parse_mapping, read_text, render
from scm.errors import UserError
from scm.params import USERS_SECTIONS, Params, flatten, validate
from scm.params.faults import Fault, explain

WHOLE = ("methods",)
"""Mappings that a preset replaces as a whole, order included: a method that it does not name is switched off."""
EXTENDS, PAPER = "extends", "paper"
PAPER_KEYS = {"dataset": str, "size": str, "comparison": str, "parameters": int}
BASE = "base/"
_RESTORE = "restore it with git"
_ABSENT = object()


def read_preset(path: Path) -> CommentedMap:
    """The file of a preset or of a part in base/, with its comments; what it says is checked by itself."""
    text = read_text(path, _RESTORE)
    for fault in _faults(parse_mapping(text, str(path))):
        raise UserError(f"{path}: {fault}")
    return parse_for_editing(text, str(path))


Read = Callable[[Path], CommentedMap]
"""How presets are read: `read_preset`, or its cached form."""


def names(root: Path) -> list[str]:
    """Names of the presets, without those in base/."""
    return sorted(path.stem for path in _folder(root).glob("*.yaml"))


def show(root: Path, name: str) -> str:
    """The file of a preset, or of a part in base/, as it stands."""
    return read_text(file(root, name), _RESTORE)


def diff(params_file: Path, root: Path, name: str) -> list[str]:
    """What `apply` would change, one line "key: old -> new" for each value."""
    after = _plain(_target(_read_params(params_file), root, name))
    validate(after, f"preset {name} applied to {params_file}")
    return _changes(_read_plain(params_file), after)


def apply(params_file: Path, root: Path, name: str) -> list[str]:
    """Writes the preset's values into the file, comments and layout kept, and returns what changed.

    The result is checked before it is written; nothing is written when nothing changes.
    """
    tree = _read_params(params_file)
    return _write(params_file, tree, _target(tree, root, name), f"preset {name} applied to")


def _write(params_file: Path, tree: CommentedMap, target: CommentedMap, what: str) -> list[str]:
    before = _plain(tree)
    _edit(tree, target)
    text = render(tree)
    after = parse_mapping(text, str(params_file))
    validate(after, f"{what} {params_file}")
    changes = _changes(before, after)
    if changes:
        write_text(params_file, text)
    return changes


def set_values(params_file: Path, values: Mapping[str, Any]) -> list[str]:
    """Writes values under dotted keys, each in place of all that is there; otherwise as `apply`."""
    tree = _read_params(params_file)
    target = copy.deepcopy(tree)
    for key, value in values.items():
        *parents, last = key.split(".")
        node: Any = target
        for part in parents:
            node = node.setdefault(part, CommentedMap()) if isinstance(node, CommentedMap) else None
        if not isinstance(node, CommentedMap):
            raise UserError(f"{params_file} has no key {key}: `scm params show` prints them all")
        node[last] = value
    return _write(params_file, tree, target, "values set in")


def summary(root: Path, name: str) -> str:
    """First line of the preset's header."""
    first = show(root, name).partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def resolve(root: Path, name: str, read: Read = read_preset) -> CommentedMap:
    """The preset's values, laid over those of all that it extends."""
    values = CommentedMap()
    for _, overlay in _overlays(root, name, read):
        _lay_over(values, {key: value for key, value in overlay.items() if key not in (EXTENDS, PAPER)})
    return values


def paper_row(root: Path, name: str, read: Read = read_preset) -> dict[str, Any]:
    """The preset's `paper` block, completed from base/; empty if it has none, whatever it extends."""
    parts = list(_overlays(root, name, read))
    row: dict[str, Any] = {}
    for part, overlay in parts if PAPER in parts[-1][1] else ():
        if part == name or part.startswith(BASE):
            row |= overlay.get(PAPER, {})
    return row


def _overlays(root: Path, name: str, read: Read, chain: tuple[str, ...] = ()) -> Iterator[tuple[str, CommentedMap]]:
    """Names and contents of all that a preset is made of, what is extended before what extends it."""
    if name in chain:
        circle = " -> ".join([*chain, name])
        raise UserError(f"{file(root, chain[0])}: extends itself ({circle}); cut the circle")
    overlay = read(file(root, name, chain))
    extended = overlay.get(EXTENDS, [])
    for other in extended if isinstance(extended, list) else [extended]:
        yield from _overlays(root, other, read, (*chain, name))
    yield name, overlay


def _faults(preset: Mapping[str, Any]) -> Iterator[Fault]:
    """What a preset may not say whatever it extends: params.yaml's rules for single values, but nothing is missing."""
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
            kind = (
                "text; put quotes around it" if PAPER_KEYS[key] is str else "a whole number; write one such as 60066692"
            )
            yield Fault(f"{PAPER}.{key}", value, f"must be {kind}")
    try:
        Params.model_validate(values)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            if details["type"] != "missing" or isinstance(details["loc"][-1], int):
                yield explain(details)


def _folder(root: Path) -> Path:
    return root / "pipelines" / "presets"


def file(root: Path, name: str, chain: tuple[str, ...] = ()) -> Path:
    """The file of a preset, which the last one of `chain` extends."""
    folder = _folder(root)
    bases = sorted(f"{BASE}{path.stem}" for path in folder.glob(f"{BASE}*.yaml"))
    known = bases if name.startswith(BASE) else names(root)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean {close[0]}?" if close else f"choose from {', '.join(known) or 'none'}"
        if chain:
            raise UserError(f"{folder / chain[-1]}.yaml: {Fault(EXTENDS, name, f'no such preset; {remedy}')}")
        raise UserError(f"no preset {name} in {folder}: {remedy}")
    return folder / f"{name}.yaml"


def _read_params(path: Path) -> CommentedMap:
    return parse_for_editing(read_text(path, _RESTORE), str(path))


def _read_plain(path: Path) -> dict[str, Any]:
    return parse_mapping(read_text(path, _RESTORE), str(path))


def _target(tree: CommentedMap, root: Path, name: str) -> CommentedMap:
    """The values after applying: the preset's, on top of the user's own sections."""
    if name.startswith(BASE):
        raise UserError(f"{name} is a part of presets, not a preset: choose from {', '.join(names(root))}")
    target = CommentedMap((key, copy.deepcopy(tree[key])) for key in USERS_SECTIONS if key in tree)
    _lay_over(target, resolve(root, name))
    target["preset"] = name
    return target


def _lay_over(values: CommentedMap, overlay: Mapping[str, Any]) -> None:
    for key, value in overlay.items():
        if isinstance(value, Mapping) and isinstance(values.get(key), Mapping) and key not in WHOLE:
            _lay_over(values[key], value)
        else:
            values[key] = copy.deepcopy(value)


def _edit(node: CommentedMap, target: Mapping[str, Any]) -> None:
    """Makes `node` say what `target` says, touching as little of its layout as possible."""
    for key in [key for key in node if key not in target]:
        _remove(node, key)
    for key, value in target.items():
        old = node.get(key)
        if isinstance(old, CommentedMap) and isinstance(value, Mapping):
            _edit(old, value)
            if key in WHOLE and list(old) != list(value):
                for inner in value:
                    old.move_to_end(inner)
        elif key in node and _same(old, value):
            continue
        elif isinstance(old, CommentedSeq) and isinstance(value, list):
            _replace_items(old, value)
        else:
            node[key] = _bare(value)


def _replace_items(items: CommentedSeq, values: list[Any]) -> None:
    """New items in a list that keeps its style and the comment behind it."""
    items.clear()
    items.extend(values)


def _remove(node: CommentedMap, key: str) -> None:
    """Takes a key out; a comment or blank line that follows it on lines of their own goes to the key before it."""
    keys = list(node)
    comments = node.ca.items.get(key)
    position = keys.index(key)
    if comments and comments[2] and position > 0:
        own_lines = comments[2].value.partition("\n")[2]
        previous = node.ca.items.setdefault(keys[position - 1], [None, None, None, None])
        if own_lines and previous[2]:
            previous[2].value = previous[2].value.rstrip("\n") + "\n" + own_lines
        elif own_lines:
            comments[2].value = "\n" + own_lines
            previous[2] = comments[2]
    del node[key]


def _bare(value: Any) -> Any:
    """A copy without the preset's comments, lists and mappings of plain values in one line."""
    if isinstance(value, Mapping):
        mapping = CommentedMap((key, _bare(inner)) for key, inner in value.items())
        if not any(isinstance(inner, Mapping) for inner in value.values()):
            mapping.fa.set_flow_style()
        return mapping
    if isinstance(value, list):
        items = CommentedSeq(map(_bare, value))
        items.fa.set_flow_style()
        return items
    return value


def _plain(tree: Mapping[str, Any]) -> dict[str, Any]:
    return parse_mapping(render(tree), "parameters")


def _same(old: Any, new: Any) -> bool:
    return old == new and isinstance(old, bool) == isinstance(new, bool)


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    old, new = flatten(before), flatten(after)
    lines = []
    for key in [*old, *(key for key in new if key not in old)]:
        left, right = old.get(key, _ABSENT), new.get(key, _ABSENT)
        if not _same(left, right):
            lines.append(f"{key}: {_shown(left)} -> {_shown(right)}")
    return lines


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return "(absent)" if value is _ABSENT else str(value)
