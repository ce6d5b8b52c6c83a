"""scm publish, rollback and champion against a real registry in SQLite; what packs the model is replaced."""

import json
import re
import shutil
import socket
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from scm import cli
from scm.errors import Interrupted, UserError
from scm.params import load
from scm.params.project import Project, TrackingSettings
from scm.product import packaging
from scm.publishing import publish as publishing
from scm.results import provenance
from scm.results.provenance import chain, params_hash
from scm.tracking import sending
from scm.tracking import store as store_module
from scm.tracking.registry import CHALLENGER, CHAMPION, Registry
from tests.support.fake_candidate import change_run, log_version, make_candidates, set_param, write_candidate

BETTER, WORSE, NOISE = (4.0, 4.2, 4.1), (6.0, 6.2, 6.1), (5.05, 5.15, 5.1)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project and an empty store, which take a second or two to make."""
    folder = make_candidates(tmp_path_factory.mktemp("template"))
    store_module.connect(TrackingSettings(True, None, None, folder))
    return folder


@pytest.fixture
def root(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [*store_module.DEFAULTS, "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_ROOT"]:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(packaging, "log_version", log_version)
    folder = tmp_path / "project"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    write_candidate(folder)
    return folder


def settings_of(root: Path) -> TrackingSettings:
    return Project.open(root).tracking


def publish(root: Path, **options: bool) -> Any:
    return publishing.publish(Project.open(root), **options)


def registry(root: Path) -> Registry:
    return Registry(store_module.connect(settings_of(root)), "digits")


def aliases(root: Path) -> dict[str, str | None]:
    found = registry(root)
    return {alias: found.holder(alias) for alias in (CHAMPION, CHALLENGER)}


def written(root: Path) -> dict[str, Any]:
    return json.loads((root / "results/verdict.json").read_text(encoding="utf-8"))


def rows(root: Path) -> list[Any]:
    """All that the store says, to the row."""
    store = sqlite3.connect(root / "mlflow.db")
    tables = [name for (name,) in store.execute("select name from sqlite_master where type = 'table' order by name")]
    found = [store.execute(f"select * from {table}").fetchall() for table in tables]
    store.close()
    return found


def test_the_first_is_champion_and_its_version_carries_where_it_comes_from(root: Path) -> None:
    write_candidate(root, distances=(5.0,), ruler="ruler 1")
    outcome = publish(root)
    assert (outcome.verdict.kind, outcome.version, outcome.published) == ("first", "1", True)
    assert aliases(root) == {CHAMPION: "1", CHALLENGER: None}
    tags = registry(root).version("1").tags
    assert tags["scm.data"] == "shards of ruler 1" and tags["scm.params_hash"] == "9b1c44d2e0f7"
    assert tags["scm.commit"] == "3f2a9c1e5b7d4a6f8091a2b3c4d5e6f708192a3b" and tags["scm.dirty"] == "false"
    assert tags["scm.licence"].startswith("code: Apache-2.0; weights: trained here") and tags["scm.previous"] == ""
    assert tags["scm.verdict"] == "first" and json.loads(tags["scm.figures"])["recall@2"] == 0.9
    assert json.loads(tags["eval.parts"])["evaluate.samples"] == "1797"
    client, address = store_module.connect(settings_of(root)), tags["scm.files"].removeprefix("runs:/")
    text = client.get_model_version("digits", "1").description
    assert text.startswith("fd@2 5: the first champion, scd of preset digits\n\n- there is no champion yet\n")
    assert "| recall@2 | 0.9 | – |" in text and "| commit | 3f2a9c1e5b7d | – |" in text
    run_id, _, folder = address.partition("/")
    assert client.get_run(run_id).data.tags["scm.key"] == tags["scm.run_key"]
    place = Path(client.get_run(run_id).info.artifact_uri.removeprefix("file://")) / folder
    for name in ("dvc.lock", "params.yaml"):
        assert (place / name).read_bytes() == (root / name).read_bytes()


def test_better_is_promoted_and_others_stay_beside_it(root: Path) -> None:
    publish(root)
    for distances, weights, kind, expected in (
        (NOISE, "two", "challenger", {CHAMPION: "1", CHALLENGER: "2"}),
        (WORSE, "three", "challenger", {CHAMPION: "1", CHALLENGER: "3"}),
        (BETTER, "four", "promoted", {CHAMPION: "4", CHALLENGER: "3"}),
        (BETTER, "four", "unchanged", {CHAMPION: "4", CHALLENGER: "3"}),
        ((3.0, 3.2, 3.1), "five", "promoted", {CHAMPION: "5", CHALLENGER: "3"}),
    ):
        write_candidate(root, distances, weights)
        assert publish(root).verdict.kind == kind
        assert aliases(root) == expected
        assert (written(root)["kind"], written(root)["published"]) == (kind, True)
    assert registry(root).version("4").tags["scm.previous"] == "1"
    assert registry(root).version("5").tags["scm.previous"] == "4"


@pytest.mark.parametrize(("distances", "kind"), [(BETTER, "unchanged"), (WORSE, "challenger")])
def test_publishing_again_writes_nothing(root: Path, distances: tuple[float, ...], kind: str) -> None:
    publish(root)
    write_candidate(root, distances, "two")
    publish(root)
    before = rows(root)
    assert publish(root).verdict.kind == kind
    assert rows(root) == before


def test_a_challenger_becomes_champion_under_another_rule_without_a_second_version(root: Path) -> None:
    publish(root)
    write_candidate(root, NOISE, "two")
    publish(root)
    set_param(root, "publish.allowed", 0.1)
    assert publish(root).verdict.kind == "promoted"
    assert aliases(root) == {CHAMPION: "2", CHALLENGER: None} and len(registry(root).versions()) == 2


CRASHES = [(sending, "send"), (packaging, "log_version"), (Registry, "tag"), (Registry, "describe"), (Registry, "give")]


@pytest.mark.parametrize(("owner", "crash"), CRASHES, ids=[name for _, name in CRASHES])
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_what_a_crash_left_half_done_is_finished(
    root: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, crash: str, late: bool
) -> None:
    publish(root)
    write_candidate(root, BETTER, "two")
    real = getattr(owner, crash)

    def broken(*arguments: Any) -> Any:
        if late:
            real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, crash, broken)
        with pytest.raises(KeyboardInterrupt):
            publish(root)
    assert (written(root)["kind"], written(root)["published"]) == ("promoted", False)
    moved = late and crash == "give"
    assert aliases(root)[CHAMPION] == ("2" if moved else "1")
    assert publish(root).verdict.kind == ("unchanged" if moved else "promoted")
    assert aliases(root) == {CHAMPION: "2", CHALLENGER: None}
    tags = registry(root).version("2").tags
    assert (tags["scm.previous"], tags["scm.verdict"], len(registry(root).versions())) == ("1", "promoted", 2)
    assert written(root)["published"] is True


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"distances": (float("nan"), 4.0)}, "fd@2 is nan, not a finite number"),
        ({"health": ("samples are not finite",)}, "train_student@scd: samples are not finite"),
        ({"ruler": "ruler 2"}, "real images) ruler 1 -> ruler 2"),
    ],
)
def test_what_cannot_be_judged_is_refused_and_the_registry_stays(
    root: Path, changes: dict[str, Any], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(root)
    before = rows(root)
    write_candidate(root, **{"distances": BETTER, "weights": "two", **changes})
    assert cli.main(["publish"]) == 1
    assert rows(root) == before
    assert reason in written(root)["reasons"][0] and (written(root)["kind"], written(root)["version"]) == (
        "refused",
        None,
    )
    output = capsys.readouterr().out
    assert output.startswith("Refused: digits\n  ") and reason in output


def test_the_teachers_health_counts_and_an_import_has_a_licence(root: Path) -> None:
    change_run(root, "train_teacher", health=["the gradient's norm rose to 9"])
    assert publish(root).verdict.reasons[0].endswith("train_teacher: the gradient's norm rose to 9")
    change_run(root, "train_teacher", health=[])
    chain = {"imported.file": "edm2.pkl", "imported.licence": "CC BY-NC-SA 4.0 (non-commercial)"}
    write_candidate(root, chain=chain)
    publish(root)
    expected = "weights: made from the imported teacher edm2.pkl, so under CC BY-NC-SA 4.0 (non-commercial)"
    assert expected in registry(root).version("1").tags["scm.licence"]
    assert expected in (root / "results/verdict.md").read_text(encoding="utf-8")


def test_one_range_is_refused_and_the_way_out_works(root: Path) -> None:
    write_candidate(root, (5.0,))
    publish(root)
    write_candidate(root, (4.0,), "two")
    assert "write evaluate.repeats: 3" in publish(root).verdict.reasons[0]
    set_param(root, "evaluate.repeats", 3)
    write_candidate(root, BETTER, "two")
    assert "evaluate.repeats 1 -> 3" in publish(root).verdict.reasons[0]
    write_candidate(root)
    (root / "models/scd/model.safetensors").unlink()  # its version has the champion's package
    assert publish(root).verdict.reasons[0].startswith("the champion's own weights, measured anew")
    client = store_module.connect(settings_of(root))
    first, second = (client.get_model_version("digits", number) for number in ("1", "2"))
    assert first.source == second.source
    for name in ("commit", "data", "params_hash", "dirty", "licence"):
        assert first.tags[f"scm.{name}"] == second.tags[f"scm.{name}"], "it comes from where it came from"
    assert first.tags["scm.run_key"] != second.tags["scm.run_key"]
    write_candidate(root, BETTER, "two")
    assert publish(root).verdict.kind == "promoted" and aliases(root)[CHAMPION] == "3"
    write_candidate(root, (4.0, 4.2, 4.2), "two", ruler="ruler 2")
    assert publish(root).verdict.kind == "promoted" and aliases(root)[CHAMPION] == "4"
    assert cli.main(["rollback"]) == 0
    assert aliases(root)[CHAMPION] == "2", "back to another model, not to another measurement of the same one"


def test_what_a_protocol_follows_from_is_renewed(root: Path) -> None:
    """Otherwise `scm retrain` would measure the champion anew each time, though nothing about it has changed."""
    publish(root)
    run = json.loads((root / "results/runs/evaluate@scd.json").read_text())
    change_run(root, "evaluate@scd", deps={**run["deps"], "data/reference": "other bytes"})
    assert publish(root).verdict.kind == "unchanged"
    assert "other bytes" in json.loads(registry(root).version("1").tags["eval.parts"]).values()


def test_an_interruption_is_no_fault_of_mlflow(root: Path) -> None:
    def interrupted() -> None:
        raise Interrupted("run the same command to go on")

    with pytest.raises(Interrupted):
        store_module.answered(settings_of(root), "scm publish", interrupted)


def test_rollback_goes_back_and_the_weights_do_not_return_by_themselves(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(root)
    for distances, weights in ((BETTER, "two"), ((3.0, 3.2, 3.1), "three")):
        write_candidate(root, distances, weights)
        publish(root)
    assert cli.main(["rollback"]) == 0
    expected = "digits: champion is version 2 again (fd@2 4.1 ± 0.1 (3 ranges)), it was version 3\n"
    assert capsys.readouterr().out == expected
    outcome = publish(root)
    assert outcome.verdict.kind == "challenger" and "version 3 with these weights was rolled back" in outcome.reasons[0]
    assert cli.main(["rollback"]) == 0 and aliases(root)[CHAMPION] == "1"
    assert cli.main(["rollback"]) == 1
    assert "digits version 1 was the first champion, none was before it" in capsys.readouterr().err
    assert cli.main(["rollback", "--to", "3"]) == 0 and aliases(root) == {CHAMPION: "3", CHALLENGER: None}
    assert publish(root).verdict.kind == "unchanged", "the mark is gone"
    capsys.readouterr()
    assert cli.main(["rollback", "--to", "3"]) == 0
    assert capsys.readouterr().out == "digits version 3 is the champion already: nothing to do\n"
    assert cli.main(["rollback", "--to", "8"]) == 1
    assert "digits has no version 8: choose from 1, 2, 3" in capsys.readouterr().err


def test_the_champion_is_printed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["champion"]) == 1 and cli.main(["rollback"]) == 1
    assert capsys.readouterr().err == (
        "scm: error: digits has no champion: run `scm publish`\n"
        "scm: error: digits has no champion that could be rolled back: run `scm publish`\n"
    )
    publish(root)
    assert cli.main(["champion"]) == 0
    commit = "3f2a9c1e5b7d4a6f8091a2b3c4d5e6f708192a3b"
    assert capsys.readouterr().out == f"digits version 1: scd, fd@2 5.1 ± 0.1 (3 ranges), commit {commit}\n"


def test_a_dry_run_says_the_same_and_writes_files_alone(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "mlflow.db").unlink()
    assert cli.main(["publish", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("First champion: digits (dry run: not published)\n")
    assert not (root / "mlflow.db").exists() and written(root)["kind"] == "first"
    publish(root)
    before = rows(root)
    write_candidate(root, BETTER, "two")
    assert publish(root, dry_run=True).verdict.kind == "promoted"
    assert rows(root) == before and written(root)["published"] is False


def test_the_page_has_both_sides_the_reasons_and_the_grids(root: Path) -> None:
    publish(root)
    write_candidate(root, BETTER, "two")
    publish(root)
    text = (root / "results/verdict.md").read_text(encoding="utf-8")
    assert text.startswith("# Promoted: digits, version 2\n\n- better by more than the noise: fd@2 is 4.1, the")
    assert "| version | 2 | 1 |\n" in text and "| recall@2 | 0.9 | 0.9 |\n" in text
    assert "| fd@2 (decides) | 4.1 ± 0.1 (3 ranges) | 5.1 ± 0.1 (3 ranges) |\n" in text
    assert text.endswith("\nGrids of the candidate: `results/samples/scd/nfe-1.png`, `results/samples/scd/nfe-2.png`\n")


def test_a_server_that_does_not_answer_costs_one_line(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    set_param(root, "mlflow.uri", f"http://me:secret@127.0.0.1:{port}")
    for command in ("publish", "rollback", "champion"):
        assert cli.main([command]) == 1
        why = f"mlflow: the tracking server does not answer (http://127.0.0.1:{port})"
        assert capsys.readouterr() == ("", f"scm: error: {why}: run `scm {command}` again later\n")
    assert (written(root)["kind"], written(root)["published"]) == (None, False)
    assert "# No verdict: digits (not published)\n\n- mlflow: the tracking" in (root / "results/verdict.md").read_text()


def test_of_two_at_once_one_waits(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(root)
    write_candidate(root, BETTER, "two")
    began = threading.Event()

    def slow(*arguments: Any) -> str:
        began.set()
        time.sleep(1)
        return log_version(*arguments)

    monkeypatch.setattr(packaging, "log_version", slow)
    kinds: list[str] = []
    first = threading.Thread(target=lambda: kinds.append(publish(root).verdict.kind))
    first.start()
    assert began.wait(60)
    second = publish(root).verdict.kind
    first.join()
    assert (kinds, second) == (["promoted"], "unchanged")
    assert len(registry(root).versions()) == 2
    assert capsys.readouterr().err == "another `scm publish` or `scm rollback` is at work: waiting for it\n"


def test_a_champion_that_another_machine_made_meanwhile_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(root)
    write_candidate(root, BETTER, "two")

    def log_and_be_overtaken(project: Project, model: str, tags: dict[str, str], alias: str) -> str:
        other = log_version(project, model, {})
        store_module.connect(project.tracking).set_registered_model_alias("digits", CHAMPION, other)
        return log_version(project, model, tags)

    monkeypatch.setattr(packaging, "log_version", log_and_be_overtaken)
    with pytest.raises(UserError, match=r"^the champion of digits became version 2 meanwhile \(it was 1\): run the"):
        publish(root)
    assert aliases(root)[CHAMPION] == "2" and written(root)["published"] is False


def test_a_champion_made_by_hand_is_named(root: Path) -> None:
    log_version(Project.open(root), "scd", {})
    registry(root).give(CHAMPION, "1")
    with pytest.raises(UserError, match=r"^version 1 of digits lacks the tags that `scm publish` writes"):
        publish(root)


def test_the_same_weights_sampled_in_another_way_are_another_candidate(root: Path) -> None:
    publish(root)
    write_candidate(root, distances=WORSE, t_mid=1.1)
    assert publish(root).verdict.kind == "challenger"
    (root / "models/scd/sampling.json").write_text("{}")
    assert publish(root).verdict.kind == "challenger", "the version is there"
    write_candidate(root, distances=BETTER, t_mid=0.6)
    (root / "models/scd/sampling.json").write_text("{}")
    with pytest.raises(UserError, match=r"not the file that was measured: run `dvc checkout models/scd/m\S+ models/"):
        publish(root)


def test_results_must_be_of_what_would_be_published(root: Path) -> None:
    run_file = root / "results/runs/evaluate@scd.json"
    publish(root, dry_run=True)
    set_param(root, "evaluate.samples", 100)
    with pytest.raises(
        UserError, match=f"^{re.escape(str(run_file))} was made with other parameters, code or files than"
    ):
        publish(root)
    assert not list((root / "results").glob("verdict.*")), "an earlier verdict is not this one's"
    set_param(root, "evaluate.samples", 1797)
    (root / "models/scd/model.safetensors").write_text("newer")
    with pytest.raises(UserError, match=r"model.safetensors is not the file that was measured: run `dvc checkout "):
        publish(root)
    (root / "models/scd/model.safetensors").unlink()
    assert publish(root, dry_run=True).verdict.kind == "first", "a decision needs no weights"
    with pytest.raises(UserError, match=r"model.safetensors is missing: run `dvc checkout models/scd/model\.s"):
        publish(root)
    assert registry(root).versions() == []
    change_run(root, "evaluate@scd", protocol=None)
    with pytest.raises(UserError, match="lacks the protocol of its figures"):
        publish(root)
    (root / "dvc.lock").unlink()
    change_run(root, "evaluate@scd", protocol="p")
    with pytest.raises(UserError, match=r"dvc.lock is missing: run `scm run`"):
        publish(root)


def test_settings_that_name_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_param(root, "publish.model", "vsd")
    with pytest.raises(UserError, match=r"^publish.model = vsd: no such model; use one of teacher, scd, sct$"):
        publish(root)
    set_param(root, "publish.model", "scd")
    set_param(root, "publish.evaluations", 4)
    with pytest.raises(UserError, match=r"^publish.evaluations = 4: .*evaluate-scd.json has fd@1, fd@2; use one, or"):
        publish(root)
    with pytest.raises(UserError, match=r"publish.name = \"a/b\": must be a name of at most 250 characters, without"):
        set_param(root, "publish.name", "a/b")
    set_param(root, "publish.name", "other")
    set_param(root, "publish.evaluations", 1)
    assert publish(root).title == "First champion: other, version 1"
    set_param(root, "mlflow.enabled", False)
    for command in ("publish", "rollback", "champion"):
        assert cli.main([command]) == 1
        assert "mlflow.enabled = false: there is no registry of models" in capsys.readouterr().err


def test_no_result_follows_from_how_it_is_published(root: Path) -> None:
    before = load(root / "params.yaml")
    after = set_param(root, "publish.deviations", 3.5)
    assert params_hash(before) == params_hash(after) != params_hash(set_param(root, "evaluate.samples", 7))
    assert not any(key.startswith(("publish", "runtime", "mlflow")) for key in chain(Project(root, after), "scd"))


def test_the_weights_of_another_projects_teacher() -> None:
    note = provenance.licence_of({"imported.file": "t.safetensors"})
    assert note.endswith("made from the imported teacher t.safetensors, so under whatever terms its owner states")
