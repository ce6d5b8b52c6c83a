"""The CI services' files: what they may do, what they run, and that these commands exist."""

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from scm.commands import retrain
from scm.comparison.page import FILE
from scm.publishing import verdict
from scm.results.reading import sample_path
from scm.retraining.proposal import CONTENT

ROOT = Path(__file__).parents[1]
WORKFLOWS = {path.stem: YAML(typ="safe").load(path.read_text()) for path in (ROOT / ".github/workflows").glob("*.yml")}
TEXT = {path.stem: path.read_text() for path in (ROOT / ".github/workflows").glob("*.yml")}
RETRAIN = WORKFLOWS["retrain"]["jobs"]
GITLAB: dict[str, Any] = YAML(typ="safe").load((ROOT / ".gitlab-ci.yml").read_text())
PERMISSIONS = {
    "plan": {"contents": "read"},
    "train": {"contents": "read"},
    "publish": {"contents": "write", "pull-requests": "write"},
    "again": {"actions": "write"},
}


def commands(job: dict[str, Any]) -> list[str]:
    """The commands that a job of either service runs, one line each."""
    return [line for step in job.get("steps", ()) if (line := step.get("run"))] + list(job.get("script", ()))


def parsed(command: str) -> dict[str, Any]:
    """The options of an scm command with empty shell variables; what follows || is the shell's."""
    words = shlex.split(re.sub(r"\$\{\w+:\+(\S+)\}", r"\1", re.sub(r"\$\w+", "", command.partition("||")[0])))
    assert words[0] == ".venv/bin/scm"
    parser = argparse.ArgumentParser()
    retrain.add(parser.add_subparsers())
    return vars(parser.parse_args(words[1:]))


@pytest.mark.parametrize("name", ["test", "retrain"])
def test_actions_are_pinned_and_nothing_is_allowed_by_default(name):
    uses = re.findall(r"uses: (.*)", TEXT[name])
    assert uses and all(re.fullmatch(r"actions/[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use) for use in uses)
    assert WORKFLOWS[name]["permissions"] == {}
    for job in WORKFLOWS[name]["jobs"].values():
        assert job["timeout-minutes"] <= 360
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), "expressions go through env"
            if "actions/checkout@" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


def test_each_job_may_do_what_it_has_to():
    assert {name: job["permissions"] for name, job in RETRAIN.items()} == PERMISSIONS
    assert WORKFLOWS["test"]["jobs"]["test"]["permissions"] == {"contents": "read"}


def test_it_starts_on_a_schedule_off_the_full_hour_on_new_data_and_by_hand():
    events = WORKFLOWS["retrain"]["on"]
    minute = events["schedule"][0]["cron"].split()[0]
    assert 0 < int(minute) < 60
    assert events["push"] == {"branches": ["main"], "paths": ["data/**"]}
    assert set(events["workflow_dispatch"]["inputs"]) == {"preset", "params", "force", "attempt"}
    assert WORKFLOWS["retrain"]["concurrency"] == {"group": "retrain", "cancel-in-progress": False}
    assert {GITLAB[name]["extends"] for name in ("plan", "train", "publish")} == {".retrain"}
    assert GITLAB[".retrain"]["resource_group"] == "retrain"


@pytest.mark.parametrize("jobs", [RETRAIN, GITLAB], ids=["github", "gitlab"])
def test_each_job_is_one_command_that_scm_knows(jobs):
    options = {}
    for name in ("plan", "train", "publish"):
        own = [line for line in commands(jobs[name]) if "make .venv/.run" not in line]
        assert len(own) == 1
        options[name] = parsed(own[0])
        assert options[name]["action"] == name
    assert options["train"]["minutes"] < 355
    assert options["publish"]["propose"] in ("github", "gitlab")
    if jobs is RETRAIN:
        assert options["plan"]["force"] and options["train"]["force"]


def test_what_publishing_needs_is_handed_over():
    uploaded = next(step for step in RETRAIN["train"]["steps"] if "upload-artifact" in step.get("uses", ""))
    assert set(uploaded["with"]["path"].split()) == set(CONTENT)
    assert set(GITLAB["train"]["artifacts"]["paths"]) == set(CONTENT)


def test_the_grids_and_the_verdict_that_a_proposal_links_to_are_uploaded():
    offered = {"results/samples/*/nfe-*.png", FILE, "results/verdict.json", "results/verdict.md"}
    steps = RETRAIN["publish"]["steps"]
    uploaded = next(step for step in steps if "upload-artifact" in step.get("uses", ""))
    assert uploaded["if"] == "always()" and set(uploaded["with"]["path"].split()) == offered
    assert steps.index(uploaded) > next(i for i, step in enumerate(steps) if "scm retrain" in step.get("run", ""))
    artifacts = GITLAB["publish"]["artifacts"]
    assert set(artifacts["paths"]) == offered and artifacts["when"] == "always"
    for path in (sample_path(Path(), "scd", 2), *verdict.files(Path())):
        assert any(path.match(pattern) for pattern in offered)
    assert not any(Path("results/samples/prepare/contact.png").match(pattern) for pattern in offered)


def test_an_interrupted_training_goes_on():
    train = next(step for step in RETRAIN["train"]["steps"] if step.get("id") == "train")
    assert train["run"].endswith("|| [ $? -eq 75 ]")
    assert RETRAIN["train"]["outputs"] == {"state": "${{ steps.train.outputs.state }}"}
    assert RETRAIN["publish"]["if"] == "needs.train.outputs.state == 'done'"
    condition = "needs.train.outputs.state == 'interrupted' && !inputs.force && inputs.attempt != '9'"
    assert RETRAIN["again"]["if"] == condition, "and not for ever"
    assert '-f attempt="$((ATTEMPT + 1))"' in commands(RETRAIN["again"])[0]
    for job in ("train", "publish"):
        kept = [step["with"] for step in RETRAIN[job]["steps"] if "actions/cache/" in step.get("uses", "")]
        assert [each["path"].split() for each in kept] == 2 * [[".work", ".dvc/cache", "mlflow.db", "mlartifacts"]]
        assert kept[0]["key"] == kept[1]["key"] and kept[0]["key"].startswith(kept[0]["restore-keys"])
    assert GITLAB["train"]["retry"]["exit_codes"] == [75]


def test_both_services_run_what_every_change_has_to_pass():
    assert commands(WORKFLOWS["test"]["jobs"]["test"]) == [".ci/run"] == commands(GITLAB["test"])
    group = "test-${{ github.event_name == 'pull_request' && github.ref || github.sha }}"
    assert WORKFLOWS["test"]["concurrency"] == {"group": group, "cancel-in-progress": True}


def test_both_services_install_the_extras_of_the_variable():
    assert WORKFLOWS["retrain"]["env"]["EXTRAS"] == "${{ vars.SCM_EXTRAS }}"
    # The shell fills it in: of a variable that nobody has set, make would otherwise take the name for an extra.
    assert GITLAB["default"]["before_script"] == ['make .venv/.run EXTRAS="${SCM_EXTRAS:-}"']
