"""`scm compare` on temporary repositories with made-up results."""

import json
import math
import re
import statistics
from dataclasses import replace

import pytest

from scm import cli
from scm.base.noise import welch
from scm.comparison import cache, sides
from scm.comparison.comparison import Comparison, compared
from scm.comparison.judging import another_ruler
from scm.comparison.page import lines, markdown, page
from scm.errors import UserError
from scm.params.project import Project
from scm.publishing.entry import Entry, tags_of
from scm.tracking.registry import Version
from tests.support.compared import commit, git, make_repository, write_results

OLD = {"fd@1": 9.0, "fd_se@1": 0.3, "fd@2": 5.0, "fd_se@2": 0.3, "precision@2": 0.9, "recall@2": 0.8}
UNSEEN = {"fd_held_out@2": 8.0, "fd_held_out_se@2": 0.4, "copies@2": 0.05}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository without results; DVC's cache has everything, and brings nothing."""
    monkeypatch.setattr(cache, "_connect", lambda *_: None)
    monkeypatch.setattr(cache.dvc_command, "remote", lambda _: None)
    monkeypatch.setattr(cache.dvc_command, "bring", lambda *_: [])
    for name in ("MLFLOW_TRACKING_URI", "GIT_DIR", "GIT_INDEX_FILE", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    folder = make_repository(tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


def found(root, *revisions: str) -> Comparison:
    with compared(Project.open(root), list(revisions)) as result:
        return result


def both(root, now, old=OLD, **changes) -> Comparison:
    """The working tree with figures `now` of sCD against HEAD with `old`."""
    write_results(root, {"scd": old})
    commit(root, "last week")
    write_results(root, {"scd": {**old, **now}}, **{"weights": "two", **changes})
    return found(root, "HEAD")


def verdict(root, now, old=OLD, **changes) -> tuple[str, str]:
    (model,) = both(root, now, old, **changes).models
    return model.kind, model.sentence


def test_a_distance_that_falls_by_more_than_the_noise_is_better(root):
    by = "fell from 5.00 ± 0.3 to 4.00 ± 0.3, 2.4 standard errors of the difference"
    assert verdict(root, {"fd@2": 4.0}) == ("better", f"sCD is better: its FD in 2 evaluations {by}.")


def test_a_distance_that_rises_is_worse_and_fewer_evaluations_are_told_apart(root):
    kind, sentence = verdict(root, {"fd@2": 6.0, "fd@1": 7.0})
    assert kind == "worse" and "rose from 5.00 ± 0.3 to 6.00 ± 0.3, 2.4 standard errors" in sentence
    assert sentence.endswith(" In 1 evaluation its FD fell from 9.00 ± 0.3 to 7.00 ± 0.3.")


def test_a_difference_within_the_noise_is_not_told(root):
    kind, sentence = verdict(root, {"fd@2": 4.3})
    assert kind == "unclear" and sentence.startswith("sCD: no difference that can be told: its FD in 2 evaluations")


def test_ranges_of_seeds_are_compared_by_welch(root):
    then, now = (5.0, 5.2, 5.1), (4.6, 4.9, 4.7)
    sides_of = [
        {"fd@2": min(each), **{f"fd_{place}@2": value for place, value in enumerate(each)}} for each in (then, now)
    ]
    result = both(root, sides_of[1], sides_of[0])
    change = result.models[0].changes[2][0]
    difference, error = welch(now, then)
    assert change.difference == pytest.approx(difference) and change.errors == pytest.approx(difference / error)
    assert change.then.value == pytest.approx(statistics.fmean(then)) and result.models[0].kind == "better"


def test_without_noise_nothing_is_told(root):
    old = {"fd@2": 5.0}
    kind, sentence = verdict(root, {"fd@2": 1.0}, old)
    assert kind == "unclear" and "the noise is not known, since one side has neither fd_se nor several" in sentence


def test_a_distance_that_is_no_number_is_broken(root):
    assert verdict(root, {"fd@2": math.nan}) == (
        "worse",
        "sCD is broken: its FD in 2 evaluations went from 5.00 ± 0.3 to nan ± 0.3.",
    )


def test_the_same_weights_have_not_changed(root):
    assert verdict(root, {}, weights="one")[0] == "unchanged"


@pytest.mark.parametrize(
    ("now", "kind", "told"),
    [
        ({"fd_held_out@2": 6.0}, "better", ""),
        ({"fd_held_out@2": 7.9}, "unclear", "but that of held-out images went from 8.00 ± 0.4 to 7.90 ± 0.4, 0.2 stan"),
        ({"fd_held_out@2": 6.0, "copies@2": 0.2}, "unclear", "but copies rose from 0.0500 ± 0.0069 to 0.200 ± 0.013"),
    ],
)
def test_an_improvement_has_to_show_on_held_out_images(root, now, kind, told):
    judged = verdict(root, {"fd@2": 3.0, **now}, OLD | UNSEEN)
    assert judged[0] == kind and told in judged[1]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"measuring": {"evaluate.samples": 5000}}, "evaluate.samples 1000 -> 5000"),
        ({"measuring": {"sampler": {"rho": 5.0}}}, "sampler.rho 7.0 -> 5.0"),
        ({"ruler": "ruler 2", "reference": {"seed": 1}}, "reference.seed 0 -> 1"),
        ({"ruler": "ruler 2", "images": "images 2"}, "images (data/shards) "),
        ({"ruler": "ruler 2"}, "data/reference (extractor and statistics of the real images) "),
    ],
)
def test_another_ruler_is_named_and_nothing_is_compared(root, changes, named):
    result = both(root, {"fd@2": 1.0}, **changes)
    (model,) = result.models
    assert model.kind == "incomparable" and f"sCD cannot be compared: the ruler changed ({named}" in model.sentence
    assert [cells[3] for cells in model.rows(2)] == ["–", "–", "–"]


def test_another_preset_is_named_where_the_ruler_differs(root):
    result = both(root, {}, ruler="ruler 2")
    other = replace(result.then, preset="flowers")
    assert another_ruler(other, result.now, "scd")[0] == ("preset", "flowers", "digits")


def test_what_else_differs_is_listed(root):
    result = both(root, {"fd@2": 4.0}, training={"student.scd.images": "256Ki"}, code="code 2", images="images 2")
    assert result.params == [("student.scd.images", "128Ki", "256Ki")]
    assert result.notes == ["The images differ (data/shards).", "The code differs: scm/methods/scd.py."]


def test_models_of_one_side_alone_and_edited_figures_are_said(root):
    write_results(root, {"teacher": {"fd@35": 3.0}, "scd": OLD})
    commit(root, "both")
    write_results(root, {"scd": OLD, "sct": OLD})
    (root / "results/metrics/evaluate-scd.json").write_text(json.dumps({**OLD, "fd@2": 1.0}))
    result = found(root)
    notes = result.notes
    assert result.params == [] and notes[:2] == ["Only in HEAD: Teacher.", "Only in working tree: sCT."]
    assert notes[2].startswith("working tree: results/metrics/evaluate-scd.json is not the file that dvc.lock names")


def test_the_base_is_head_or_the_last_other_results(root):
    write_results(root, {"scd": OLD})
    first = commit(root, "first")
    write_results(root, {"scd": {**OLD, "fd@2": 4.0}}, weights="two")
    assert sides.base_of(root) == "HEAD"
    commit(root, "second")
    (root / "NOTES").write_text("no results")
    commit(root, "third")
    assert sides.base_of(root) == first[:7]
    result = found(root)
    assert result.title == f"working tree against {first[:7]} of 2026-11-22: first"
    assert result.models[0].changes[2][0].then.value == 5.0


def test_two_revisions_and_an_experiment(root):
    write_results(root, {"scd": OLD})
    first = commit(root, "first")
    git(root, "tag", "v1")
    write_results(root, {"scd": {**OLD, "fd@2": 3.0}}, weights="two")
    second = commit(root, "as an experiment")
    git(root, "update-ref", f"refs/exps/{first[:2]}/{first[2:]}/warm-lynx", second)
    git(root, "reset", "-q", "--hard", first)
    result = found(root, "v1", "warm-lynx")
    assert result.title == f"experiment warm-lynx, {second[:7]} of 2026-11-22 against {first[:7]} of 2026-11-22: first"
    assert result.models[0].kind == "better"
    with pytest.raises(UserError, match=r"^warm-linx: no such commit, .* did you mean warm-lynx\? `git log`"):
        found(root, "warm-linx")


def test_a_registered_version(root, monkeypatch):
    write_results(root, {"scd": OLD})
    kept = {name: (root / name).read_text() for name in ("dvc.lock", "params.yaml")}
    commit(root, "first")
    write_results(root, {"scd": {**OLD, "fd@2": 6.0}, "sct": OLD}, weights="two")
    entry = Entry("k", "scd", 2, {2: (5.0,)}, OLD, "w", "p", origin={"commit": "0123456789abcdef"}, files="runs:/1/a")

    class Registry:
        def __init__(self, client, name):
            assert name == "digits"

        def holder(self, alias):
            return "3" if alias == "champion" else None

        def version(self, number):
            return Version(number, tags_of(entry))

    for name, value in {"Registry": Registry, "connect": id, "is_new": lambda _: False}.items():
        monkeypatch.setattr(sides, name, value)
    monkeypatch.setattr(sides, "kept_file", lambda project, entry, name: kept[name])
    # The figures are in the version's tags, not in DVC's cache.
    monkeypatch.setattr(cache.dvc_command, "bring", lambda _, wanted, source: [x for x in wanted if "metrics" in x])
    for name in ("@champion", "models:/digits@champion", "models:/digits/3"):
        result = found(root, name)
        assert result.title == "working tree against digits version 3 of commit 0123456789"
        assert result.models[0].kind == "worse" and result.notes == ["Only in working tree: sCT."]
    with pytest.raises(UserError, match=r"^@best: no version of digits has the alias best: run `scm publish`"):
        found(root, "@best")


def test_what_cannot_be_compared_ends_in_one_line(root, capsys):
    def refused(*arguments: str) -> str:
        assert cli.main(["compare", *arguments]) == 1
        return capsys.readouterr().err.removeprefix("scm: error: ")

    assert " has no commit yet: run `git add . && git commit`" in refused()
    commit(root, "no results")
    assert refused().startswith("no earlier commit has results (results/metrics/evaluate-MODEL.json) to compare with: ")
    assert refused("HEAD").startswith("HEAD (") and "has no results, since dvc.lock is not in it" in refused("HEAD")
    assert refused("@champion").startswith("@champion: digits has no version yet: run `scm publish`")
    write_results(root, {"scd": OLD})
    commit(root, "results")
    assert refused("HEAD~9").startswith("HEAD~9: no such commit, branch, tag, experiment or version (@ALIAS): `git")
    assert refused("--", "--all").startswith("--all: no such commit")
    assert refused("a", "b", "c").startswith("3 revisions: name one, or two")
    assert refused("-o", "page.png").startswith("-o page.png: the page is HTML")
    write_results(root, {"sct": OLD})
    told = "the two sides have no model in common (HEAD has scd and working tree has sct): name another revision\n"
    assert refused("HEAD") == told
    (root / "dvc.lock").unlink()
    assert "dvc.lock is missing, so there are no results here: run `scm run`" in refused("HEAD")


def test_the_page_holds_both_pictures_and_refers_to_nothing(tmp_path):
    """The grids of the commit come from DVC's cache, by DVC itself."""
    root = make_repository(tmp_path / "project")
    write_results(root, {"scd": OLD})
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n    no_scm = true\n")
    commit(root, "<b>last</b> week")
    write_results(root, {"scd": {**OLD, "fd@2": 3.0}}, weights="two")
    with compared(Project.open(root), []) as result:
        text, pair = page(result), result.pairs(result.models[0])[0]
        assert pair.then and pair.now and pair.then.read_bytes() != pair.now.read_bytes()
    assert text.count("data:image/png;base64,") == 4 and not result.notes
    assert "&lt;b&gt;last" in text and not re.search(r"<script|(?:src|href)=\"(?!data:)|url\(|@import|<b>last", text)


def test_the_command_writes_the_page_and_prints_either_form(root, capsys, monkeypatch):
    monkeypatch.setattr(cache.dvc_command, "bring", lambda folder, wanted, source: wanted)
    result = both(root, {"fd@2": 4.0}, training={"student.scd.images": "256Ki"})
    assert cli.main(["compare", "--markdown", "-o", "c.html"]) == 0
    out, err = capsys.readouterr()
    assert err == "c.html shows both sides' samples\n" and (root / "c.html").read_text().count("no picture") == 2
    assert (
        "\n- sCD is better: its FD in 2 evaluations fell" in out and "| `student.scd.images` | 128Ki | 256Ki |" in out
    )
    assert "| sCD | 2 | FD | 5.00 ± 0.3 | 4.00 ± 0.3 | −1.00 (2.4 se) |" in out
    missing = (
        "DVC's cache lacks results/samples/scd of HEAD, so they are not shown: there is no DVC remote; the machine"
    )
    assert missing in out
    assert markdown(result, 2).startswith("## Comparison: working tree against ")
    assert cli.main(["compare"]) == 0
    out = capsys.readouterr().out
    assert "student.scd.images: 128Ki -> 256Ki\n" in out and "How much a second training with another seed" in out
    assert lines(result)[2].startswith("sCD is better") and (root / "results/compare.html").is_file()
