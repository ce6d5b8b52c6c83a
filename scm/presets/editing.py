"""Writes values into a user's params.yaml and leaves its comments and layout as they are."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.tokens import CommentToken

from scm.base.files import write_text
from scm.base.yaml_files import parse_for_editing, parse_mapping, read_text, render
from scm.errors import UserError
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
    if after != plain(target):
        raise UserError(f"{params_file}: an anchor (&) ties keys that need different values; write the values out")
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
    """Makes `node` say what `target` says, and touches as little of its layout as possible.

    A new key comes behind the one that it follows in `target`.
    """
    for key in [key for key in node if key not in target]:
        _remove(node, key)
    position = 0
    for key, value in target.items():
        old = node.get(key)
        if isinstance(old, CommentedMap) and isinstance(value, Mapping):
            _edit_within(node, key, value)
        elif key not in node:
            _insert(node, position, key, value)
        elif not same(old, value):
            _replace(node, key, value)
        position = list(node).index(key) + 1


def _edit_within(node: CommentedMap, key: str, value: Mapping[str, Any]) -> None:
    """Edits a mapping in `node`; one line becomes a block when the first mapping comes into it."""
    old, leaf = node[key], _last_leaf(node, key)
    in_one_line = old.fa.flow_style() and not _nested(old)
    _edit(old, value)
    if key in WHOLE and list(old) != list(value):
        for inner in value:
            old.move_to_end(inner)
    if in_one_line and _nested(old):
        old.fa.set_block_style()
        _hand_over(leaf, _last_leaf(node, key))


def _nested(mapping: Mapping[str, Any]) -> bool:
    return any(isinstance(inner, Mapping) for inner in mapping.values())


def _insert(node: CommentedMap, position: int, key: str, value: Any) -> None:
    """Puts a new key in; what follows the key before it on lines of their own follows this one now."""
    node.insert(position, key, _bare(value))
    if position > 0:
        _hand_over(_last_leaf(node, list(node)[position - 1]), _last_leaf(node, key))


def _replace(node: CommentedMap, key: str, value: Any) -> None:
    """Gives a key another value; what follows it stays behind it."""
    old = node[key]
    if isinstance(old, CommentedSeq) and isinstance(value, list):
        # New items in the old list, which keeps its style and the comment behind it; an empty one has no style.
        if not old:
            old.fa.set_flow_style()
        old.clear()
        old.extend(value)
        return
    leaf = _last_leaf(node, key)
    node[key] = _bare(value)
    _hand_over(leaf, _last_leaf(node, key))


def _remove(node: CommentedMap, key: str) -> None:
    """Takes a key out; a comment or blank line that follows it on lines of their own goes to the key before it."""
    position = list(node).index(key)
    if position > 0:
        _hand_over(_last_leaf(node, key), _last_leaf(node, list(node)[position - 1]))
    del node[key]


def _hand_over(giver: tuple[CommentedMap, str], taker: tuple[CommentedMap, str]) -> None:
    """Moves the comments and blank lines that follow one key, on lines of their own, behind another."""
    given = giver[0].ca.items.get(giver[1])
    if (giver[0] is taker[0] and giver[1] == taker[1]) or not (given and given[2]):
        return
    end_of_line, _, own_lines = given[2].value.partition("\n")
    if not own_lines:
        return
    taken = taker[0].ca.items.setdefault(taker[1], [None, None, None, None])
    before = taken[2].value.rstrip("\n") if taken[2] else ""
    taken[2] = CommentToken(f"{before}\n{own_lines}", given[2].start_mark, None)
    given[2] = CommentToken(f"{end_of_line}\n", given[2].start_mark, None) if end_of_line else None


def _last_leaf(node: CommentedMap, key: str) -> tuple[CommentedMap, str]:
    """The key that holds what follows `key`: in a block, the last key of its last block."""
    value = node[key]
    while isinstance(value, CommentedMap) and value and not value.fa.flow_style():
        node, key = value, list(value)[-1]
        value = node[key]
    return node, key


def _bare(value: Any) -> Any:
    """A copy without the preset's comments; lists, and mappings of plain values, are written in one line."""
    if isinstance(value, Mapping):
        mapping = CommentedMap((key, _bare(inner)) for key, inner in value.items())
        if not _nested(value):
            mapping.fa.set_flow_style()
        return mapping
    if not isinstance(value, list):
        return value
    items = CommentedSeq(map(_bare, value))
    items.fa.set_flow_style()
    return items
