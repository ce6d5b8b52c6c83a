"""The model card says what a run's files say, and its example runs."""

import json
from dataclasses import replace

import pytest

from scm import cli
from scm.interop.teachers import LICENCE
from scm.params.project import Project
from scm.product.card import card, licence
from scm.product.packaging import content_of
from scm.results.provenance import licence_of
from tests.product.conftest import copied, run_example
from tests.support.fake_candidate import set_param

IMPORTED = {"imported.file": "edm2-img64-s.pkl", "imported.program": "EDM2", "imported.licence": LICENCE}


@pytest.fixture
def text(project):
    return card(project, content_of(project, "scd")[0])


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_figures_are_those_of_the_run(project, text):
    table = section(text, "Figures")
    metrics = json.loads((project.root / "results/metrics/evaluate-scd.json").read_text())
    assert f"| sCD | 2 | {metrics['fd@2']:.2f} |" in table and f"| sCD | 1 | {metrics['fd@1']:.2f} |" in table
    assert "| Teacher | 35 | " in table and "sCT" not in text
    assert "of 1,797 samples with seeds from 1,000,000" in table


def test_data_training_limits_and_origin_are_told(text):
    assert "1,797 images in 10 classes of 174 to 183 images" in section(text, "Data")
    assert "| sCD | 131,072 | 128 | fp32 | 2 min 28 s | cpu |" in section(text, "Training")
    assert "1 or 2 (the student), more (the teacher), 2 if none are given" in section(text, "Limits")
    origin = section(text, "Origin")
    assert "3f2a9c1e5b + changes" in origin and "params hash: 9b1c44d2e0f7" in origin
    assert "\nstudent.scd.images: 131072\n" in origin


def test_what_was_not_measured_is_said_to_be_so(project, tmp_path):
    bare = copied(project, tmp_path, "results")
    text = card(bare, content_of(bare, "scd")[0])
    assert section(text, "Figures").strip() == "Not measured; `scm run` measures it."
    assert "| sCD | 131,072 | 128 | fp32 | – | – |" in text and "commit: unknown" in text


def test_names_of_classes_are_printed_without_control_characters(project):
    content = replace(content_of(project, "scd")[0], classes=("\x1b[31mred\nline", "ca\u202et"))
    data = section(card(project, content), "Data")
    assert r"2 classes: \\x1b\[31mred line, ca\\u202et." in data


def test_parameters_of_a_run_file_are_printed_without_control_characters(project, tmp_path):
    copy = copied(project, tmp_path)
    path = copy.root / "results/runs/evaluate@scd.json"
    run = json.loads(path.read_text())
    path.write_text(json.dumps({**run, "chain": {**run["chain"], "data.path": "a\n```\n# b\x1b[31m"}}))
    origin = section(card(copy, content_of(copy, "scd")[0]), "Origin")
    assert "data.path: a\\n```\\n# b\\x1b[31m\n" in origin


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"start.file": "a.pkl", "start.licence": LICENCE}, f"a teacher that started from a.pkl, so under {LICENCE}"),
        ({"guide.file": "b.pkl", "guide.licence": LICENCE}, f"a teacher that is guided by b.pkl, so under {LICENCE}"),
        (
            {"imported.file": "own.safetensors", "guide.file": "b.pkl", "guide.licence": LICENCE},
            f"a teacher that is guided by b.pkl, so under {LICENCE}",
        ),
        ({"start.file": "own.safetensors"}, "started from own.safetensors, so under whatever terms its owner states"),
    ],
)
def test_the_licence_is_that_of_the_networks_that_it_was_made_from(given, said):
    assert licence_of(given).endswith(said)


@pytest.mark.parametrize(
    ("made_by", "said"),
    [
        ({}, "Code: Apache-2.0; weights: trained here from scratch on your own data, whose terms apply."),
        (
            IMPORTED,
            "weights: made from the imported teacher edm2-img64-s.pkl, so under CC BY-NC-SA 4.0 (non-commercial).",
        ),
        ({"imported.file": "a_b.safetensors"}, r"teacher a\_b.safetensors, so under whatever terms its owner states."),
    ],
)
def test_the_licence_follows_the_teacher(project, tmp_path, made_by, said):
    copy = copied(project, tmp_path)
    path = copy.root / "results/runs/train_teacher.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "params": made_by}))
    text = card(copy, content_of(copy, "scd")[0])
    assert said in section(text, "Licence")
    assert ("imported: edm2-img64-s.pkl" in section(text, "Training")) == (made_by is IMPORTED)


@pytest.mark.parametrize(("stage", "key"), [("train_teacher", "start"), ("select_ema@teacher", "guide")])
def test_the_licence_follows_a_teachers_start_and_its_guide(project, tmp_path, stage, key):
    copy = copied(project, tmp_path)
    path = copy.root / f"results/runs/{stage}.json"
    given = {"file": "c.pkl", "sha256": "0" * 64, "program": "EDM2", "licence": LICENCE}
    path.write_text(json.dumps({**json.loads(path.read_text()), "given": {key: given}}))
    assert licence(copy, "scd").endswith(f" c.pkl, so under {LICENCE}.")


def test_a_decoder_of_other_people_is_named(project, tmp_path):
    copy = copied(project, tmp_path)
    assert "decoder" not in licence(copy, "scd")
    path = copy.root / "data/codec/header.json"
    autoencoder = {"sha256": ["0" * 64], "config": {}, "precision": "fp32"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "name": "sd_vae", "autoencoder": autoencoder}))
    assert licence(copy, "scd").endswith("The decoder's weights are other people's, and keep their own licence.")


def test_the_example_runs_before_anything_is_published(project, text, tmp_path, monkeypatch):
    """tests/product/test_packaging.py runs that of a published version."""
    monkeypatch.chdir(copied(project, tmp_path).root)
    run_example(text)
    assert (tmp_path / "copy/image-0.png").read_bytes()[:4] == b"\x89PNG"


def test_the_example_of_a_published_model_names_the_registry(project, tmp_path):
    content = content_of(project, "scd")[0]
    used = section(card(project, content, "models:/digits@challenger"), "How to sample")
    assert (
        'set_tracking_uri("sqlite:///mlflow.db")\nmodel = mlflow.pyfunc.load_model("models:/digits@challenger")' in used
    )
    assert "`scm serve models:/digits@challenger`" in used
    copy = copied(project, tmp_path)
    set_param(copy.root, "mlflow.uri", "https://me:secret@server.example.org")
    used = section(card(Project.open(copy.root), content, "models:/digits@champion"), "How to sample")
    assert 'set_tracking_uri("https://server.example.org")' in used and "secret" not in used


def test_floors_held_out_figures_and_copies_are_told_where_they_were_measured(project, text, tmp_path):
    table = section(text, "Figures")
    assert "| Training images, drawn at random | – | 1.42 | – |" in table and "FD to which a model with" in table
    assert "No images were held out" in table and "Copies" not in table
    copy = copied(project, tmp_path)
    for model in ("teacher", "scd"):
        path = copy.root / f"results/metrics/evaluate-{model}.json"
        figures = json.loads(path.read_text())
        for number in [key.removeprefix("fd@") for key in figures if key.startswith("fd@")]:
            named = ("fd_held_out", 9.5), ("precision_held_out", 0.81), ("recall_held_out", 0.72), ("copies", 0.063)
            figures |= {f"{name}@{number}": value for name, value in named}
        floors = {"fd_held_out_floor": 4.5, "precision_held_out_floor": 0.91, "recall_held_out_floor": 0.92}
        path.write_text(json.dumps({**figures, **floors, "copies_expected": 0.05}))
    table = section(card(copy, content_of(copy, "scd")[0]), "Figures")
    head = "| Model | Evaluations | FD | Precision | Recall | Copies |\n"
    rows = table.split(head)[1].splitlines()
    assert "| sCD | 2 | 9.50 | 0.810 | 0.720 | 0.0630 |" in rows and rows[1].startswith("| Teacher | 35 | 9.50 |")
    assert "| Training images, drawn at random | – | 4.50 | 0.910 | 0.920 | – |" in rows
    assert "| Held-out images | – | – | – | – | 0.0500 |" in rows and "No images were held out" not in table


def test_the_command_prints_it(project, text, monkeypatch, capsys):
    monkeypatch.chdir(project.root)
    assert cli.main(["card"]) == 0 and capsys.readouterr().out == text
    assert cli.main(["card", "teacher"]) == 0 and capsys.readouterr().out.startswith("# Teacher: images in few steps")
    assert cli.main(["card", "vsd"]) == 1
