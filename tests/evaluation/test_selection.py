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
from scm.evaluation.selection import Measured, Selection, better_half, between, chosen, finer, telling
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
            SimpleNamespace(times=times, weight=weight, labels=labels.tolist(), seeds=seeds, guidance=guidance)
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
    assert rows == [{"sigma_rel": sigma_rel, "fd": fd} for sigma_rel, fd in figures.items()]
    assert header["sigma_rel"] == 0.05 and "t_mid" not in header and state[BIAS] == weight[0.05]
    for call in drawn:
        assert (len(call.times), call.seeds, call.guidance) == (35, range(6), 1.0)
        assert call.labels == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("model", ["scd", "sct", "discrete", "scd_vsd"])
def test_of_a_student_the_second_step_is_chosen_as_well(tmp_path, drawn, model):
    folder = run_of(tmp_path, model)
    weight = float(reconstruct(folder, 0.1)[0][BIAS])

    def figure(call: Any) -> float:
        worse = 0.0 if call.weight == weight else 4.0
        return worse + (7.0 if len(call.times) == 1 else 2.0 - call.times[1])

    state, header, rows = selection_of(folder, drawn, figure).best((0.05, 0.1))
    assert rows == [
        {"sigma_rel": 0.05, "t_mid": 0.6, "fd": pytest.approx(5.4), "fd_1step": 11.0},
        {"sigma_rel": 0.05, "t_mid": 0.8, "fd": pytest.approx(5.2), "fd_1step": 11.0},
        {"sigma_rel": 0.1, "t_mid": 0.6, "fd": pytest.approx(1.4), "fd_1step": 7.0},
        {"sigma_rel": 0.1, "t_mid": 0.8, "fd": pytest.approx(1.2), "fd_1step": 7.0},
    ]
    assert (header["sigma_rel"], header["t_mid"], state[BIAS]) == (0.1, 0.8, weight)
    assert {tuple(round(t, 4) for t in call.times) for call in drawn} == {
        (round(T_MAX, 4),), (round(T_MAX, 4), 0.6), (round(T_MAX, 4), 0.8),
    }  # fmt: skip


@pytest.mark.parametrize(("model", "steps"), [("vsd", 1), ("multistep", 3), ("meanflow", 4)])
def test_what_is_sampled_in_one_way_only_has_no_second_step_to_choose(tmp_path, drawn, model, steps):
    folder = run_of(tmp_path, model, **{"multistep": {"segments": 3}, "meanflow": {"any_steps": True}}.get(model, {}))
    searched = selection_of(folder, drawn, lambda call: 1.0 + len(drawn))
    _state, header, rows = searched.best((0.05, 0.1))
    assert rows == [{"sigma_rel": 0.05, "fd": 2.0}, {"sigma_rel": 0.1, "fd": 3.0}]
    assert header["sigma_rel"] == 0.05 and "t_mid" not in header
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
        assert {call.guidance for call in drawn} == {scale} == {found["guidance_scale"]}, model
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
    points = list(searched.progress({**header, "guidance_scale": 1.0, "t_mid": 0.8}, choice))
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
    assert [row["sigma_rel"] for row in rows] == [0.05, 0.05, 0.004, 0.004]
    assert (header["sigma_rel"], header["t_mid"], rows[-1]["fd"]) == (0.004, 0.6, 0.0)
    assert list(searched.progress(header, rows[2])) == [{"images": 500, "fd": 0.0, "fd_1step": 0.0}]


@pytest.mark.parametrize("sigma_rel", [None, 0.075])
def test_an_imported_teacher_is_measured_as_it_is(tmp_path, drawn, sigma_rel):
    """One snapshot, whose length is not known for every file: one row, one point."""
    folder = run_of(tmp_path, "teacher", times=(500,), sigma_rel=sigma_rel)
    (folder / snapshot_file(500, 0.10)).unlink()
    searched = selection_of(folder, drawn, lambda call: 1.5)
    _state, header, rows = searched.best((0.03, 0.05))
    assert rows == [{"fd": 1.5} if sigma_rel is None else {"sigma_rel": 0.075, "fd": 1.5}]
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
    assert (coarse[1]["sigma_rel"], coarse[1]["t_mid"]) == (0.1, 0.6)
    assert fine[1]["sigma_rel"] == pytest.approx(0.08, rel=0.03) and fine[1]["t_mid"] == pytest.approx(0.7, abs=0.03)
    assert fine[2][:12] == coarse[2] and len(fine[2]) <= 12 + 4 * 4
    assert torch.equal(fine[0][BIAS], reconstruct(folder, fine[1]["sigma_rel"])[0][BIAS])


def test_the_next_candidates_lie_halfway_to_the_neighbours():
    rows = [
        {"sigma_rel": s, "guidance": g, "t_mid": t}
        for s in (0.05, 0.1, 0.2)
        for g in (2.0, 1.25, 1.0)
        for t in (0.4, 0.8)
    ]
    best = {"sigma_rel": 0.1, "guidance_scale": 1.25, "t_mid": 0.4}
    ways = [(1.125, 0.4), (1.625, 0.4), (1.25, 0.6)]
    assert finer(rows, best) == ([0.0707, 0.1414], ways)
    assert finer(rows, {**best, "halflife": 9}) == finer(rows, {**best, "sigma_rel": None}) == ([], ways)
    teachers = [{"sigma_rel": 0.05, "guidance": 1.0}, {"sigma_rel": 0.1, "guidance": 1.0}]
    assert finer(teachers, {"sigma_rel": 0.1, "guidance_scale": 1.0}) == ([0.0707], [])
    assert finer([{"guidance": 1.0}], {"sigma_rel": None, "guidance_scale": 1.0}) == ([], [])
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
    assert (header["sigma_rel"], header["guidance_scale"], header["t_mid"]) == (0.1, 1.5, 0.9)
    assert header["guidance"] == [1.0, 2.0] and state[BIAS] == weight
    assert [(row["sigma_rel"], row["guidance"], row["t_mid"]) for row in rows] == [
        (s, g, t) for s in (0.05, 0.1) for g in (1.0, 1.5, 2.0) for t in (0.4, 0.9)
    ]
    assert chosen(rows) == {
        "sigma_rel": 0.1, "guidance": 1.5, "t_mid": 0.9, "fd": pytest.approx(1.15), "fd_1step": pytest.approx(6.05),
    }  # fmt: skip
    assert len(drawn) == 2 * 3 * (2 + 1), "one step does not depend on t_mid, but on the scale"


def test_a_finer_search_closes_in_on_the_best_guidance_scale(tmp_path, drawn):
    """Of a student together with the second step; of an imported teacher, whose length is given, alone."""
    folder = run_of(tmp_path / "scd", "scd", guidance=[1.0, 2.0])
    weight = float(reconstruct(folder, 0.1)[0][BIAS])
    refined = {**GUIDED, "select.refine": 4}
    _, header, rows = selection_of(folder, drawn, valley(weight, 1.3, 0.77), **refined).best((0.05, 0.1, 0.2))
    assert header["guidance_scale"] == pytest.approx(1.3, abs=0.03) and header["t_mid"] == pytest.approx(0.77, abs=0.03)
    assert header["sigma_rel"] == 0.1 and all(row["guidance"] == round(row["guidance"], 3) for row in rows)
    points = list(selection_of(folder, drawn, valley(weight, 1.3, 0.77), **refined).progress(header, chosen(rows)))
    assert {call.guidance for call in drawn[-2 * (len(points) - 1) :]} == {header["guidance_scale"]}
    folder = run_of(tmp_path / "teacher", "teacher", times=(500,), sigma_rel=None, label_dropout=0.1)
    (folder / snapshot_file(500, 0.10)).unlink()
    _, header, rows = selection_of(folder, drawn, lambda call: abs(call.guidance - 1.7), **refined).best((0.03, 0.05))
    assert header["guidance_scale"] == pytest.approx(1.7, abs=0.03) and header["sigma_rel"] is None
    assert [row["guidance"] for row in rows[:5]] == [1.0, 1.5, 2.0, 1.25, 1.75]


def test_a_first_look_sorts_out_the_worse_half(tmp_path, drawn):
    """The distances on few samples are the smaller ones here, which must not matter."""
    folder = run_of(tmp_path, "scd", guidance=[1.0, 2.0])
    few = {(0.05, 1.0): 1.1, (0.05, 1.5): 1.0, (0.05, 2.0): 1.4, (0.1, 1.0): 1.3, (0.1, 1.5): 0.9, (0.1, 2.0): 1.2}
    many = {(0.05, 1.0): 5, (0.05, 1.5): 4, (0.1, 1.5): 6, (0.0707, 1.5): 8, (0.05, 1.25): 3, (0.05, 1.75): 7}
    weights_of = {float(reconstruct(folder, s)[0][BIAS]): s for s in (0.05, 0.0707, 0.1)}

    def figure(call: Any) -> float:
        return (few if len(call.seeds) == 3 else many)[weights_of[call.weight], call.guidance] - len(call.times) / 4

    settings = {**GUIDED, "select.t_mid": [0.8], "select.coarse": 3, "select.refine": 1}
    searched = selection_of(folder, drawn, figure, **settings)
    _, header, rows = searched.best((0.05, 0.1))
    assert [(row["sigma_rel"], row["guidance"], row["fd"]) for row in rows if row["samples"] == 3] == [
        (*place, fd - 0.5) for place, fd in few.items()
    ]
    whole = [(row["sigma_rel"], row["guidance"]) for row in rows if row["samples"] == 6]
    # 2.0 fell out, and is a neighbour still
    assert whole == [(0.05, 1.0), (0.05, 1.5), (0.1, 1.5), (0.0707, 1.5), (0.05, 1.25), (0.05, 1.75)]
    assert [row["samples"] for row in rows] == [3] * 6 + [6] * 6
    assert (header["sigma_rel"], header["guidance_scale"], chosen(rows)["fd"]) == (0.05, 1.25, 2.5)
    assert {call.seeds for call in drawn} == {range(3), range(6)}
    assert all(("fd_1step" in row) == (row["samples"] == 6) for row in rows)
    assert len(drawn) == 6 + 2 * 6
    assert selection_of(folder, drawn, figure, **settings).best((0.05, 0.1))[1:] == (header, rows)
    assert len(drawn) == 6 + 2 * 6, "nothing is measured twice"
    drawn.clear()
    plain = run_of(tmp_path / "plain", "scd", guidance=[1.0, 2.0])
    rows = selection_of(plain, drawn, lambda call: 1.0, **{**settings, "select.samples": 3}).best((0.05,))[2]
    assert len(rows) == 4 and all("samples" not in row for row in rows), "as many samples as decide: no first look"


def test_figures_on_different_numbers_of_samples_are_not_compared():
    rows = [
        {"guidance": 1.0, "samples": 3, "fd": 0.5},
        *({"guidance": 1.0, "samples": 6, "fd": fd} for fd in (4, 3, 5)),
    ]
    assert chosen(rows) == {"guidance": 1.0, "samples": 6, "fd": 3}
    assert telling(rows) == [{"samples": row["samples"], "fd": row["fd"]} for row in rows]
    assert telling(rows[1:]) == [{"fd": 4}, {"fd": 3}, {"fd": 5}]
    assert chosen([{"fd": math.nan}, {"fd": 2.0}, {"fd": math.inf}]) == {"fd": 2.0}
    assert [row["fd"] for row in better_half(rows)] == [0.5, 3]
    assert [row["fd"] for row in better_half([*rows, {"fd": math.nan}])] == [0.5, 3, 4]
    assert better_half(rows[:1]) == rows[:1]


def test_an_interrupted_search_measures_what_is_missing(tmp_path, drawn):
    """The file ends in half a line, as kill -9 may leave it."""
    folder = run_of(tmp_path, "scd", guidance=[1.0, 2.0])

    def figure(call: Any) -> float:
        return call.weight + sum(call.times) + call.guidance

    whole = selection_of(folder, drawn, figure, **GUIDED)
    _, header, rows = whole.best((0.05, 0.1))
    points = list(whole.progress(header, rows[0]))
    number, file = len(drawn), folder / "measured.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == number == len(set(lines))
    file.write_bytes(b"".join(lines[:3]) + lines[3][:-4])
    drawn.clear()
    again = selection_of(folder, drawn, figure, **GUIDED)
    assert again.best((0.05, 0.1))[1:] == (header, rows) and list(again.progress(header, rows[0])) == points
    assert len(drawn) == number - 3 and file.read_bytes() == b"".join(lines)
    # Damaged lines are measured again, not believed.
    content = bytearray(file.read_bytes())
    for place in (5, len(lines[0]) - 4, len(content) - 4):  # in a hash, in two distances
        content[place] ^= 1
    file.write_bytes(content)
    drawn.clear()
    again = selection_of(folder, drawn, figure, **GUIDED)
    assert again.best((0.05, 0.1))[1:] == (header, rows) and list(again.progress(header, rows[0])) == points
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
    ((found, _, _),) = elsewhere._finer([{"sigma_rel": 0.05, "guidance": 1.0}], ({}, {**header, "guidance_scale": 1.0}))
    assert torch.equal(found[BIAS], reconstruct(folder, 0.0707)[0][BIAS])


def test_averages_are_read_by_one_process_for_all(tmp_path):
    together(2, _averages_on_two_machines, run_of(tmp_path, "teacher"))
