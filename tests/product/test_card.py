"""The model card says what a run's files say, and its example runs."""

import json
import re
from dataclasses import replace

import pytest

from scm import cli
from scm.interop.teachers import LICENCE
from scm.product.card import card, licence
from scm.product.packaging import content_of
from scm.results.provenance import licence_of
from tests.product.conftest import copied

IMPORTED = {"imported.file": "edm2-img64-s.pkl", "imported.program": "EDM2", "imported.licence": LICENCE}


@pytest.fixture
def text(project):
    return card(project, content_of(project, "scd")[0], "models:/digits@champion")


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
    text = card(bare, content_of(bare, "scd")[0], "model")
    assert section(text, "Figures").strip() == "Not measured; `scm run` measures it."
    assert "| sCD | 131,072 | 128 | fp32 | – | – |" in text and "commit: unknown" in text


def test_names_of_classes_are_printed_without_control_characters(project):
    content = replace(content_of(project, "scd")[0], classes=("\x1b[31mred\nline", "ca\u202et"))
    data = section(card(project, content, "model"), "Data")
    assert r"2 classes: \\x1b\[31mred line, ca\\u202et." in data


def test_parameters_of_a_run_file_are_printed_without_control_characters(project, tmp_path):
    copy = copied(project, tmp_path)
    path = copy.root / "results/runs/evaluate@scd.json"
    run = json.loads(path.read_text())
    path.write_text(json.dumps({**run, "chain": {**run["chain"], "data.path": "a\n```\n# b\x1b[31m"}}))
    origin = section(card(copy, content_of(copy, "scd")[0], "model"), "Origin")
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
    text = card(copy, content_of(copy, "scd")[0], "model")
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


def test_the_example_runs(packed, tmp_path, monkeypatch):
    text = (packed / "artifacts/product/card.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert code is not None and "models:/digits@champion" in code[1]
    monkeypatch.chdir(tmp_path)
    exec(code[1].replace("models:/digits@champion", str(packed)), {})
    assert (tmp_path / "image-0.png").read_bytes()[:4] == b"\x89PNG"


def test_the_command_prints_it(project, text, monkeypatch, capsys):
    monkeypatch.chdir(project.root)
    assert cli.main(["card"]) == 0 and capsys.readouterr().out == text
    assert cli.main(["card", "teacher"]) == 0 and capsys.readouterr().out.startswith("# Teacher: images in few steps")
    assert cli.main(["card", "vsd"]) == 1
