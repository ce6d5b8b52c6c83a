"""Reads YAML mappings from disk, and reports a fault in one line.

ruamel reads YAML 1.2, as DVC does, so both see the same values.
"""

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from scm.errors import UserError


def read_text(path: Path, remedy: str) -> str:
    """Reads the file's text; `remedy` ends the message if the file is missing."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {remedy}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the file and its permissions") from None


def parse_mapping(text: str, source: str) -> dict[str, Any]:
    """Parses YAML to plain dicts, lists and scalars; errors call the file `source`."""
    return _parse(YAML(typ="safe", pure=True), text, source)


def parse_for_editing(text: str, source: str) -> Any:
    """Parses YAML to a tree that keeps comments and layout, which `render` writes back."""
    return _parse(_editor(), text, source)


def render(tree: Any) -> str:
    """Writes a tree of `parse_for_editing` as text."""
    stream = io.StringIO()
    _editor().dump(tree, stream)
    return stream.getvalue()


def _editor() -> YAML:
    yaml = YAML(typ="rt")
    yaml.width = 4096
    yaml.preserve_quotes = True
    yaml.representer.add_representer(
        type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def _parse(yaml: YAML, text: str, source: str) -> Any:
    try:
        value = yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}" if mark else ""
        problem = " ".join(str(error.problem or error.context).split())
        raise UserError(f"{source}{place} is not valid YAML ({problem}): correct that line") from None
    except YAMLError as error:
        raise UserError(f"{source} is not valid YAML ({' '.join(str(error).split())}): correct it") from None
    if not isinstance(value, dict):
        found = "empty" if value is None else f"a {type(value).__name__}"
        raise UserError(f"{source} is {found}, but must be a mapping: write `key: value` lines")
    return value
