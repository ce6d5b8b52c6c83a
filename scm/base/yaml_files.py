"""YAML mappings read from disk, with every fault of the file itself told in one line.

YAML 1.2 through ruamel, as DVC reads it, so that both see the same values.
"""

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from scm.errors import UserError


def read_text(path: Path, remedy: str) -> str:
    """The file's text; `remedy` ends the message when there is no such file."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {remedy}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the file and its permissions") from None


def parse_mapping(text: str, source: str) -> dict[str, Any]:
    """Plain dicts, lists and scalars; `source` names the file in errors."""
    return _parse(YAML(typ="safe", pure=True), text, source)


def parse_for_editing(text: str, source: str) -> Any:
    """The same values as a tree that remembers comments and layout; `render` writes it back."""
    return _parse(_editor(), text, source)


def render(tree: Any) -> str:
    """The text of a tree of `parse_for_editing`."""
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
