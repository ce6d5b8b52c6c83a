"""Named files, overlays and told changes, which presets, studies and the plan share."""

import pytest

from scm.errors import UserError
from scm.presets.changes import changes
from scm.presets.overlays import laid_over, named_file


def test_an_overlay_changes_neither_side_and_replaces_methods_as_a_whole():
    base = {"student": {"methods": {"scd": "teacher", "sct": "teacher"}, "scd": {"betas": [0.9, 0.99]}}, "seed": 0}
    over = {"student": {"methods": {"sct": "teacher"}, "scd": {"dropout": 0.1}}}
    merged = laid_over(base, over)
    assert merged == {
        "student": {"methods": {"sct": "teacher"}, "scd": {"betas": [0.9, 0.99], "dropout": 0.1}}, "seed": 0,
    }  # fmt: skip
    merged["student"]["scd"]["betas"].append(1.0)
    merged["student"]["methods"]["vsd"] = "teacher"
    assert base["student"]["scd"] == {"betas": [0.9, 0.99]} and over["student"]["methods"] == {"sct": "teacher"}


def test_changes_tell_values_that_come_go_or_differ():
    before = {"a": 1, "b": {"c": None, "d": [1, True]}, "e": {}, "f": "x"}
    assert changes(before, before) == []
    assert changes(before, {"a": True, "b": {"c": 0.5, "d": [1, False]}, "f": {"g": 2}}) == [
        "a: 1 -> true", "b.c: null -> 0.5", "b.d: [1, true] -> [1, false]", "e: {} -> (absent)", "f: x -> (absent)",
        "f.g: (absent) -> 2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("on", "did you mean one?"),
        ("three", "choose from one, two"),
        ("part/on", "did you mean part/one?"),
        ("../one", "did you mean one?"),
        ("part/../one", "did you mean part/one?"),
    ],
)
def test_a_name_that_is_no_file_is_refused_with_a_remedy(tmp_path, name, remedy):
    (tmp_path / "part").mkdir()
    for known in ("one", "two", "part/one"):
        (tmp_path / f"{known}.yaml").touch()
    assert named_file(tmp_path, "part/one", "study") == tmp_path / "part/one.yaml"
    with pytest.raises(UserError) as caught:
        named_file(tmp_path, name, "study")
    assert str(caught.value) == f"no study {name} in {tmp_path}: {remedy}"
