"""scm.evaluation.by_time: Gaussian data, of which every student, teacher and distance is known in closed form."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from scm import trigflow
from scm.base.distributed import Ranks
from scm.build import sampling
from scm.data.latents.codec import Codec, plain_header
from scm.data.shards.shards import write_latents
from scm.errors import UserError
from scm.evaluation import by_time
from scm.evaluation.by_time import Noised, distances_by_time, samples_of, times_of, way_back
from scm.evaluation.frechet import distance_between
from scm.evaluation.selection import Measured, Selection
from scm.evaluation.statistics import statistics_of
from scm.generation.generate import conditioned
from scm.results.reading import WITHOUT
from scm.samplers import SampleNoise
from tests.support.processes import together
from tests.support.projects import params_with

WIDTH, SIGMA_D, T_MAX = 0.25, 0.5, math.atan(80.0 / 0.5)
FEATURES, IMAGES = 2, 3000
HEADER: dict[str, Any] = {
    "model": "scd", "sigma_d": SIGMA_D, "t_max": T_MAX, "codec": plain_header("identity", SIGMA_D, [1, 2, 2]),
    "images": 1024, "sigma_rel": 0.1, "sampling": {1: {"guidance_scale": 1.0}, 2: {"guidance_scale": 1.0}},
}  # fmt: skip
TEACHER = {**HEADER, "model": "teacher", "sampling": {18: {"guidance_scale": 1.0}}}
ALONE = Ranks(0, 1, torch.device("cpu"))


def width_at(t: Tensor) -> Tensor:
    """Standard deviation of x_t."""
    return (torch.cos(t) ** 2 * WIDTH**2 + torch.sin(t) ** 2 * SIGMA_D**2).sqrt()


class Exact:
    """F of the flow of Gaussian data, x_s = x_t times the ratio of their widths, and of its velocity.

    Args:
        kind: "student", which jumps; or "teacher", which knows the velocity.
        wrong: the student's images are too wide by the factor 1 + wrong t.
    """

    settings = SimpleNamespace(guidance=False, segments=False)

    def __init__(self, kind: str = "student", wrong: float = 0.0) -> None:
        self.kind, self.wrong = kind, wrong

    def __call__(self, x: Tensor, t: Tensor, labels: Any = None, segment: Tensor | None = None) -> Tensor:
        x_t, s = x * SIGMA_D, torch.zeros_like(t) if segment is None else segment
        if self.kind == "teacher":
            rate = torch.cos(t) * torch.sin(t) * (SIGMA_D**2 - WIDTH**2) / width_at(t) ** 2
            return trigflow.per_sample(rate, x_t) * x_t / SIGMA_D
        x_s = trigflow.per_sample((1 + self.wrong * t) * width_at(s) / width_at(t), x_t) * x_t
        turn = trigflow.per_sample(t - s, x_t)
        return (torch.cos(turn) * x_t - x_s) / (torch.sin(turn) * SIGMA_D)


def images() -> Tensor:
    draws = torch.randn(IMAGES, 1, 2, 2, generator=torch.Generator().manual_seed(3)) * WIDTH
    return ((draws + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def latents_in(folder: Path) -> Path:
    samples = ((f"{place:06d}", image.numpy(), -1) for place, image in enumerate(images()))
    write_latents(samples, folder, 1000, {"codec": HEADER["codec"], "classes": []})
    return folder


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return latents_in(tmp_path_factory.mktemp("data") / "latents")


def features_of(pixels: Tensor) -> Tensor:
    return pixels.flatten(1)[:, :FEATURES].double() / 127.5 - 1


def selection_in(folder: Path, ranks: Ranks = ALONE, samples: int = 8000, batch: int = 512) -> Selection:
    real = statistics_of(features_of(images()))
    reference: Any = SimpleNamespace(
        extractor=SimpleNamespace(num_features=FEATURES),
        features_of=features_of,
        distance_of=lambda features: distance_between(real, statistics_of(features)),
    )
    params = params_with({"select.samples": samples})
    known = Measured(folder / "measured.jsonl", ranks)
    made = sampling.selection(params, reference, Codec(HEADER["codec"]), folder, ranks, lambda line: None, known)
    return replace(made, batch=batch)


def curve(
    selection: Selection, latents: Path, model: Any, monkeypatch: pytest.MonkeyPatch, header: dict[str, Any] = HEADER
) -> list[dict[str, float]]:
    monkeypatch.setattr(by_time, "model_of", lambda *_: model)
    return list(distances_by_time(selection, latents, {}, header, T_MAX))


@pytest.mark.parametrize(("kind", "header"), [("student", HEADER), ("teacher", TEACHER)])
def test_an_exact_model_stays_at_the_floor(tmp_path, latents, monkeypatch, kind, header):
    rows = curve(selection_in(tmp_path), latents, Exact(kind), monkeypatch, header)
    assert [row["t"] for row in rows] == [0.0, *by_time.TIMES, T_MAX]
    assert all(row["fd"] < 5e-4 for row in rows)
    assert all(sum(name.startswith(WITHOUT) for name in row) == 8 for row in rows)


def test_a_student_that_is_wrong_by_a_factor_that_grows_with_t_has_the_distance_of_two_normal_distributions(
    tmp_path, latents, monkeypatch
):
    """Of FEATURES independent numbers of widths s and k s it is FEATURES (k s - s)^2."""
    rows = curve(selection_in(tmp_path), latents, Exact(wrong=0.5), monkeypatch)
    for row in rows[1:]:
        assert row["fd"] == pytest.approx(FEATURES * (0.5 * row["t"] * WIDTH) ** 2, rel=0.15, abs=5e-4)
    assert all(below["fd"] < above["fd"] for below, above in pairwise(rows[1:]))


def test_each_kind_of_model_goes_its_own_way_back():
    t = torch.full((5,), 1.2)
    x_0, noise = torch.randn(5, 1, 2, 2) * WIDTH, SampleNoise(range(5), (1, 2, 2)).draw() * SIGMA_D
    x_t = trigflow.interpolate(x_0, noise, t)
    expected = x_t * WIDTH / trigflow.per_sample(width_at(t), x_t)
    segments = {**HEADER, "segments": 3, "sampling": {3: {"guidance_scale": 1.0}}}
    for header, kind, evaluations, off in (
        (HEADER, "student", 1, 1e-6), (segments, "student", 3, 1e-6), (TEACHER, "teacher", 11, 4e-2),
    ):  # fmt: skip
        sampler, function = way_back(header, 1.2), conditioned(cast(Any, Exact(kind)), torch.zeros(5), 1.0)
        found = sampler.run(function, Noised(x_0, 1.2, SIGMA_D, range(5)))
        assert sampler.nfe == evaluations
        torch.testing.assert_close(found, expected, rtol=off, atol=off)
    assert [way_back(segments, t).nfe for t in (0.3, 0.53, T_MAX)] == [1, 2, 3]
    assert [way_back(TEACHER, t).nfe for t in times_of(TEACHER, T_MAX)] == [3, 5, 7, 9, 13, 17]


def test_what_a_model_cannot_bring_back_is_left_out():
    """VSD's generator knows t_max alone; a flow map and a student of segments know every time."""
    one = {1: {"guidance_scale": 1.0}}
    assert times_of({"model": "vsd", "sampling": one}, T_MAX) == [T_MAX]
    for further in ({"any_steps": True, "sampling": one}, {"segments": 3, "sampling": {3: one[1]}}):
        assert times_of({"model": "x", **further}, T_MAX) == [*by_time.TIMES, T_MAX]
    assert times_of(HEADER, 1.0) == [0.3, 0.5, 0.8, 1.0]


def test_there_are_a_quarter_of_the_samples_but_twice_the_features_if_there_are_so_many():
    assert [samples_of(*given) for given in ((1797, 64), (768, 128), (100, 64), (4, 0))] == [449, 256, 100, 2]


def _part(ranks: Ranks, folder: Path, expected: list[dict[str, float]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        selection = selection_in(folder / "two", ranks, samples=200, batch=8)
        rows = curve(selection, folder / "latents", Exact(wrong=0.5), patch)
        assert ranks.rank or rows == expected


def test_neither_the_batch_nor_the_number_of_processes_nor_an_interruption_changes_a_bit(tmp_path, monkeypatch):
    latents = latents_in(tmp_path / "latents")
    for name in ("one", "other", "two"):
        (tmp_path / name).mkdir()
    expected = curve(selection_in(tmp_path / "one", samples=200), latents, Exact(wrong=0.5), monkeypatch)
    other = selection_in(tmp_path / "other", samples=200, batch=7)
    assert curve(other, latents, Exact(wrong=0.5), monkeypatch) == expected
    together(2, _part, tmp_path, expected)

    monkeypatch.setattr(by_time, "way_back", lambda *_: pytest.fail("a known distance was measured again"))
    assert curve(selection_in(tmp_path / "one", samples=200), latents, Exact(wrong=0.5), monkeypatch) == expected


def test_latents_of_another_codec_are_refused(tmp_path, latents, monkeypatch):
    selection = replace(selection_in(tmp_path), codec=Codec(plain_header("identity", 0.4, [1, 2, 2])))
    with pytest.raises(UserError, match="latents was made with another codec"):
        curve(selection, latents, Exact(), monkeypatch)
