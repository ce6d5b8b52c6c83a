"""What benchmarks/guard.py makes of its measurements, and its copies of two trees."""

import subprocess

import pytest

from benchmarks import guard
from benchmarks.guard import ROOT, Tree, rounds, table
from scm.errors import UserError


def test_a_row_is_the_median_of_paired_ratios():
    """The ratios are 2, 1 and 3; the ratio of the medians would be 3 / 2."""
    lines, largest = table({"step": [(1.0, 2.0), (3.0, 3.0), (2.0, 6.0)]})
    assert lines[2] == "| step | 2.00 s | 3.00 s | 2.00 | 1.00–3.00 |" and largest == 2.0


def test_what_the_base_cannot_do_has_no_ratio():
    lines, largest = table({"old": [(2e-3, 1e-3)], "new": [(None, 5e-6)]})
    assert lines[2:] == ["| old | 2.00 ms | 1.00 ms | 0.50 | 0.50–0.50 |", "| new | – | 5 µs | – | |"]
    assert largest == 0.5


def test_the_trees_take_turns_and_only_the_base_may_fail(tmp_path):
    base, ours, asked = Tree(tmp_path / "base"), Tree(tmp_path / "ours"), []

    def probe(tree):
        asked.append(tree)
        return {"row": 1.0 if tree is base else 2.0}

    def newer(tree):
        if tree is base:
            raise UserError("no such thing")
        return {"newer": 3.0}

    found = rounds(base, ours, {"probe": probe, "newer": newer}, 3)
    assert asked == [base, ours, ours, base, base, ours]
    assert found == {"row": [(1.0, 2.0)] * 3, "newer": [(None, 3.0)] * 3}
    assert base.failed == {"newer": "no such thing"}
    with pytest.raises(UserError, match="no such thing"):
        rounds(ours, Tree(tmp_path), {"broken": lambda _: newer(base)}, 1)


def test_a_tree_of_a_commit_is_measured_in_its_own_code(tmp_path):
    commit = guard.git("rev-parse", "HEAD").strip()
    tree = guard.project(tmp_path / "base", commit)
    there = tree.python("-c", "import scm; print(scm.__file__)").strip()
    assert there == str(tree.folder / "scm" / "__init__.py")
    shown = subprocess.run(["git", "show", f"{commit}:scm/cli.py"], cwd=ROOT, capture_output=True, check=True).stdout
    assert (tree.folder / "scm" / "cli.py").read_bytes() == shown
    assert tree.starts()["scm params check"] > 0.05 and tree.loader()["reading an image"] > 0
    with pytest.raises(UserError, match="ZeroDivisionError"):
        tree.python("-c", "1 / 0")


def test_a_base_that_is_no_commit_is_refused():
    with pytest.raises(UserError, match="Needed a single revision"):
        guard.git("rev-parse", "--verify", "no-such-commit^{commit}")
