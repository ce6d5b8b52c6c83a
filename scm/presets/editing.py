"""Writes values into a user's params.yaml and leaves its comments and layout as they are."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap, CommentedSeq

from scm.base.files import write_text
from scm.base.yaml_files import parse_for_editing, parse_mapping, read_text, render
from scm.params import validate
from scm.presets.changes import changes, same
from scm.presets.overlays import RESTORE, WHOLE


def read_tree(params_file: Path) -> CommentedMap:
    """The file as a tree that remembers comments and layout."""
    text = read_text(params_file, RESTORE)
    parse_mapping(text, str(params_file))  # whose errors name the line
    return parse_for_editing(text, str(params_file))


def write_tree(params_file: Path, tree: CommentedMap, target: Mapping[str, Any], what: str) -> list[str]:
    """Makes the file say what `target` says, and returns the changes as "key: old -> new".

    The new values are checked first, and nothing is written if nothing changes. `what` begins the message about invalid
    values and says how they came about; the file's name ends it.
    """
    before = plain(tree)
    _edit(tree, target)
    text = render(tree)
    after = parse_mapping(text, str(params_file))
    validate(after, f"{what} {params_file}")
    told = changes(before, after)
    if told:
        write_text(params_file, text)
    return told


def laid_out(layout: str, values: Mapping[str, Any], source: str) -> str:
    """The text of a parameter file with these values, and with the comments and the layout of another one.

    DVC's own writing keeps neither: null becomes nothing, lists take several lines, long lines are folded. A layout in
    which an alias ties two keys together could not say different things of them; the text then has no comments.

    Args:
        layout: the other file's text, which errors call `source`.
        values: plain.
    """
    tree = parse_for_editing(layout, source)
    own = json.loads(json.dumps(values))  # no two keys share a list, which YAML would write with an anchor
    if _tied(tree):
        return render(own)
    _edit(tree, own)
    return render(tree)


def _tied(tree: CommentedMap) -> bool:
    """True if two keys share a mapping or a list."""
    seen, waiting = set[int](), list[Any]([tree])
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            return True
        if isinstance(node, CommentedMap | CommentedSeq):
            seen.add(id(node))
            waiting += node.values() if isinstance(node, CommentedMap) else node
    return False


def plain(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A tree's values as plain dicts, lists and scalars."""
    return parse_mapping(render(tree), "parameters")


def _edit(node: CommentedMap, target: Mapping[str, Any]) -> None:
    """Makes `node` say what `target` says, and touches as little of its layout as possible."""
    for key in [key for key in node if key not in target]:
        _remove(node, key)
    for key, value in target.items():
        old = node.get(key)
        if isinstance(old, CommentedMap) and isinstance(value, Mapping):
            _edit(old, value)
            if key in WHOLE and list(old) != list(value):
                for inner in value:
                    old.move_to_end(inner)
        elif key in node and same(old, value):
            continue
        elif isinstance(old, CommentedSeq) and isinstance(value, list):
            # New items in the old list, which keeps its style and the comment behind it; an empty one has no style.
            if not old:
                old.fa.set_flow_style()
            old.clear()
            old.extend(value)
        else:
            node[key] = _bare(value)


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
    """A copy without the preset's comments; lists, and mappings of plain values, are written in one line."""
    if isinstance(value, Mapping):
        mapping = CommentedMap((key, _bare(inner)) for key, inner in value.items())
        if not any(isinstance(inner, Mapping) for inner in value.values()):
            mapping.fa.set_flow_style()
        return mapping
    if not isinstance(value, list):
        return value
    items = CommentedSeq(map(_bare, value))
    items.fa.set_flow_style()
    return items
