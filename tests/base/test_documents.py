"""What is read back has bounds and a form; each fault is one line with file, key, value and remedy."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest

from scm.base import yaml_files
from scm.base.documents import read_json
from scm.base.forms import FileName, Rule, at_least, fault_of
from scm.base.yaml_files import parse_for_editing, parse_mapping
from scm.errors import UserError
from tests.support import broken_documents


class Inner(TypedDict):
    count: Annotated[int, at_least(0)]


class Whole(TypedDict):
    name: str
    kind: Literal["a", 1]
    size: float
    inner: NotRequired[list[Inner]]
    limits: NotRequired[tuple[float, float] | None]
    more: NotRequired[dict[str, str | bool]]


@dataclass(frozen=True)
class Settings:
    width: int
    depth: int = 1


GOOD = {"name": "x", "kind": 1, "size": 2}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"further": object()}, None),
        ({"size": "2"}, ': size = "2": must be a number'),
        ({"size": True}, ": size = true: must be a number"),
        ({"name": None}, ": name = null: must be text"),
        ({"kind": True}, ': kind = true: must be "a" or 1'),
        ({"inner": [{"count": 1}, {"count": 1.5}]}, ": inner.1.count = 1.5: must be a whole number"),
        ({"inner": [{"count": -1}]}, ": inner.0.count = -1: must be at least 0"),
        ({"inner": [{}]}, ": inner.0 lacks count"),
        ({"inner": {}}, ": inner = {}: must be a list"),
        ({"limits": None}, None),
        ({"limits": [1, 2.5]}, None),
        ({"limits": [1]}, ": limits = [1]: must have 2 entries"),
        ({"limits": [1, "2"]}, ': limits.1 = "2": must be a number'),
        ({"more": {"a": True, "b": "c"}}, None),
        ({"more": {"a": 1}}, ": more.a = 1: must be text or true or false"),
    ],
)
def test_a_form_names_the_place_of_the_first_fault(changes: dict[str, Any], fault: str | None) -> None:
    found = fault_of({**GOOD, **changes}, Whole)
    assert (found and found.text) == fault


def test_forms_of_other_kinds() -> None:
    assert fault_of({"width": 1}, Settings) is None
    assert str(fault_of({"depth": 1}, Settings)).endswith("' lacks width')")
    assert "is unknown" in str(fault_of({"width": 1, "x": 1}, Settings))
    assert "must be a mapping" in str(fault_of([], Whole)) and "lacks name, kind, size" in str(fault_of({}, Whole))
    assert fault_of({"a": 1}, Annotated[dict[str, int], Rule(bool, "is empty")]) is None
    assert "is empty" in str(fault_of({}, Annotated[dict[str, int], Rule(bool, "is empty")]))
    assert all(fault_of(name, FileName) for name in ("", ".", "..", "a/b", "../a", "a\\b"))
    assert fault_of("a.tar", FileName) is None


@pytest.mark.parametrize(
    ("name", "content"), [*broken_documents.of_json('{"format": 1, "name": "x"}')], ids=lambda value: ""
)
def test_damaged_json_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes | str) -> None:
    class Form(TypedDict):
        format: Literal[1]
        name: Literal["x"]

    path = tmp_path / "a.json"
    path.write_text('{"format": 1, "name": "x"}')
    assert read_json(path, Form) == {"format": 1, "name": "x"}
    with broken_documents.put(path, content), pytest.raises(UserError, match=r"a\.json.*: .+"):
        read_json(path, Form)


@pytest.mark.parametrize(("name", "content"), [*broken_documents.of_yaml("a: 1\n")], ids=lambda value: "")
def test_damaged_yaml_is_refused_in_one_line(name: str, content: bytes | str) -> None:
    try:
        text = content.decode() if isinstance(content, bytes) else None
    except UnicodeDecodeError:
        text = None
    if text is None or "\ufeff" in text or "=====" in text:
        return  # refused before YAML is parsed
    for parse in (parse_mapping, parse_for_editing):
        if parse is parse_for_editing and name == "an unknown tag":
            continue  # a tree keeps tags as they are
        with pytest.raises(UserError, match=r"^a\.yaml.*: .+"):
            parse(text, "a.yaml")


def test_aliases_and_merged_keys_still_work() -> None:
    assert parse_mapping("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]\n", "a.yaml") == {
        "a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": [{"x": 1}, {"x": 1}],
    }  # fmt: skip


def test_a_conflict_names_the_line_and_both_ways_out(tmp_path: Path) -> None:
    path = tmp_path / "dvc.lock"
    path.write_text("a: 1\n<<<<<<< HEAD\nb: 1\n=======\nb: 2\n>>>>>>> other\n")
    with pytest.raises(UserError, match=r"dvc\.lock:2 has the marks of a merge conflict: `git checkout --ours "):
        read_json(path, dict[str, Any])


def test_a_key_that_is_there_twice_among_many_is_found_at_once(tmp_path):
    keys = [*range(30_000), 29_999]
    (tmp_path / "a.json").write_text("{" + ", ".join(f'"{key}": 1' for key in keys) + "}")
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"the key '29999' is there twice"):
        read_json(tmp_path / "a.json", dict)
    assert time.perf_counter() - start < 2  # each key compared with each other: 16 s


READ = [*Path("pipelines").rglob("*.yaml"), *Path(".github").rglob("*.yml"), Path("params.yaml"), Path("dvc.yaml")]
SCALARS = """\
numbers: [1, 0o17, 017, 1_000, 0x1F, 1e3, 1.5e-3, .5, -.inf, .nan, 12:30, 1Ki]
words: [yes, No, on, OFF, true, False, null, ~, "", '']
texts: {plain: a b, quoted: "\\u00e9\\n", single: 'it''s', url: http://a/b#c}
folded: >
  one
  two
kept: |
  one
    two
dates: [2026-11-29, 2026-11-29T10:00:00Z]
? key
: {2: two, null: none, true: yes}
"""


def read_by(parser: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(yaml_files, "CParser", parser)
    try:
        return repr(parse_mapping(text, "a.yaml"))
    except UserError as error:
        return f"refused: {error}"


def test_values_and_faults_are_the_same_with_and_without_the_parser_in_c(monkeypatch: pytest.MonkeyPatch) -> None:
    in_c = yaml_files.CParser
    assert in_c is not None, "the extra pipeline brings ruamel.yaml.clib"
    texts = [SCALARS, *(path.read_text(encoding="utf-8") for path in READ)]
    broken = (content for _, content in broken_documents.of_yaml(SCALARS) if isinstance(content, bytes))
    texts += [content.decode(errors="replace") for content in broken]
    assert len(texts) > 50
    for text in texts:
        fast, slow = (read_by(parser, text, monkeypatch) for parser in (in_c, None))
        assert fast == slow, text[:200]
    assert "refused" not in read_by(in_c, SCALARS, monkeypatch)
