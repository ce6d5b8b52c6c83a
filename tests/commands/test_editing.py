"""`scm edit` and `scm sample --interpolate`: what is kept, what files say, and every refusal by its text."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from scm import cli
from tests.support import projects as shipped
from tests.support.models import save_model

HOLE = np.zeros((8, 8), dtype=bool)
HOLE[4:] = True
PICTURE = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)


@pytest.fixture
def project(tmp_path, monkeypatch):
    shipped.make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path, "scd", t_mid=0.9)
    Image.fromarray(PICTURE).save("given.bmp")
    Image.fromarray(HOLE.astype(np.uint8) * 255).save("mask.bmp")
    return tmp_path


def edited(*options: str, **changes: Any) -> int:
    """The exit code of `scm edit` with these options changed; None leaves one out."""
    values = {"model": "scd", "task": "inpaint", "classes": "two", "device": "cpu", **changes}
    if values["task"] == "inpaint":
        values = {"mask": "mask.bmp", **values}
    given = (f"--{name}={value}" for name, value in values.items() if value is not None)
    return cli.main(["edit", *(options or ("given.bmp",)), *given])


def cells(path: str, columns: int) -> np.ndarray:
    """The images of a grid, uint8 [N, 8, 8]: the middle of each enlarged pixel."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture)[..., 0]
    side = (pixels.shape[1] - 1) // columns
    rows = (pixels.shape[0] - 1) // side
    centres = (np.arange(8) * (side - 1) // 8) + (side - 1) // 16
    cut = [pixels[1 + row * side :, 1 + column * side :] for row in range(rows) for column in range(columns)]
    return np.stack([cell[np.ix_(centres, centres)] for cell in cut])


def told(path: str) -> dict[str, str]:
    with Image.open(path) as picture:
        return dict(picture.text)


def test_known_pixels_are_kept_and_missing_ones_are_filled(project, capsys):
    """Each class has a row that begins with what was given; the seed decides."""
    assert edited(classes="two,zero", count=3, seed=5) == 0
    assert capsys.readouterr().err.startswith("edited.png: 6 results, 10 network evaluations each, ")
    shown = cells("edited.png", 4)
    assert len(shown) == 8 and (shown[:, ~HOLE] == PICTURE[~HOLE]).all()
    assert (shown[0, HOLE] == 160).all() and (shown[0] == shown[4]).all()
    assert len({shown[place, HOLE].tobytes() for place in (1, 2, 3, 5, 6, 7)}) == 6
    assert edited(count=2, seed=6, output="again.png") == 0
    assert (cells("again.png", 3)[1:] == shown[2:4]).all()
    facts = told("edited.png")
    times = facts.pop("times").split(", ")
    assert facts == {
        "model": "scd", "commit": "unknown", "images": "6", "seed": "5", "class": "two, zero", "steps": "10",
        "guidance": "1.0", "task": "inpaint",
    }  # fmt: skip
    assert len(times) == 10 and times[0] == "1.565" and times[-1] == "0.1565"


def test_a_small_picture_is_enlarged_and_keeps_its_means(project, capsys):
    """To the rounding of 8 bits, where no pixel is clipped; a picture of full size is made small first."""
    small = Image.fromarray(PICTURE).resize((4, 4), Image.Resampling.BOX)
    small.save("small.png")
    for file, name in (("small.png", "a.png"), ("given.bmp", "b.png")):
        assert edited(file, task="upscale", output=name) == 0
    shown = cells("a.png", 5)
    assert (shown == cells("b.png", 5)).all() and told("a.png")["factor"] == "2"
    assert (shown[0] == np.asarray(small).repeat(2, 0).repeat(2, 1)).all()
    patches = shown[1:].reshape(4, 4, 2, 4, 2)
    inside = ((patches > 0) & (patches < 255)).all((2, 4))
    assert inside.sum() > 10 and (abs(patches.mean((2, 4)) - np.asarray(small))[inside] <= 0.5).all()


def test_strokes_begin_at_a_time_of_their_own(project, capsys):
    """The later the first time, the less is left of the picture; without noise to speak of, it stays."""
    assert edited(task="stroke") == 0 and told("edited.png")["times"].startswith("1.2, ")
    away = []
    for times in ("0.01", "0.5", "1.5,0.7"):
        assert edited(task="stroke", times=times) == 0
        assert told("edited.png")["times"] == ", ".join(times.split(","))
        shown = cells("edited.png", 5).astype(float)
        away.append(abs(shown[1:] - PICTURE).mean())
    assert away[0] < 5 < away[1] < away[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "vsd"}, "--model vsd: params.yaml has teacher, scd, sct; use one of them"),
        (
            {"model": "teacher"},
            "--model teacher: a teacher does not jump to the data in one step; edit with a student",
        ),
        (
            {"model": "sct"},
            "--model sct: it does not jump to the data from any time; edit with another student, such as scd",
        ),
        ({"output": "a.jpg"}, "-o a.jpg: pictures are written as PNG; give a name that ends in .png"),
        ({"seed": -1}, "--seed -1: must be between 0 and 2^63 - 1 less the number of results"),
        ({"classes": None}, "--classes: missing; say what the picture shows, such as --classes zero"),
        ({"classes": "4"}, "--classes 4: no such class; this model has zero, one, two (or numbers 0 to 2)"),
        ({"task": "colour"}, "--task colour: this model draws grey images; use inpaint, upscale or stroke"),
        (
            {"mask": None},
            "--task inpaint: needs --mask, a picture of its size that is white where pixels are missing",
        ),
        ({"task": "stroke", "mask": "mask.bmp"}, "--mask: only --task inpaint takes one; leave it out"),
        (
            {"task": "upscale", "factor": 3},
            "--factor 3: must divide the 8 pixels of a side, and be 2 or more",
        ),
        (
            {"task": "upscale", "factor": 1},
            "--factor 1: must divide the 8 pixels of a side, and be 2 or more",
        ),
        ({"times": "1.57"}, "--times 1.57: scd begins at 1.56455; use times up to there"),
        (
            {"mask": "none.png"},
            "--mask none.png: cannot be read (No such file or directory); give the file of a picture",
        ),
        ({"mask": "params.yaml"}, "params.yaml: not a readable image; save it as PNG"),
        ({"mask": "black.png"}, "black.png: no pixel is white; paint white what is missing"),
        ({"mask": "wide.png"}, "wide.png: 9 x 8 pixels, and given.bmp 8 x 8; make both of one size"),
        (
            {"mask": "large.png"},
            "large.png: 9000 x 9000 pixels; at most 67,108,864 are read: make it smaller",
        ),
        ({"mask": "cut.png"}, "cut.png: a broken image (image file is truncated); save it again as PNG"),
    ],
)  # fmt: skip
def test_what_cannot_be_edited_is_refused_and_nothing_written(project, capsys, changes, message):
    save_model(project, "teacher")
    save_model(project, "sct")
    Image.new("L", (8, 8)).save("black.png")
    Image.new("L", (9, 8)).save("wide.png")
    Image.new("1", (9000, 9000)).save("large.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save("whole.png")
    Path("cut.png").write_bytes(Path("whole.png").read_bytes()[:2000])
    assert edited(**changes) == 1
    assert capsys.readouterr().err == f"scm: error: {message}\n"
    assert not Path("edited.png").exists()


@pytest.mark.parametrize("times", ["0.5,0.9", "1,1", "0", "1.6", "nan", "a", ""])
def test_times_have_to_descend_between_noise_and_data(project, capsys, times):
    with pytest.raises(SystemExit):
        edited(times=times)
    assert "argument --times: " in capsys.readouterr().err


def test_an_animation_goes_through_the_images_of_scm_sample(project, capsys):
    """Bit for bit at their frames, each way back to the first; the same seed gives the same file."""
    arguments = ["sample", "--model=scd", "--steps=2", "-n=3", "--seed=4", "--device=cpu"]
    assert cli.main(arguments) == 0 and cli.main([*arguments, "--interpolate=4"]) == 0
    assert "walk.gif: 12 frames, 2 network evaluations each\n" in capsys.readouterr().err
    with Image.open("walk.gif") as walk:
        frames = [np.asarray(frame.convert("L"))[8::16, 8::16] for frame in ImageSequence.Iterator(walk)]
        assert walk.size == (128, 128) and walk.info["loop"] == 0 and walk.info["duration"] == 60
        assert (
            b"seed: 4; class: zero, one, two; steps: 2; guidance: 1.0; t_mid: 0.9; frames: 12" in walk.info["comment"]
        )
    assert len(frames) == 12
    assert (np.stack(frames[::4]) == cells("grid.png", 3)).all()
    assert cli.main([*arguments, "--interpolate=4", "-o=strip.png"]) == 0
    assert (cells("strip.png", 4) == np.stack(frames)).all() and told("strip.png")["frames"] == "12"
    before = Path("walk.gif").read_bytes()
    assert cli.main([*arguments, "--interpolate=4"]) == 0 and Path("walk.gif").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-n=1"], "--interpolate 5: 1 images with 5 frames each; use 2 images or more, and 2,000 frames at most"),
        (["-n=401"], "--interpolate 5: 401 images with 5 frames each; use 2 images or more, and 2,000 frames at most"),
        (["-o=walk.mp4"], "-o walk.mp4: animations are written as GIF; give a name that ends in .gif"),
    ],
)
def test_what_cannot_be_animated_is_refused(project, capsys, options, message):
    assert cli.main(["sample", "--model=scd", "--interpolate=5", *options]) == 1
    assert capsys.readouterr().err == f"scm: error: {message}\n"
