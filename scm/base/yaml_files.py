"""Reads YAML mappings from disk, and reports a fault in one line.

ruamel reads YAML 1.2, as DVC does, so both see the same values.
"""

import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.constructor import ConstructorError, RoundTripConstructor, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.main import CParser

from scm.base import documents
from scm.base.documents import MAX_DEPTH
from scm.base.forms import shown
from scm.errors import UserError

MAX_VALUES = 100_000
"""Most values of a document, those that aliases repeat included."""
CORRECT = "correct that line"


def read_text(path: Path, remedy: str) -> str:
    """Reads the file's text; `remedy` ends the message if the file is missing."""
    return documents.read_text(path, remedy, "save it as UTF-8")


def read_mapping(path: Path, remedy: str) -> dict[str, Any]:
    """Reads a YAML file; `remedy` ends the message if the file is missing."""
    return parse_mapping(read_text(path, remedy), str(path))


def parse_mapping(text: str, source: str, remedy: str = CORRECT) -> dict[str, Any]:
    """Parses YAML to plain dicts, lists and scalars; errors call the file `source`."""
    return _parse(lambda: _load_plain(text), source, remedy)


def parse_for_editing(text: str, source: str) -> Any:
    """Parses YAML to a tree that keeps comments and layout, which `render` writes back."""
    yaml = _editor()
    yaml.Composer = _Composer
    return _parse(lambda: yaml.load(text), source, CORRECT)


def render(tree: Any) -> str:
    """Writes a tree of `parse_for_editing` as text."""
    stream = io.StringIO()
    _editor().dump(tree, stream)
    return stream.getvalue()


def _editor() -> YAML:
    yaml = YAML(typ="rt")
    yaml.Constructor = _EditingConstructor
    yaml.width = 4096
    yaml.preserve_quotes = True
    yaml.representer.add_representer(
        type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def _load_plain(text: str) -> Any:
    """What C cannot take apart, ruamel's own parser reads, or finds the fault of."""
    if CParser is not None:
        with suppress(YAMLError, ValueError):
            return _Plain(CParser(text)).constructor.get_single_data()
    return _Plain().load(text)


class _Plain(YAML):
    """Makes plain values, from a text or from the events of a C parser.

    A C parser that is named to ruamel in its own way would put the values together as well, without `_Composer`.
    """

    def __init__(self, events: Any = None) -> None:
        super().__init__(typ="safe", pure=True)
        self.Composer, self.Constructor = _Composer, _PlainConstructor
        if events is not None:
            self._parser = events


class _Composer(Composer):
    """Puts nodes together, and refuses a document that nests deeply, contains itself, or swells by aliases."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        self._depth, self._values, self._sizes = 0, 0, dict[int, int]()

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark, alias = self.parser.peek_event().start_mark, self.parser.check_event(AliasEvent)
        before, self._depth = self._values, self._depth + 1
        if self._depth > MAX_DEPTH:
            raise ComposerError(None, None, f"nests deeper than {MAX_DEPTH} levels", mark)
        node = super().compose_node(parent, index)
        if alias and id(node) not in self._sizes:
            raise ComposerError(None, None, "an alias that stands within what it repeats", mark)
        self._values += self._sizes[id(node)] if alias else 1
        if self._values > MAX_VALUES:
            raise ComposerError(None, None, f"more than {MAX_VALUES:,} values, with those that aliases repeat", mark)
        self._sizes[id(node)], self._depth = self._values - before, self._depth - 1
        return node


class _Marked:
    """Gives a value that cannot be made, such as the date 2026-13-01, the place of its line."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)  # type: ignore[misc]
        except (ValueError, LookupError) as error:
            what = f"{shown(node.value)} is no {str(node.tag).rpartition(':')[2]}: {error}; quotes make it text"
            raise ConstructorError(None, None, what, node.start_mark) from None


class _PlainConstructor(_Marked, SafeConstructor):
    pass


class _EditingConstructor(_Marked, RoundTripConstructor):
    pass


def _parse(load: Callable[[], Any], source: str, remedy: str) -> Any:
    try:
        value = load()
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}" if mark else ""
        problem = " ".join(str(error.problem or error.context).split())
        raise UserError(f"{source}{place} is not valid YAML ({problem}): {remedy}") from None
    except (YAMLError, ValueError) as error:
        raise UserError(f"{source} is not valid YAML ({' '.join(str(error).split())}): {remedy}") from None
    if not isinstance(value, dict):
        found = "empty" if value is None else f"a {type(value).__name__}"
        raise UserError(f"{source} is {found}, but must be a mapping: write `key: value` lines")
    documents.require_usable(value, source, remedy, finite=False)
    return value
