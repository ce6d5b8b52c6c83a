"""The stage prepare as a whole: shards, figures, the summary for people and its contact sheet."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from scm.data.preparation.summary import caption, small_letters
from scm.data.reading.source import Wanted
from scm.data.shards.shards import iterate, read_index
from scm.errors import UserError
from scm.params.project import Project
from scm.pipeline.stage import Stage
from scm.results.fingerprint import Inputs
from stages import prepare
from tests.support.pictures import make, make_tar, picture
from tests.support.projects import params_with, values_with

ROOT = Path(__file__).parents[2]


def plain(colour, size):
    """An image of one colour, as a PNG."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format="PNG")
    return buffer.getvalue()


RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)
IMAGES = {
    "blue/1.png": plain(BLUE, (40, 33)),
    "blue/2.png": plain(BLUE, (17, 16)),
    "green/1.png": plain(GREEN, (31, 16)),
    "green/2.png": b"broken",
    "green/notes.txt": b"-",
    "red/1.png": plain(RED, (64, 100)),
    "red/2.png": b"",
}


def settings(**data):
    return {f"data.{key}": value for key, value in data.items()} | {"network.attention": []}


def run(root, **data):
    """Runs the stage's work in this process; returns its index and data.json."""
    return run_and_figures(root, **data)[:2]


def run_and_figures(root, **data):
    stage = Stage(
        "prepare", None, Project(root, params_with(settings(**data))), Inputs({}, {}, "0" * 64), root / ".work"
    )
    prepare.run(stage)
    summary = json.loads((root / "results/samples/prepare/data.json").read_text())
    return read_index(root / "data/shards"), summary, stage.extra["figures"]


def test_a_folder_of_images(tmp_path, capsys):
    make(tmp_path / "data/raw", IMAGES)
    index, summary, figures = run_and_figures(
        tmp_path, source="folder", resolution=16, channels=3, on_bad_image="skip", max_pixels=8192, shard_images=2
    )
    assert index["class_counts"] == [2, 1, 1] and index["classes"] == ["blue", "green", "red"]
    colours = [tuple(pixels[0, 0]) for _, pixels, _ in iterate(tmp_path / "data/shards")]
    assert colours == [BLUE, BLUE, GREEN, RED]
    assert summary == {
        "images": 4,
        "resolution": 16,
        "channels": 3,
        "classes": [{"name": name, "images": count} for name, count in (("blue", 2), ("green", 1), ("red", 1))],
        "short_sides": [
            {"from": 16, "to": 31, "images": 2},
            {"from": 32, "to": 63, "images": 1},
            {"from": 64, "to": 127, "images": 1},
        ],
        "enlarged": 0,
        "in_colour": 4,
        "skipped": 3,
        "skipped_reasons": [
            {"reason": "not an image file", "files": 1},
            {"reason": "not a readable image", "files": 1},
            {"reason": "the file is empty", "files": 1},
        ],
        "skipped_first": [
            {"file": "green/notes.txt", "reason": "not an image file"},
            {"file": "green/2.png", "reason": "not a readable image"},
            {"file": "red/2.png", "reason": "the file is empty"},
        ],
    }
    assert figures == {"images": 4, "classes": 3, "skipped": 3}
    reasons = "1 x not an image file; 1 x not a readable image; 1 x the file is empty"
    assert f"7 files: 4 images taken, in 3 shards; 3 left out ({reasons})\n" in capsys.readouterr().out
    lines = (tmp_path / "results/samples/prepare/skipped.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == summary["skipped_first"]


def test_the_contact_sheet_shows_each_image_in_its_place(tmp_path, capsys):
    make(tmp_path / "data/raw", {name: content for name, content in IMAGES.items() if len(content) > 10})
    run(tmp_path, source="folder", resolution=16, channels=3, max_pixels=8192, shard_images=2)
    with Image.open(tmp_path / "results/samples/prepare/contact.png") as sheet:
        assert sheet.size == (10 * (6 * 16 + 1) + 1, 6 * 16 + 15 + 2)
        seen = [sheet.getpixel((1 + 97 * column + 48, 48)) for column in range(4)]
        captions = [sheet.crop((1 + 97 * column, 97, 97 + 97 * column, 112)).tobytes() for column in range(5)]
    assert seen == [BLUE, BLUE, GREEN, RED]
    assert captions[0] == captions[1] and len(set(captions)) == 4, "blue twice, green, red, and nothing"
    assert "results/samples/prepare/contact.png shows some of them" in capsys.readouterr().out


def test_a_caption_fits_its_image_and_is_legible():
    font = small_letters()
    assert [caption(7, name, font, 96) for name in ("cat", "Ärger", "кот", "猫")] == ["cat", "Ärger", "кот", "class 7"]
    cut = caption(0, "a very long name of a class of images", font, 96)
    assert cut.startswith("a very lo") and cut.endswith("...") and font.getlength(cut) <= 96


def test_the_contact_sheet_takes_images_from_all_over_the_data(tmp_path):
    """250 images whose grey is their number: the sheet has 100 of them, evenly spread, in order."""
    files = {f"{number:03d}.png": plain((number,) * 3, (8, 8)) for number in range(250)}
    make(tmp_path / "data/raw", files)
    run(tmp_path, source="folder", labels=False, resolution=8, channels=1, shard_images=16)
    with Image.open(tmp_path / "results/samples/prepare/contact.png") as sheet:
        cell = 8 * 12 + 1
        assert sheet.size == (10 * cell + 1, 10 * cell + 1)
        greys = [sheet.getpixel((cell * column + 20, cell * row + 20))[0] for row in range(10) for column in range(10)]
    assert greys == [round(2.5 * k + 0.75) for k in range(100)]


def test_real_images_stand_in_the_columns_of_their_classes(tmp_path):
    """They are those beside which the report shows a model's samples; a class of one image repeats it."""
    make(tmp_path / "data/raw", {name: content for name, content in IMAGES.items() if len(content) > 10})
    run(tmp_path, source="folder", resolution=16, channels=3, max_pixels=8192, shard_images=2)
    with Image.open(tmp_path / "results/samples/prepare/real.png") as grid:
        assert grid.size == (3 * 65 + 1, 4 * 65 + 1)
        seen = [[grid.getpixel((65 * x + 32, 65 * y + 32)) for x in range(3)] for y in range(4)]
    assert seen == [[BLUE, GREEN, RED]] * 4


def test_real_images_without_classes_come_from_all_over_the_data(tmp_path):
    make(tmp_path / "data/raw", {f"{number:03d}.png": plain((number,) * 3, (8, 8)) for number in range(250)})
    run(tmp_path, source="folder", labels=False, resolution=8, channels=1, shard_images=16)
    with Image.open(tmp_path / "results/samples/prepare/real.png") as grid:
        assert grid.size == (10 * 57 + 1, 4 * 57 + 1)
        greys = [grid.getpixel((57 * x + 20, 57 * y + 20))[0] for y in range(4) for x in range(10)]
    assert greys == [(2 * k + 1) * 250 // 80 for k in range(40)]


def test_large_images_are_small_on_the_sheet(tmp_path):
    make(tmp_path / "data/raw", {"1.png": plain(RED, (128, 128)), "2.png": plain(BLUE, (100, 100))})
    _, summary = run(tmp_path, source="folder", labels=False, resolution=128, channels=3, max_pixels=65536)
    assert summary["enlarged"] == 1 and summary["classes"] == []
    with Image.open(tmp_path / "results/samples/prepare/contact.png") as sheet:
        assert sheet.size == (10 * 97 + 1, 98) and sheet.getpixel((30, 30)) == RED and sheet.getpixel((127, 30)) == BLUE


def test_webdataset_shards(tmp_path):
    (tmp_path / "data/raw").mkdir(parents=True)
    (tmp_path / "data/raw/classes.txt").write_text("cat\ndog\n")
    for shard in range(3):
        files = {}
        for number in range(4):
            files |= {f"{shard}-{number}.jpg": picture(4 * shard + number, (20, 18), suffix="JPEG")}
            files |= {f"{shard}-{number}.cls": str(number % 2).encode()}
        make_tar(tmp_path / f"data/raw/{shard:03d}.tar", files)
    index, summary = run(tmp_path, source="webdataset", resolution=8, channels=3, shard_images=5)
    assert index["classes"] == ["cat", "dog"] and index["class_counts"] == [6, 6]
    assert [shard["count"] for shard in index["shards"]] == [5, 5, 2]
    assert [label for _, _, label in iterate(tmp_path / "data/shards")] == [0, 1] * 6
    assert summary["short_sides"] == [{"from": 16, "to": 31, "images": 12}] and summary["skipped"] == 0


def test_a_bad_image_leaves_no_shards(tmp_path):
    make(tmp_path / "data/raw", IMAGES)
    with pytest.raises(UserError, match=r"green/2\.png: not a readable image"):
        run(tmp_path, source="folder", resolution=16, channels=3)
    assert not (tmp_path / "data/shards").exists() and not (tmp_path / "results").exists()


def test_a_folder_of_many_files_gets_the_command_that_packs_it(tmp_path, capsys, monkeypatch):
    make(tmp_path / "data/my raw", {name: content for name, content in IMAGES.items() if not name.endswith("2.png")})
    settings = {"source": "folder", "path": "data/my raw", "resolution": 16, "channels": 3}
    before, _ = run(tmp_path, **settings)
    assert "tar -cf" not in capsys.readouterr().out
    monkeypatch.setattr(prepare, "MANY_FILES", 2)
    run(tmp_path, **settings)
    said = capsys.readouterr().out
    ((command, path),) = re.findall(r"\[prepare\] DVC looks .*: `(tar .*)`, then data\.path: (.*)\n", said)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert run(tmp_path, **settings | {"path": path})[0] == before
    assert "tar -cf" not in capsys.readouterr().out
    rows = Wanted("parquet", tmp_path / "data/my raw", True, 2**20, "error")
    assert prepare.tar_advice(rows, "data/my raw", 10**6) is None


def test_the_place_among_processes_is_what_torchrun_says(monkeypatch):
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(10), raising=False)
    workers = prepare.workers_of(None)
    assert (workers.threads, workers.rank, workers.world) == (2, 5, 8)
    assert prepare.workers_of(3).threads == 3


def project(folder: Path, **data: Any) -> Path:
    """A project with the code of this one, in which the stage runs as a command."""
    for name in ("scm", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", folder)
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(values_with(settings(**data) | {"mlflow.enabled": False}), file)
    return folder


@pytest.mark.slow
def test_three_processes_of_torchrun_make_what_one_makes(tmp_path):
    files = {f"{'ab'[number % 2]}/{number:03d}.png": picture(number, (12, 10)) for number in range(50)}
    hashes = []
    for command in (["-m"], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3", "-m"]):
        root = project(tmp_path / str(len(command)), source="folder", resolution=8, channels=3, shard_images=4)
        make(root / "data/raw", files)
        foreign = ("SCM_", "DVC_", "MLFLOW", "PYTHONPATH")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        done = subprocess.run(
            [sys.executable, *command, "stages.prepare"], cwd=root, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("50 files: 50 images taken, in 13 shards; 0 left out") == 1
        hashes.append([shard["sha256"] for shard in read_index(root / "data/shards")["shards"]])
        assert not list((root / ".work/prepare").iterdir())
    assert hashes[0] == hashes[1] and len(np.unique(hashes[0])) == 13
