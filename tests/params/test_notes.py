"""What a person is told about params.yaml although it works."""

import json
from pathlib import Path

import pytest

from scm import cli
from scm.evaluation.extractors import inception
from scm.params.notes import FEATURES, notes
from scm.presets import apply
from tests.support.plan_projects import edit
from tests.support.projects import make_project, params_with

ROOT = Path(__file__).parents[2]
FEW = "fewer than the 2,048 features, so the Frechet distance comes out too large; use 2048 or more"


def test_fewer_samples_than_features():
    given = {"reference.extractor": "inception", "reference.weights": "weights.npz"}
    few, enough = ({"select.samples": number, "evaluate.samples": number} for number in ("1Ki", "2Ki"))
    assert list(notes(params_with(given | few))) == [f"{key}.samples = 1Ki: {FEW}" for key in ("select", "evaluate")]
    assert list(notes(params_with(given | enough))) == []
    assert len(list(notes(params_with(few), features=1025))) == 2, "as the stage knows them"
    own = {"reference.classifier.features": 256, "select.samples": 255, "evaluate.samples": 256}
    assert [note.partition(" ")[0] for note in notes(params_with(own))] == ["select.samples"]


def test_fewer_columns_than_classes():
    (note,) = notes(params_with({"evaluate.grid_classes": 9}), classes=10)
    assert note == "evaluate.grid_classes = 9: the grids show the first of 10 classes alone; use 10 to see all"
    assert list(notes(params_with({"evaluate.grid_classes": 10}), classes=10)) == []


@pytest.mark.parametrize("preset", apply.names(ROOT))
def test_no_preset_has_too_few_samples(preset, tmp_path):
    make_project(tmp_path)
    assert list(notes(apply.preview(tmp_path / "params.yaml", ROOT, preset))) == []


def test_the_known_number_of_features_is_the_extractors():
    assert FEATURES["inception"] == inception.InceptionV3.num_features


def test_check_says_it_beside_its_answer(tmp_path, capsys):
    make_project(tmp_path)
    edit(tmp_path, "params.yaml", "evaluate.grid_classes", 2)
    data = tmp_path / "results/samples/prepare/data.json"
    data.parent.mkdir(parents=True)
    known = dict.fromkeys(("images", "resolution", "channels", "enlarged", "in_colour", "skipped"), 1)
    classes = [{"name": name, "images": 1} for name in "abc"]
    known |= {"classes": classes, "short_sides": [], "skipped_reasons": []}
    data.write_text(json.dumps(known), encoding="utf-8")
    assert cli.main(["params", "check", str(tmp_path / "params.yaml")]) == 0
    told = capsys.readouterr()
    assert ": ok (" in told.out and told.err.startswith("scm params: evaluate.grid_classes = 2: ")
