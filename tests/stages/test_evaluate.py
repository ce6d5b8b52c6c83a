"""Stage evaluate: what an interrupted evaluation has drawn and measured is not drawn again, and changes no figure."""

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from scm.base import weights
from scm.base.files import write_json
from scm.base.forms import require
from scm.data.latents.autoencoders import save_codec
from scm.data.latents.codec import plain_header
from scm.generation.generate import batches
from scm.generation.grids import GAP, scale_for
from scm.params.project import Project
from scm.pipeline.stage import Stage
from scm.results.fingerprint import Inputs
from scm.results.reading import Nearest
from stages import evaluate
from tests.evaluation.conftest import reference_of_stripes
from tests.support.models import T_MAX, tiny_model
from tests.support.projects import params_with

ROOT = Path(__file__).parents[2]
COUNT, BATCH, SEED = 22, 8, 5000
reference = functools.cache(reference_of_stripes)
SETS = [(nfe, SEED + each * COUNT) for nfe in (1, 2) for each in range(3)]
CODEC = plain_header("identity", 0.5, [1, 8, 8])
VALUES = {
    "evaluate.samples": COUNT, "evaluate.batch": BATCH, "evaluate.repeats": 3, "evaluate.seed": SEED,
    "evaluate.grid_rows": 1, "evaluate.grid_classes": 3, "runtime.device": "cpu",
}  # fmt: skip


def stage_in(folder: Path) -> Stage:
    """A project with a two-step student, and the stage that is to evaluate it."""
    net = tiny_model(3)
    header = {
        "model": "scd", "network": net.settings.to_dict(), "precision": "fp32", "sigma_d": 0.5, "t_max": T_MAX,
        "classes": ["0", "1", "2"], "codec": CODEC, "sigma_rel": 0.05,
    }  # fmt: skip
    weights.save(folder / "models/scd/model.safetensors", net.state_dict(), header)
    write_json(
        folder / "models/scd/sampling.json", {1: {"guidance_scale": 1.0}, 2: {"guidance_scale": 1.0, "t_mid": 0.8}}
    )
    save_codec(folder / "data/codec", CODEC, None)
    (folder / "work").mkdir(exist_ok=True)
    project = Project(folder, params_with(VALUES))
    return Stage("evaluate", "scd", project, Inputs({}, {}, "0" * 64), folder / "work")


def evaluated(folder: Path, drawn: Callable[[int, int, int], None]) -> dict[str, float]:
    return recorded(folder, drawn)["figures"]


def recorded(folder: Path, drawn: Callable[[int, int, int], None]) -> dict[str, Any]:
    """What the run file records of a run that takes a quarter of a second for each batch.

    Args:
        drawn: is told evaluations, first seed and row of each batch when it has been drawn.
    """

    def timed(model: Any, sampler: Any, seeds: range, *rest: Any) -> Iterator[tuple[slice, Tensor, float]]:
        for rows, samples, _ in batches(model, sampler, seeds, *rest):
            drawn(sampler.nfe, seeds.start, rows.start)
            yield rows, samples, 0.25

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "batches", timed)
        patch.setattr(evaluate, "load_reference", lambda *_: reference())
        stage = stage_in(folder)
        evaluate.run(stage)
    return stage.extra


def test_an_evaluation_goes_on_after_kill_9_with_the_same_figures(tmp_path):
    whole: list[tuple[int, int, int]] = []
    expected = evaluated(tmp_path / "whole", lambda *batch: whole.append(batch))
    starts = range(0, COUNT, BATCH)
    warm_up = (1, SEED, 0)
    assert whole == [warm_up, *((*each, start) for each in SETS for start in starts)]
    assert expected["images_per_second@2"] == pytest.approx(COUNT / 0.75) and expected["fd_2@2"] > 0

    folder = tmp_path / "killed"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run([sys.executable, __file__, str(folder)], env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    kept = folder / "work/features-1-5000.safetensors"
    assert sorted(folder.rglob("features*")) == [kept] and not (folder / "results").exists()
    again: list[tuple[int, int, int]] = []
    assert evaluated(folder, lambda *batch: again.append(batch)) == expected
    assert again == [warm_up, *((*each, start) for each in SETS[1:] for start in starts)]

    assert evaluated(folder, lambda *batch: pytest.fail(f"drawn again: {batch}")) == expected
    sealed = weights.load_sealed(kept)
    assert sealed is not None
    weights.save_sealed(kept, sealed[0], {"seconds": sealed[1]["seconds"] + 3.0})
    slower = evaluated(folder, lambda *batch: pytest.fail(f"drawn again: {batch}"))
    assert slower.pop("images_per_second@1") == pytest.approx(3 * COUNT / (9 * 0.25 + 3))
    assert slower.items() < expected.items()


def test_the_nearest_pairs_are_kept_as_a_picture(tmp_path, monkeypatch):
    measured_by = reference_of_stripes(held_out=True)
    assert measured_by.held_out is not None
    monkeypatch.setattr(sys.modules[__name__], "reference", lambda: measured_by)
    found = recorded(tmp_path, lambda *batch: None)
    figures = found["figures"]
    assert {"fd_floor", "fd_held_out_floor", "copies_expected", "copies@1", "fd_held_out_2@2"} <= figures.keys()
    folder = tmp_path / "results/samples/scd"
    for nfe in (1, 2):
        told = require(found["nearest"][str(nfe)], Nearest, "nearest", "")
        distances = [pair["distance"] for pair in told["pairs"]]
        assert len(distances) == 10 and distances == sorted(distances)
        assert told["threshold"] == measured_by.held_out.threshold
        assert sum(each <= told["threshold"] for each in distances) == min(10, round(figures[f"copies@{nfe}"] * COUNT))
        best = min(range(3), key=lambda each: figures[f"fd_{each}@{nfe}"])
        first = SEED + best * COUNT
        assert all(first <= pair["seed"] < first + COUNT for pair in told["pairs"])
        with Image.open(folder / f"nearest-{nfe}.png") as picture:
            scale = scale_for(8)
            assert picture.size == (10 * (8 * scale + GAP) + GAP, 2 * (8 * scale + GAP) + GAP)


if __name__ == "__main__":

    def killed(evaluations: int, first: int, row: int) -> None:
        """In the middle of the second set."""
        if (evaluations, first, row) == (*SETS[1], BATCH):
            os.kill(os.getpid(), signal.SIGKILL)

    evaluated(Path(sys.argv[1]), killed)
