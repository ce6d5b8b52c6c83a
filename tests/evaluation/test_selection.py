"""Which average is kept, and the figures along a run: sampling and the reference are stand-ins that know the answer."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from scm.base import weights
from scm.base.distributed import Ranks
from scm.build import sampling
from scm.data.latents.codec import Codec, plain_header
from scm.ema.reconstruct import HALFLIFE_FILE, reconstruct, snapshot_file
from scm.errors import UserError
from scm.evaluation import selection
from scm.evaluation.candidates import Candidate, Way, better_half, between, chosen, finer_lengths, finer_ways, telling
from scm.evaluation.selection import Measured, Selection
from scm.generation.sampler import Sampler, consistency_sampler
from scm.generation.trained import guided_by, model_of
from tests.support.models import tiny_model
from tests.support.processes import together
from tests.support.projects import params_with

TIMES = (100, 200, 300, 400, 500)
PROFILES = (0.05, 0.10)
BIAS = "log_weight_head.linear.bias"
T_MAX = math.atan(80.0 / 0.5)
VSD = {
    "images": "128Ki", "dropout": 0.0, "vsd": {"weight": 1.0, "p_mean": 0.4, "p_std": 2.0},
    "fake_score": {"lr_max": 1e-4, "dropout": 0.0, "p_mean": -0.8, "p_std": 1.6, "updates": 1},
}  # fmt: skip


CODEC = Codec(plain_header("identity", 0.5, [1, 8, 8]))
ALONE = Ranks(0, 1, torch.device("cpu"))


def run_of(folder: Path, model: str, times: tuple[int, ...] = TIMES, **changes: Any) -> Path:
    """Snapshots in which one weight says which they are."""
    net = tiny_model(guidance="guidance" in changes, segments="segments" in changes)
    buffers = [name for name in net.state_dict() if name.endswith((".freqs", ".phases"))]
    header = {
        "model": model, "network": net.settings.to_dict(), "precision": "fp32", "sigma_d": 0.5, "t_max": T_MAX,
        "buffers": buffers, "classes": ["0", "1", "2"], "codec": plain_header("identity", 0.5, [1, 8, 8]), **changes,
    }  # fmt: skip
    for images in times:
        for sigma_rel in PROFILES:
            state = {**net.state_dict(), BIAS: torch.tensor([images * (1 + sigma_rel)])}
            weights.save(
                folder / snapshot_file(images, sigma_rel), state, {"images": images, "sigma_rel": sigma_rel, **header}
            )
    return folder


@pytest.fixture
def drawn(monkeypatch) -> list[SimpleNamespace]:
    """What was sampled: the weight that names the model, the sampler's times, labels, seeds, guidance."""
    calls: list[SimpleNamespace] = []

    def batches(model, sampler, seeds, labels, shape, batch, device, guidance, rank, world):
        times: list[float] = []

        def function(x, t, *_):
            times.append(float(t[0]))
            return torch.zeros_like(x)

        sampler.run(function, SimpleNamespace(draw=lambda: torch.zeros(1, *shape)))
        weight = float(model.state_dict()[BIAS])
        calls.append(
            SimpleNamespace(
                times=times,
                weight=weight,
                labels=labels.tolist(),
                seeds=seeds,
                guidance=guidance,
                guided=model.guide is not None,
            )
        )
        yield slice(0, len(seeds)), torch.zeros(len(seeds), *shape), 0.0

    monkeypatch.setattr(selection, "batches", batches)
    return calls


def selection_of(folder: Path, drawn: list[Any], figure: Callable[[Any], float], **changes: Any) -> Selection:
    """A selection whose distance is `figure` of what was sampled last."""
    params = params_with({"select.samples": 6, "select.progress": 4, "select.t_mid": [0.6, 0.8], **changes})
    reference: Any = SimpleNamespace(
        labels=torch.tensor([2, 0, 1]),
        extractor=SimpleNamespace(num_features=64),
        features_of=lambda images: images.flatten(1).double(),
        distance_of=lambda features: figure(drawn[-1]),
    )
    known = Measured(folder / "measured.jsonl", ALONE)
    return sampling.selection(params, reference, CODEC, folder, ALONE, lambda line: None, known)


def test_of_a_teacher_the_length_is_chosen_with_its_full_sampler(tmp_path, drawn):
    figures = {0.03: 3.0, 0.05: 1.0, 0.2: 2.0}
    folder = run_of(tmp_path, "teacher")
    weight = {sigma_rel: float(reconstruct(folder, sigma_rel)[0][BIAS]) for sigma_rel in figures}
    searched = selection_of(folder, drawn, lambda call: next(f for s, f in figures.items() if weight[s] == call.weight))
    state, header, rows = searched.best(tuple(figures))
    assert rows == [{"sigma_rel": sigma_rel, "fd": fd, "noise": 0.0} for sigma_rel, fd in figures.items()]
    assert (header["sigma_rel"], header["sampling"]) == (0.05, {18: {"guidance_scale": 1.0}})
    assert state[BIAS] == weight[0.05]
    for call in drawn:
        assert (len(call.times), call.seeds, call.guidance) == (35, range(6), 1.0)
        assert call.labels == [0, 0, 1, 1, 2, 2]


def test_each_average_of_a_teacher_is_sampled_with_its_guide_and_kept_with_it(tmp_path, drawn):
    folder, guide = run_of(tmp_path, "teacher"), tiny_model(5, width=16, classes=0)
    entry = {"network": guide.settings.to_dict(), "file": "guide.pkl"}
    changes = {"select.guide": "guide.pkl", "select.guidance.teacher": [1.0, 1.5]}
    searched = selection_of(folder, drawn, lambda call: abs(call.guidance - 1.5), **changes)
    searched = replace(searched, guide=lambda average: guided_by(*average, guide.state_dict(), entry))
    state, header, rows = searched.best((0.05, 0.1))
    assert [row["guidance"] for row in rows] == [1.0, 1.5] * 2 and header["sampling"] == {18: {"guidance_scale": 1.5}}
    assert all(call.guided for call in drawn) and header["guide"] == entry
    model = model_of(state, header, "cpu")
    assert all(torch.equal(value, guide.state_dict()[name]) for name, value in model.guide.state_dict().items())
    assert len(list(searched.progress(header, rows[1]))) == 1


@pytest.mark.parametrize("model", ["scd", "sct", "discrete", "scd_vsd"])
def test_of_a_student_the_second_step_is_chosen_as_well(tmp_path, drawn, model):
    folder = run_of(tmp_path, model)
    weight = float(reconstruct(folder, 0.1)[0][BIAS])

    def figure(call: Any) -> float:
        worse = 0.0 if call.weight == weight else 4.0
        return worse + (7.0 if len(call.times) == 1 else 2.0 - call.times[1])

    state, header, rows = selection_of(folder, drawn, figure).best((0.05, 0.1))
    assert rows == [
        {"sigma_rel": 0.05, "steps": 2, "t_mid": 0.6, "fd": pytest.approx(5.4), "noise": 0.0},
        {"sigma_rel": 0.05, "steps": 2, "t_mid": 0.8, "fd": pytest.approx(5.2), "noise": 0.0},
        {"sigma_rel": 0.1, "steps": 2, "t_mid": 0.6, "fd": pytest.approx(1.4), "noise": 0.0},
        {"sigma_rel": 0.1, "steps": 2, "t_mid": 0.8, "fd": pytest.approx(1.2), "noise": 0.0},
        {"sigma_rel": 0.1, "steps": 1, "fd": 7.0, "noise": 0.0},
    ]
    choices = {1: {"guidance_scale": 1.0}, 2: {"guidance_scale": 1.0, "t_mid": 0.8}}
    assert (header["sigma_rel"], header["sampling"], state[BIAS]) == (0.1, choices, weight)
    assert chosen(rows) == {
        "sigma_rel": 0.1, "t_mid": 0.8, "fd": pytest.approx(1.2), "candidates": 4, "within_noise": 1, "fd_1step": 7.0,
    }  # fmt: skip
    assert {tuple(round(t, 4) for t in call.times) for call in drawn} == {
        (round(T_MAX, 4),), (round(T_MAX, 4), 0.6), (round(T_MAX, 4), 0.8),
    }  # fmt: skip


@pytest.mark.parametrize(("model", "steps"), [("vsd", 1), ("multistep", 3)])
def test_what_is_sampled_in_one_way_only_has_no_second_step_to_choose(tmp_path, drawn, model, steps):
    folder = run_of(tmp_path, model, **({"segments": 3} if model == "multistep" else {}))
    searched = selection_of(folder, drawn, lambda call: 1.0 + len(drawn))
    _state, header, rows = searched.best((0.05, 0.1))
    assert rows == [{"sigma_rel": 0.05, "fd": 2.0, "noise": 0.0}, {"sigma_rel": 0.1, "fd": 3.0, "noise": 0.0}]
    assert (header["sigma_rel"], header["sampling"]) == (0.05, {steps: {"guidance_scale": 1.0}})
    assert all(call.times == pytest.approx([T_MAX * k / steps for k in range(steps, 0, -1)]) for call in drawn)
    points = list(searched.progress(header, rows[0]))
    assert [set(point) for point in points] == [{"images", "fd"}] * 4 and points[-1]["fd"] == 2.0


def test_guided_models_are_measured_at_their_scale(tmp_path, drawn):
    changes = {
        "teacher.label_dropout": 0.1, "select.guidance": {"teacher": [1.4], "student": [1.6]},
        "student.methods": {"vsd": "teacher"}, "evaluate.models": ["teacher", "vsd"],
        "student.vsd": {**VSD, "guidance": [1.0, 2.0]},
    }  # fmt: skip
    kinds = (("teacher", {"label_dropout": 0.1}, 1.4), ("vsd", {"guidance": [1.0, 2.0]}, 1.6), ("sct", {}, 1.0))
    for model, header, scale in kinds:
        drawn.clear()
        folder = run_of(tmp_path / model, model, **header)
        _state, found, rows = selection_of(folder, drawn, lambda call: 1.0, **changes).best((0.05,))
        scales = {choice["guidance_scale"] for choice in found["sampling"].values()}
        assert {call.guidance for call in drawn} == {scale} == scales, model
        assert "guidance" not in rows[0] and found.get("guidance") == header.get("guidance"), model


@pytest.mark.parametrize(
    ("number", "images"), [(4, [100, 200, 300, 500]), (5, list(TIMES)), (2, [200, 500]), (1, [500])]
)
def test_progress_measures_the_choice_along_the_run(tmp_path, drawn, number, images):
    """The last point is the choice's own figures: it is not measured once more."""
    folder = run_of(tmp_path, "scd")
    searched = selection_of(folder, drawn, lambda call: call.weight + len(call.times), **{"select.progress": number})
    _, header = reconstruct(folder, 0.08)
    choice = {"sigma_rel": 0.08, "t_mid": 0.8, "fd": 1002.0, "fd_1step": 1001.0}
    sampling = {1: {"guidance_scale": 1.0}, 2: {"guidance_scale": 1.0, "t_mid": 0.8}}
    points = list(searched.progress({**header, "sampling": sampling}, choice))
    expected = [float(reconstruct(folder, 0.08, until=seen)[0][BIAS]) for seen in images[:-1]] + [1000.0]
    assert [point["images"] for point in points] == images
    assert [point["fd"] for point in points] == pytest.approx([weight + 2 for weight in expected])
    assert [point["fd_1step"] for point in points] == pytest.approx([weight + 1 for weight in expected])
    assert {round(call.times[1], 4) for call in drawn if len(call.times) == 2} == ({0.8} if number > 1 else set())
    assert len(drawn) == 2 * (len(images) - 1)
    assert expected[:-1] == sorted(expected[:-1])


def test_the_average_with_a_half_life_takes_part_and_has_one_point(tmp_path, drawn):
    """Nothing can be reconstructed of it from before the end."""
    folder = run_of(tmp_path, "scd")
    state, header = weights.load(folder / snapshot_file(500, 0.05))
    weights.save(
        folder / HALFLIFE_FILE, {**state, BIAS: torch.tensor([7.0])}, {**header, "sigma_rel": 0.004, "halflife": 9}
    )
    searched = selection_of(folder, drawn, lambda call: abs(call.weight - 7.0))
    state, header, rows = searched.best((0.05,))
    assert [row["sigma_rel"] for row in rows] == [0.05, 0.05, 0.004, 0.004, 0.004]
    assert (header["sigma_rel"], header["sampling"][2]["t_mid"], rows[-1]["fd"]) == (0.004, 0.6, 0.0)
    assert list(searched.progress(header, chosen(rows))) == [{"images": 500, "fd": 0.0, "fd_1step": 0.0}]


@pytest.mark.parametrize("sigma_rel", [None, 0.075])
def test_an_imported_teacher_is_measured_as_it_is(tmp_path, drawn, sigma_rel):
    """One snapshot, whose length is not known for every file: one row, one point."""
    folder = run_of(tmp_path, "teacher", times=(500,), sigma_rel=sigma_rel)
    (folder / snapshot_file(500, 0.10)).unlink()
    searched = selection_of(folder, drawn, lambda call: 1.5)
    _state, header, rows = searched.best((0.03, 0.05))
    assert rows == [({} if sigma_rel is None else {"sigma_rel": 0.075}) | {"fd": 1.5, "noise": 0.0}]
    assert list(searched.progress(header, rows[0])) == [{"images": 500, "fd": 1.5}]


def test_a_teachers_progress_is_its_end(tmp_path, drawn):
    searched = selection_of(run_of(tmp_path, "teacher"), drawn, lambda call: 1.5)
    _, header, rows = searched.best((0.05,))
    drawn.clear()
    assert list(searched.progress(header, rows[0])) == [{"images": 500, "fd": 1.5}] and not drawn


def test_without_any_finite_distance_nothing_is_chosen(tmp_path, drawn):
    folder = run_of(tmp_path / "scd/snapshots", "scd")
    with pytest.raises(UserError) as caught:
        selection_of(folder, drawn, lambda call: math.inf).best((0.05, 0.1))
    assert str(caught.value) == "scd: no average has a finite Frechet distance; see the curves of its training"


def test_a_finer_search_closes_in_on_the_best_length_and_second_step(tmp_path, drawn, monkeypatch):
    """Of a distance that is lowest at length 0.08 and t_mid 0.7."""
    folder, model_of, lengths = run_of(tmp_path, "scd"), selection.model_of, list[float]()

    def noted(state, header, device):
        lengths.append(header["sigma_rel"])
        return model_of(state, header, device)

    def figure(call: Any) -> float:
        return 1 + abs(math.log(lengths[-1] / 0.08)) + (abs(call.times[1] - 0.7) if len(call.times) > 1 else 5.0)

    monkeypatch.setattr(selection, "model_of", noted)
    changes, given = {"select.t_mid": [0.4, 0.6, 0.9]}, (0.03, 0.05, 0.1, 0.2)
    coarse = selection_of(folder, drawn, figure, **changes).best(given)
    fine = selection_of(folder, drawn, figure, **changes, **{"select.refine": 4}).best(given)
    assert (coarse[1]["sigma_rel"], coarse[1]["sampling"][2]["t_mid"]) == (0.1, 0.6)
    assert fine[1]["sigma_rel"] == pytest.approx(0.08, rel=0.03)
    assert fine[1]["sampling"][2]["t_mid"] == pytest.approx(0.7, abs=0.03)
    assert [row["fd"] for row in fine[2][:12]] == [row["fd"] for row in coarse[2][:12]]
    assert len(fine[2]) <= 12 + 4 * 4 + 1
    assert torch.equal(fine[0][BIAS], reconstruct(folder, fine[1]["sigma_rel"])[0][BIAS])


def test_the_next_candidates_lie_halfway_to_the_neighbours():
    rows = [{"sigma_rel": length} for length in (0.05, 0.1, 0.2)]
    assert finer_lengths(rows, {"sigma_rel": 0.1}) == [0.0707, 0.1414]
    assert finer_lengths(rows, {"sigma_rel": 0.1, "halflife": 9}) == finer_lengths([{}], {"sigma_rel": None}) == []
    assert finer_lengths(rows[:2], {"sigma_rel": 0.1}) == [0.0707]
    ways = [Way(2, scale, t_mid) for scale in (2.0, 1.25, 1.0) for t_mid in (0.4, 0.8)]
    assert finer_ways(ways, Way(2, 1.25, 0.4)) == [(2, 1.125, 0.4), (2, 1.625, 0.4), (2, 1.25, 0.6)]
    assert finer_ways([Way(1, 1.0), Way(1, 2.0)], Way(1, 2.0)) == [(1, 1.5, None)]
    assert finer_ways([Way(18, 1.0)], Way(18, 1.0)) == []
    assert finer_ways([Way(1, 1.0), Way(2, 1.0, 0.8)], Way(1, 1.0)) == []
    assert finer_ways([Way(2, 1.0, 0.8), Way(2, 1.0, 0.8112)], Way(2, 1.0, 0.8)) == [(2, 1.0, 0.806)]
    assert between([0.1, 0.1001], 0.1, lambda a, b: (a + b) / 2, 4) == []


GUIDED = {
    "teacher.label_dropout": 0.1, "student.methods": {"scd": "teacher"}, "evaluate.models": ["teacher", "scd"],
    "student.scd": {"images": "128Ki", "dropout": 0.0, "guidance": [1.0, 2.0]}, "select.t_mid": [0.4, 0.9],
    "select.guidance": {"teacher": [1.0, 1.5, 2.0], "student": [1.0, 1.5, 2.0]},
}  # fmt: skip


def valley(length: float, guidance: float, t_mid: float) -> Callable[[Any], float]:
    """A distance that is lowest in one place; the length is told by the weight, whose profile is a narrow one."""

    def figure(call: Any) -> float:
        off = abs(call.times[1] - t_mid) if len(call.times) == 2 else 5.0
        return 1 + abs(call.weight - length) / 100 + abs(call.guidance - guidance) + off

    return figure


def test_length_guidance_scale_and_second_step_are_searched_together(tmp_path, drawn):
    folder = run_of(tmp_path, "scd", guidance=[1.0, 2.0])
    weight = float(reconstruct(folder, 0.1)[0][BIAS])
    state, header, rows = selection_of(folder, drawn, valley(weight, 1.55, 0.8), **GUIDED).best((0.05, 0.1))
    choices = {1: {"guidance_scale": 1.5}, 2: {"guidance_scale": 1.5, "t_mid": 0.9}}
    assert (header["sigma_rel"], header["sampling"]) == (0.1, choices)
    assert header["guidance"] == [1.0, 2.0] and state[BIAS] == weight
    assert [(row["sigma_rel"], row["steps"], row["guidance"], row.get("t_mid")) for row in rows] == [
        *((s, 2, g, t) for s in (0.05, 0.1) for g in (1.0, 1.5, 2.0) for t in (0.4, 0.9)),
        *((0.1, 1, g, None) for g in (1.0, 1.5, 2.0)),
    ]
    assert chosen(rows) == {
        "sigma_rel": 0.1, "guidance": 1.5, "t_mid": 0.9, "fd": pytest.approx(1.15), "candidates": 12, "within_noise": 1,
        "guidance_1step": 1.5, "fd_1step": pytest.approx(6.05), "candidates_1step": 3, "within_noise_1step": 1,
    }  # fmt: skip


def test_one_step_has_another_scale_than_two(tmp_path, drawn):
    """As table 6 has it; the average is that of two steps, and the finer search goes on in one step as well."""
    folder = run_of(tmp_path, "scd", guidance=[1.0, 2.0])
    weight = {length: float(reconstruct(folder, length)[0][BIAS]) for length in (0.05, 0.1)}

    def figure(call: Any) -> float:
        scale, length = (1.7, 0.05) if len(call.times) == 1 else (1.2, 0.1)
        return 1 + abs(call.guidance - scale) + abs(call.weight - weight[length]) / 100

    settings = {**GUIDED, "select.t_mid": [0.8], "select.refine": 3}
    searched = selection_of(folder, drawn, figure, **settings)
    _, header, rows = searched.best((0.05, 0.1))
    one, two = (header["sampling"][steps]["guidance_scale"] for steps in (1, 2))
    assert (header["sigma_rel"], one, two) == (0.1, pytest.approx(1.7, abs=0.07), pytest.approx(1.2, abs=0.07))
    assert (chosen(rows)["guidance_1step"], chosen(rows)["guidance"]) == (one, two)
    drawn.clear()
    assert {"fd", "fd_1step"} < next(searched.progress(header, chosen(rows))).keys()
    assert {(len(call.times), call.guidance) for call in drawn} == {(1, one), (2, two)}


def test_a_model_of_any_steps_has_a_scale_for_each_and_no_t_mid(tmp_path, drawn):
    folder = run_of(tmp_path, "scd", guidance=[1.0, 2.0])
    best = {1: 2.0, 2: 1.5, 4: 1.0}
    plain = selection_of(folder, drawn, lambda call: abs(call.guidance - best[len(call.times)]) + 1, **GUIDED)
    ways = [Way(steps, scale) for steps in best for scale in best.values()]

    def sampler(header: dict[str, Any], steps: int) -> Sampler:
        return consistency_sampler([T_MAX * (1 - step / steps) for step in range(steps)], 0.5)

    searched = replace(plain, ways=lambda header: ways, sampler=sampler)
    _, header, rows = searched.best((0.1,))
    assert header["sampling"] == {steps: {"guidance_scale": scale} for steps, scale in best.items()}
    (point, *_) = searched.progress(header, chosen(rows))
    assert point == {"images": 100, "fd": 1.0, "fd_2step": 1.0, "fd_1step": 1.0}


def test_a_finer_search_closes_in_on_the_best_guidance_scale(tmp_path, drawn):
    """Of a student together with the second step; of an imported teacher, whose length is given, alone."""
    folder = run_of(tmp_path / "scd", "scd", guidance=[1.0, 2.0])
    weight = float(reconstruct(folder, 0.1)[0][BIAS])
    refined = {**GUIDED, "select.refine": 4}
    _, header, rows = selection_of(folder, drawn, valley(weight, 1.3, 0.77), **refined).best((0.05, 0.1, 0.2))
    two = header["sampling"][2]
    assert two["guidance_scale"] == pytest.approx(1.3, abs=0.03) and two["t_mid"] == pytest.approx(0.77, abs=0.03)
    assert header["sigma_rel"] == 0.1 and all(row["guidance"] == round(row["guidance"], 3) for row in rows)
    points = list(selection_of(folder, drawn, valley(weight, 1.3, 0.77), **refined).progress(header, chosen(rows)))
    scales = {choice["guidance_scale"] for choice in header["sampling"].values()}
    assert {call.guidance for call in drawn[-2 * (len(points) - 1) :]} == scales
    folder = run_of(tmp_path / "teacher", "teacher", times=(500,), sigma_rel=None, label_dropout=0.1)
    (folder / snapshot_file(500, 0.10)).unlink()
    _, header, rows = selection_of(folder, drawn, lambda call: abs(call.guidance - 1.7), **refined).best((0.03, 0.05))
    assert header["sampling"] == {18: {"guidance_scale": pytest.approx(1.7, abs=0.03)}} and header["sigma_rel"] is None
    assert [row["guidance"] for row in rows[:5]] == [1.0, 1.5, 2.0, 1.25, 1.75]


def test_a_first_look_sorts_out_the_worse_half(tmp_path, drawn):
    """The distances on few samples are the smaller ones here, which must not matter."""
    folder = run_of(tmp_path, "scd", guidance=[1.0, 2.0])
    few = {(0.05, 1.0): 1.1, (0.05, 1.5): 1.0, (0.05, 2.0): 1.4, (0.1, 1.0): 1.3, (0.1, 1.5): 0.9, (0.1, 2.0): 1.2}
    many = {
        (0.05, 1.0): 5,
        (0.05, 1.5): 4,
        (0.05, 2.0): 9,
        (0.1, 1.5): 6,
        (0.0707, 1.5): 8,
        (0.05, 1.25): 3,
        (0.05, 1.75): 7,
    }
    weights_of = {float(reconstruct(folder, s)[0][BIAS]): s for s in (0.05, 0.0707, 0.1)}

    def figure(call: Any) -> float:
        return (few if len(call.seeds) == 3 else many)[weights_of[call.weight], call.guidance] - len(call.times) / 4

    settings = {**GUIDED, "select.t_mid": [0.8], "select.coarse": 3, "select.refine": 1}
    searched = selection_of(folder, drawn, figure, **settings)
    _, header, rows = searched.best((0.05, 0.1))
    assert [(row["sigma_rel"], row["guidance"], row["fd"]) for row in rows if row["samples"] == 3] == [
        (*place, fd - 0.5) for place, fd in few.items()
    ]
    whole = [(row["sigma_rel"], row["guidance"]) for row in rows if row["samples"] == 6 and row["steps"] == 2]
    # 2.0 fell out, and is a neighbour still
    assert whole == [(0.05, 1.0), (0.05, 1.5), (0.1, 1.5), (0.0707, 1.5), (0.05, 1.25), (0.05, 1.75)]
    one_step = [row for row in rows if row["steps"] == 1]
    assert [row["guidance"] for row in one_step] == [1.0, 1.5, 2.0, 1.25, 1.75], "of the chosen average, all scales"
    assert [row["samples"] for row in rows] == [3] * 6 + [6] * (6 + 5)
    assert all(("noise" in row) == (row["samples"] == 6) for row in rows)
    assert (header["sigma_rel"], header["sampling"][2], chosen(rows)["fd"]) == (
        0.05, {"guidance_scale": 1.25, "t_mid": 0.8}, 2.5,
    )  # fmt: skip
    assert {call.seeds for call in drawn} == {range(3), range(6)}
    assert len(drawn) == 6 + 6 + 5
    assert selection_of(folder, drawn, figure, **settings).best((0.05, 0.1))[1:] == (header, rows)
    assert len(drawn) == 6 + 6 + 5, "nothing is measured twice"
    drawn.clear()
    plain = run_of(tmp_path / "plain", "scd", guidance=[1.0, 2.0])
    rows = selection_of(plain, drawn, lambda call: 1.0, **{**settings, "select.samples": 3}).best((0.05,))[2]
    assert len(rows) == 4 + 4 and all("samples" not in row for row in rows), "as many samples as decide: no first look"


def test_figures_on_different_numbers_of_samples_are_not_compared():
    rows = [
        {"guidance": 1.0, "samples": 3, "fd": 0.5},
        *({"guidance": 1.0, "samples": 6, "fd": fd} for fd in (4, 3, 5)),
    ]
    assert chosen(rows) == {"guidance": 1.0, "samples": 6, "fd": 3}
    told = [{"steps": 2, **row} for row in rows]
    assert telling(told) == [{"samples": row["samples"], "fd": row["fd"]} for row in rows]
    assert telling(told[1:]) == [{"fd": 4}, {"fd": 3}, {"fd": 5}]
    assert chosen([{"fd": math.nan}, {"fd": 2.0}, {"fd": math.inf}]) == {"fd": 2.0}
    found = [Candidate(row, Way(2, 1.0), ()) for row in rows]
    assert [each.row["fd"] for each in better_half(found)] == [0.5, 3]
    lost = Candidate({"fd": math.nan}, Way(2, 1.0), ())
    assert [each.row["fd"] for each in better_half([*found, lost])] == [0.5, 3, 4]
    assert better_half(found[:1]) == found[:1]


def test_an_interrupted_search_measures_what_is_missing(tmp_path, drawn):
    """The file ends in half a line, as kill -9 may leave it."""
    folder = run_of(tmp_path, "scd", guidance=[1.0, 2.0])

    def figure(call: Any) -> float:
        return call.weight + sum(call.times) + call.guidance

    whole = selection_of(folder, drawn, figure, **GUIDED)
    _, header, rows = whole.best((0.05, 0.1))
    points = list(whole.progress(header, chosen(rows)))
    number, file = len(drawn), folder / "measured.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == number == len(set(lines))
    file.write_bytes(b"".join(lines[:3]) + lines[3][:-4])
    drawn.clear()
    again = selection_of(folder, drawn, figure, **GUIDED)
    assert again.best((0.05, 0.1))[1:] == (header, rows) and list(again.progress(header, chosen(rows))) == points
    assert len(drawn) == number - 3 and file.read_bytes() == b"".join(lines)
    # Damaged lines are measured again, not believed.
    content = bytearray(file.read_bytes())
    for place in (5, len(lines[0]) - 4, len(content) - 4):  # in a hash, in two distances
        content[place] ^= 1
    file.write_bytes(content)
    drawn.clear()
    again = selection_of(folder, drawn, figure, **GUIDED)
    assert again.best((0.05, 0.1))[1:] == (header, rows) and list(again.progress(header, chosen(rows))) == points
    assert len(drawn) == 2 and sorted(file.read_bytes().splitlines(keepends=True)) == sorted(lines)


def _averages_on_two_machines(ranks: Ranks, folder: Path) -> None:
    """The second one has no snapshots."""
    elsewhere = replace(
        selection_of(folder, [], lambda call: 0.0),
        ranks=ranks,
        snapshots=folder if ranks.rank == 0 else folder / "none",
    )
    for found, sigma_rel in zip(elsewhere._given((0.05, 0.1)), (0.05, 0.1), strict=True):
        state, header = reconstruct(folder, sigma_rel)
        assert found[1] == header and all(torch.equal(found[0][name], value) for name, value in state.items())
    neighbour = Candidate({"sigma_rel": 0.05}, Way(18, 1.0), ())
    ((found, _, _),) = elsewhere._finer([neighbour], {}, header, Way(18, 1.0), other_lengths=True)
    assert torch.equal(found[BIAS], reconstruct(folder, 0.0707)[0][BIAS])


def test_averages_are_read_by_one_process_for_all(tmp_path):
    together(2, _averages_on_two_machines, run_of(tmp_path, "teacher"))
