"""Hook of mkdocs: the reference of params.yaml, made from its schema, its comments and the presets' values."""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

import annotated_types
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from scm import methods
from scm.base import registry
from scm.base.count import Count
from scm.base.sections import Sha256
from scm.base.yaml_files import read_mapping
from scm.params import flatten
from scm.params.faults import decimal
from scm.params.schema import METHODS, Params
from scm.presets.apply import resolve

ROOT = Path(__file__).parents[2]
PAGE = "reference/parameters.md"
OPENING = """# params.yaml

{header}

The table has every key of [params.yaml](../../params.yaml).
The column "digits" has the values of the preset `digits`, with which the file ships.
For a method that this preset does not train, it has those of `digits-methods`.
`scm params check` checks a file by the same rules, and refuses combinations that cannot work.
"""
BLOCK = """{summary}

The block may also name any key of [student.common](#studentcommon), which it then overrides."""
HEADER = re.compile(r"\A(#.*\n)+")
KEY = re.compile(r"^(\s*)([a-z]\w*):(\s|$)")
BOUNDS = {"gt": "> ", "ge": "≥ ", "lt": "< ", "le": "≤ "}


class Key(NamedTuple):
    """A key of the schema.

    Attributes:
        path: with dots.
        type: in words.
        comment: why it is there; empty where the name says it all.
    """

    path: str
    type: str
    comment: str


def on_files(files: Files, config: MkDocsConfig) -> Files:
    files.append(File.generated(config, PAGE, content=reference()))
    return files


def reference() -> str:
    """The page in Markdown: a section for each mapping of the file."""
    text, values = (ROOT / "params.yaml").read_text(encoding="utf-8"), shipped()
    comments = comments_of(text)
    parts = [OPENING.format(header=header_of(text)), *_table(keys_of(Params, comments), values)]
    for section, model in sections_of(Params):
        parts += [
            f"## {section}",
            "",
            said_of(section, comments),
            "",
            *_table(keys_of(model, comments, section), values),
        ]
    return "\n".join(parts)


def shipped() -> dict[str, Any]:
    """The values of params.yaml, and those of digits-methods for blocks that it lacks."""
    own = flatten(read_mapping(ROOT / "params.yaml", "restore it with git"))
    more = flatten({"student": resolve(ROOT, "digits-methods")["student"]})
    return {**{key: value for key, value in more.items() if not key.startswith("student.methods.")}, **own}


def said_of(section: str, comments: Mapping[str, str]) -> str:
    """What stands above a section's table."""
    name = section.removeprefix("student.")
    if name in METHODS:
        return BLOCK.format(
            summary=_cell(inspect.cleandoc(registry.part("scm.methods", name).__doc__).partition("\n")[0])
        )
    return _cell(comments.get(section, ""))


def header_of(text: str) -> str:
    """The comment at the file's top, as a paragraph."""
    found = HEADER.match(text)
    return re.sub(r"\n# ?", " ", found[0].strip())[2:] if found else ""


def sections_of(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yields the mappings of params.yaml by their dotted keys, in the order of the schema."""
    for name, field in own_fields(model).items():
        section = _section(field.annotation)
        if section is not None:
            path = f"{above}{name}"
            yield path, section
            yield from sections_of(section, f"{path}.")


def keys_of(model: type[BaseModel], comments: Mapping[str, str], section: str = "") -> list[Key]:
    """The keys of a mapping that hold values."""
    found, described = [], attributes_of(model)
    for name, field in own_fields(model).items():
        if _section(field.annotation) is None:
            path = f"{section}.{name}".lstrip(".")
            like_the_teachers = comments.get(f"teacher.{path.removeprefix('student.common.')}", "")
            comment = comments.get(path) or described.get(name) or like_the_teachers
            found.append(Key(path, in_words(field.annotation, field.metadata), comment))
    return found


def own_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a mapping; of a method's block those that do not override student.common."""
    common = methods.StudentCommon.model_fields if issubclass(model, methods.MethodBlock) else {}
    return {name: field for name, field in model.model_fields.items() if name not in common}


def comments_of(text: str) -> dict[str, str]:
    """The comments of a parameter file by dotted key: beside the key, and in lines of their own above it."""
    comments: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    waiting, key, column = "", "", -1
    for line in HEADER.sub("", text).splitlines():
        code, mark, comment = line.partition("#")
        if found := KEY.match(line):
            indent = len(found[1])
            parents = [(depth, name) for depth, name in parents if depth < indent]
            parents.append((indent, found[2]))
            key, column = ".".join(name for _, name in parents), len(code)
            comments[key] = f"{waiting} {comment}".strip()
            waiting = ""
        elif mark and len(code) == column and not code.strip():
            comments[key] += f" {comment.strip()}"
        elif mark:
            waiting, column = f"{waiting} {comment.strip()}".strip(), -1
        else:
            waiting = ""
    return {key: comment.strip() for key, comment in comments.items()}


def attributes_of(model: type[BaseModel]) -> dict[str, str]:
    """What the docstrings of a mapping's class, and of those that it extends, say of its keys."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        _, _, listed = inspect.cleandoc(kind.__dict__.get("__doc__") or "").partition("Attributes:\n")
        joined = re.sub(r"\n\s{8,}", " ", listed)
        found |= dict(re.findall(r"^ {4}(\w+): (.*)$", joined, flags=re.MULTILINE))
    return found


def in_words(annotation: Any, metadata: list[Any]) -> str:
    """A type in words: what may be written, and its range."""
    if get_origin(annotation) is Annotated:
        return in_words(annotation.__origin__, [*annotation.__metadata__, *metadata])
    arguments = get_args(annotation)
    if get_origin(annotation) in (Union, UnionType):
        choices = [in_words(each, []) for each in arguments if each is not NoneType]
        return " or ".join([*choices, *(["`null`"] if NoneType in arguments else [])])
    if get_origin(annotation) is tuple:
        count = "list of" if arguments[-1] is Ellipsis else f"list of {len(arguments)}:"
        return f"{count} {in_words(arguments[0], [])}"
    if get_origin(annotation) is dict:
        return "mapping"
    expected = _expected(annotation, metadata)
    return expected or f"{_noun(annotation, metadata)}{_range(metadata)}"


def _expected(annotation: Any, metadata: list[Any]) -> str:
    """The words in which the schema refuses what is none of its choices; empty if there are no choices."""
    if annotation is bool:
        return "`true` or `false`"
    probe = 0 if annotation is int else ""
    kind = Annotated[(annotation, *metadata)] if metadata else annotation
    try:
        TypeAdapter(kind).validate_python(probe)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "literal_error":
            return re.sub(r"'(\w+)'", r"`\1`", str(first.get("ctx", {}).get("expected", "")))
    return ""


def _noun(annotation: Any, metadata: list[Any]) -> str:
    if annotation is str:
        return "SHA-256" if Annotated[(str, *metadata)] == Sha256 else "text"
    return {int: "whole number", float: "number", Count: "count"}[annotation]


def _range(metadata: list[Any]) -> str:
    flat = [each for item in metadata for each in (item.metadata if isinstance(item, FieldInfo) else [item])]
    kinds = {annotated_types.Gt: "gt", annotated_types.Ge: "ge", annotated_types.Lt: "lt", annotated_types.Le: "le"}
    bounds = [(kinds[type(each)], each) for each in flat if type(each) in kinds]
    said = [f"{BOUNDS[name]}{_number(getattr(each, name))}" for name, each in bounds]
    return f" {', '.join(said)}" if said else ""


def _number(bound: Any) -> str:
    return "2^63" if bound == 2**63 else f"{bound:.4g}"


def _section(annotation: Any) -> type[BaseModel] | None:
    """The type of a nested mapping, also of one that may be absent; None of anything else."""
    kinds = [annotation, *get_args(annotation)] if get_origin(annotation) in (None, Union, UnionType) else []
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _cell(text: str) -> str:
    """Text as a table's cell, which a bar would end."""
    return text.replace("|", "\\|")


def _table(keys: list[Key], values: Mapping[str, Any]) -> list[str]:
    rows = [f"| `{key.path}` | {key.type} | {_value(key.path, values)} | {_cell(key.comment)} |" for key in keys]
    return ["| key | type | digits | meaning |", "|---|---|---|---|", *rows, ""] if rows else []


def _value(path: str, values: Mapping[str, Any]) -> str:
    """A value as params.yaml writes it; a mapping in one line, and nothing for an absent key."""
    inner = [f"{key.removeprefix(f'{path}.')}: {value}" for key, value in values.items() if key.startswith(f"{path}.")]
    if path not in values:
        return f"`{{{', '.join(inner)}}}`" if inner else ""
    value = values[path]
    if isinstance(value, float):
        return f"`{decimal(value)}`"
    return f"`{json.dumps(value) if value is None or isinstance(value, bool) else value}`"
