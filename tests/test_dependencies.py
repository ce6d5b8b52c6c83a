"""dvc.yaml lists the files that each stage's result follows from: no more and no less than its code reaches."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from scm import methods
from tests.support.reach import ROOT, Place, module, reached

STAGES: dict[str, Any] = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
FRAME = (
    "scm.build", "scm.errors", "scm.params", "scm.pipeline", "scm.presets", "scm.results", "scm.tracking",
    "scm.base.count", "scm.base.documents", "scm.base.files", "scm.base.forms", "scm.base.locks", "scm.base.processes",
    "scm.base.progress", "scm.base.project", "scm.base.registry", "scm.base.sections", "scm.base.weights",
    "scm.base.yaml_files",
    "scm.generation.trained", "scm.training.ahead", "scm.training.checkpoint", "scm.training.diagnosis",
    "scm.training.late",
    "scm.training.record", "scm.training.room", "scm.training.watch",
)  # fmt: skip
"""Modules that connect, read, write or watch; results follow from the modules that they connect."""
APART = ("scm.report.progress",)
"""Modules that show a training and hand nothing back to it, so that nothing follows from what they reach."""
NO_RESULT = {
    ("prepare", "scm/data/latents/autoencoders.py"): "refuses missing weights early",
    ("prepare", "scm/data/latents/codec.py"): "is read by autoencoders.py",
    ("encode", "scm/base/distributed.py"): "tells which of several processes this one is",
    ("reference", "scm/base/distributed.py"): "tells which of several processes this one is",
}
"""Files that a stage reaches and its result does not follow from, with the reason."""
UNREAD = ("scm/report/page.html.j2", "scm/report/style.css")
"""Dependencies that are no Python files."""


def registered(folder: str, *definitions: str) -> dict[str, list[Place]]:
    """Definitions of a folder's registered files (all, if none are named), by the file's name."""
    found = {}
    for path in sorted((ROOT / folder).glob("[a-z]*.py")):
        name = ".".join(Path(folder, path.stem).parts)
        found[path.stem] = [(name, each) for each in definitions or module(name).definitions]
    return found


NETWORKS, SOURCES = registered("scm/networks/architectures"), registered("scm/data/sources")
EXTRACTORS, LOADED = (registered("scm/evaluation/extractors", *only) for only in ((), ("load_extractor",)))
METHODS = registered("scm/methods")
FOUND_BY_NAME: dict[str, dict[str, dict[str, list[Place]]]] = {
    "prepare": {"data.source": SOURCES},
    "reference": {"reference.extractor": EXTRACTORS},
    "train_teacher": {"network.architecture": NETWORKS},
    "train_student": {"network.architecture": NETWORKS, "key": METHODS},
    "select_ema": {"network.architecture": NETWORKS, "reference.extractor": LOADED},
    "evaluate": {"network.architecture": NETWORKS, "reference.extractor": LOADED},
}
"""For each stage, what it finds by the value of a parameter (or of its key), which no import statement shows."""


def listed(stage: str) -> list[str]:
    """Dependencies of a stage that are files of the project, with parameters not filled in."""
    found = STAGES[stage].get("do", STAGES[stage])["deps"]
    return [path for path in found if path.startswith(("scm/", "stages/"))]


def filled(path: str, chosen: dict[str, str]) -> str:
    for key, value in chosen.items():
        path = path.replace(f"${{{key}}}", value)
    return path


def choices(stage: str) -> list[dict[str, str]]:
    """Every value of each parameter that the stage finds a file by, the others at their first."""
    parts = FOUND_BY_NAME.get(stage, {})
    first = {key: next(iter(files)) for key, files in parts.items()}
    return [first | {key: name} for key, files in parts.items() for name in files] or [{}]


def starts(stage: str, chosen: dict[str, str]) -> list[Place]:
    parts = FOUND_BY_NAME.get(stage, {})
    return [(f"stages.{stage}", "run"), *(place for key, name in chosen.items() for place in parts[key][name])]


CASES = [(stage, chosen) for stage in STAGES for chosen in choices(stage)]


@pytest.mark.parametrize(("stage", "chosen"), CASES, ids=lambda value: str(value).replace("'", ""))
def test_a_stage_depends_on_every_file_that_its_result_follows_from(stage, chosen):
    deps = {filled(path, chosen) for path in listed(stage)}
    frame = FRAME if stage == "prepare" else (*FRAME, "scm.base.litter")  # elsewhere it only watches the images
    files = {str(path) for path in reached(starts(stage, chosen), frame, APART)}
    assert files - deps - {path for name, path in NO_RESULT if name == stage} == set()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_no_file_that_it_never_reaches(stage):
    files = {str(path) for chosen in choices(stage) for path in reached(starts(stage, chosen))}
    deps = {filled(path, chosen) for chosen in choices(stage) for path in listed(stage)} - set(UNREAD)
    assert deps - files == set() and all((ROOT / path).is_file() for path in [*deps, *UNREAD])


def test_an_exception_is_one_that_the_stage_reaches():
    for stage, path in NO_RESULT:
        assert any(Path(path) in reached(starts(stage, chosen)) for chosen in choices(stage))


def test_each_method_has_its_mathematics_beside_the_others():
    assert set(METHODS) == set(methods.names()) and len(METHODS) >= 6
    for name, places in METHODS.items():
        assert Path(f"scm/objectives/{name}.py") in reached(places)


def test_a_new_reader_would_be_noticed(monkeypatch):
    """The test above is not blind: with one dependency taken out of dvc.yaml it names the file."""
    without = [path for path in listed("prepare") if "containers" not in path]
    monkeypatch.setitem(STAGES["prepare"], "deps", without)
    with pytest.raises(AssertionError, match="containers"):
        test_a_stage_depends_on_every_file_that_its_result_follows_from("prepare", {"data.source": "folder"})
