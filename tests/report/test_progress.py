"""results/progress.html: it grows with a training, changes nothing in it, and never ends it."""

import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from scm.base.files import read_sealed, write_json
from scm.data.latents.autoencoders import save_codec
from scm.data.latents.codec import plain_header
from scm.errors import Interrupted, UserError
from scm.objectives.diffusion import Diffusion
from scm.report.progress import PAGE, SAMPLES, SECTIONS, SHOWN, SILENT, ProgressPage, _chosen
from scm.training import loop
from tests.support.fake_results import write_fake_results
from tests.support.loops import ALONE, Digits, equal, result, settings
from tests.support.models import tiny_model
from tests.support.projects import params_with

CODEC = plain_header("identity", 0.5, [1, 8, 8])
HEADER = {"model": "teacher", "network": {}, "classes": ["a", "b", "c"], "codec": CODEC, "sigma_d": 0.5}
PARAMS = (ALL := params_with({})).model_copy(update={"teacher": ALL.teacher.model_copy(update={"images": 160})})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    save_codec(tmp_path / "data/codec", CODEC, None)
    return tmp_path


def opened(root: Path, model: str = "teacher", say: Callable[[str], None] = print, key: str = "k") -> ProgressPage:
    return ProgressPage(PARAMS, root, root / ".work" / model, model, key, say)


def train(root: Path, watch: Any, *, work: str = "teacher", stopping=lambda: False) -> dict[str, Any]:
    model, objective = tiny_model(dropout=0.2), Diffusion(0.5, -0.8, 1.6)
    place = root / ".work" / work, ALONE, stopping, lambda text: None
    loop.Trainer(model, objective, Digits(16), settings(header=HEADER), *place, watch=watch).run()
    return result(root / ".work" / work)


def line(images: int, **figures: float) -> dict[str, float]:
    return {"images": images, "images_per_second": 10.0, **figures}


def text(root: Path) -> str:
    return (root / PAGE).read_text(encoding="utf-8")


def grids(root: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((root / ".work/teacher" / SAMPLES).iterdir())}


def test_a_training_has_the_same_bits_with_the_page_and_without(root):
    without = train(root, None, work="without")
    state = torch.get_rng_state()
    with opened(root) as page:
        assert equal(without, train(root, page))
    assert torch.equal(state, torch.get_rng_state())
    assert [int(Path(name).stem) for name in grids(root)] == [48, 80, 128, 160]
    assert text(root).count("<figure><img") == 4 and "160 of 160 images" in text(root)
    # It refers to nothing outside itself, and runs no script.
    assert not re.search(r"<script|<link|\son\w+=|(?:src|href)=\"(?!data:)|url\(", text(root))


class Killed(Exception):
    """Ends a training without a word, as kill -9 does."""


def test_a_killed_and_resumed_training_has_each_grid_once(root, tmp_path_factory):
    whole = tmp_path_factory.mktemp("whole")
    save_codec(whole / "data/codec", CODEC, None)
    with opened(whole) as page:
        train(whole, page)
    seen = iter(range(100))

    def kill() -> bool:
        if next(seen) == 6:  # the last checkpoint was at 64 images, and a grid at 80
            raise Killed
        return False

    with pytest.raises(Killed):
        train(root, opened(root), stopping=kill)
    assert len(grids(root)) == 2
    (root / ".work/teacher" / SAMPLES / ".000000000128.png.scm-host-00000000.tmp").write_bytes(b"half")
    spoiled = root / ".work/teacher" / SAMPLES / "000000000080.png"
    spoiled.write_bytes(b"ahead of the checkpoint")
    with opened(root) as page:
        train(root, page)
    (root / ".work/teacher" / SAMPLES / ".000000000128.png.scm-host-00000000.tmp").unlink()
    assert grids(root) == grids(whole)
    own, other = (read_sealed(each / SECTIONS / "teacher.json") for each in (root, whole))
    assert own is not None and other is not None
    assert all(own[key] == other[key] for key in ("grids", "curves", "images", "state", "health"))


def test_the_first_line_names_the_page_and_a_running_page_loads_itself_again(root):
    said: list[str] = []
    with opened(root, say=said.append) as page:
        assert said == [f"progress, with samples: {root / PAGE}"]
        assert '<meta http-equiv="refresh" content="10">' in text(root)
        page.resumed(0, [], [])
        page.add(line(80, loss=0.5), ["the <tangent> jumps"])
        page._write()
        assert "80 of 160 images · 10.0 images/s · 8.0 s left" in text(root)
        assert "the &lt;tangent&gt; jumps" in text(root) and "50 % Teacher" in text(root)
    assert len(said) == 1


def test_finished_trainings_stay_and_the_last_one_leaves_a_plain_page(root):
    with opened(root, "teacher", key="first"):
        pass
    assert "refresh" in text(root) and "Yet to be trained: sCD, sCT." in text(root)
    write_json(root / "results/runs/train_student@sct.json", {})
    with opened(root, "scd") as page:
        page.resumed(0, [line(16, loss=1.0, sample_fd=3.0), line(32, loss=2.0, sample_fd=float("inf"))], [])
        page._write()
        assert re.findall(r"<h2>(\w+)", text(root)) == ["sCD", "Teacher"]
        assert "Distance of one-step samples" in text(root) and "Trained earlier, or elsewhere: sCT." in text(root)
    assert re.findall(r"<h2>(\w+)", text(root)) == ["Teacher", "sCD"] and "refresh" not in text(root)


def test_a_section_goes_when_its_model_was_replaced(root):
    with opened(root, "teacher", key="first"):
        pass
    runs = write_fake_results(root, rows=6) / "results/runs/train_teacher.json"
    run = json.loads(runs.read_text())
    for key, there in (("first", True), ("second", False)):
        write_json(runs, {**run, "key": key})
        with opened(root, "scd"):
            pass
        assert ("<h2>Teacher" in text(root)) == there


def test_a_training_that_was_killed_does_not_run_for_ever(root, monkeypatch):
    opened(root, "teacher").__enter__()
    moment = time.time() + SILENT + 1
    monkeypatch.setattr("time.time", lambda: moment)
    write_json(root / "results/runs/train_student@sct.json", {})
    with opened(root, "scd"):
        pass
    assert "no news" in text(root) and "refresh" not in text(root)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Interrupted("x"), "stopped; the same"),
        (UserError("it <diverged>"), "it &lt;diverged&gt;"),
        (ValueError(), "ended"),
    ],
)
def test_a_training_that_ends_early_says_so(root, error, words):
    with pytest.raises(type(error)), opened(root):
        raise error
    assert words in text(root) and "refresh" not in text(root)


def test_a_page_that_cannot_be_written_is_one_warning(root):
    (root / "results").write_text("a file where a folder should be")
    said: list[str] = []
    with opened(root, say=said.append) as page:
        assert len(train(root, page)) == 8
    assert len(said) == 2 and said[1].startswith("warning: the training goes on, but its page results/progress.html")
    assert len(grids(root)) == 4


def test_samples_that_cannot_be_decoded_are_one_warning(tmp_path):
    said: list[str] = []
    with opened(tmp_path, say=said.append) as page:
        train(tmp_path, page)
    assert len(said) == 2 and "data/codec" in said[1] and "160 of 160 images" in text(tmp_path)


def test_memory_that_does_not_suffice_for_samples_is_a_warning(root, monkeypatch):
    def out_of_memory(*_: object) -> Mapping[str, Any]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("scm.report.progress.drawn", out_of_memory)
    said: list[str] = []
    with opened(root, say=said.append) as page:
        train(root, page)
    assert len(said) == 2 and said[1].endswith("CUDA out of memory")


def test_a_page_that_another_training_is_writing_is_written_later(root, monkeypatch):
    from scm.base import locks

    with opened(root) as page:
        page.resumed(0, [], [])
        before = text(root)
        with locks.held(root / SECTIONS / "lock"):
            page.add(line(80, loss=0.5), [])
            page._write()
        assert text(root) == before
    assert "80 of 160" in text(root)


def test_of_many_grids_the_first_the_last_and_some_between_are_shown():
    chosen = [images for images, _ in _chosen({16 * k: "" for k in range(1, 101)})]
    assert len(chosen) == SHOWN and (chosen[0], chosen[-1]) == (16, 1600) and chosen == sorted(set(chosen))
    assert [images for images, _ in _chosen({5: "", 3: ""})] == [3, 5]
