"""The loop: schedule, health figures, resuming, non-finite steps and several processes."""

import json
import math
from pathlib import Path

import pytest
import torch

from scm.base import weights
from scm.base.distributed import Ranks
from scm.ema.reconstruct import HALFLIFE_FILE
from scm.errors import Interrupted, UserError
from scm.objectives.diffusion import Diffusion
from scm.objectives.protocol import Losses
from scm.training import loss_scale
from scm.training.diagnosis import Context
from scm.training.health import BINS, HealthFigures
from scm.training.loss_scale import LossScale
from scm.training.record import METRICS, SNAPSHOTS
from scm.training.schedule import Schedule
from tests.support.loops import equal, result, trainer
from tests.support.processes import together

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "edm2.json").read_text())


def test_the_schedule_is_edm2s():
    schedule = Schedule(0.01, 10_000_000, "inverse_sqrt", 70_000 * 2048, 2**31)
    for images, rate in GOLDEN["lr_0.01_70k_2048"].items():
        assert schedule.at(int(images)) == pytest.approx(rate, rel=1e-9)


def test_cosine_decay_goes_from_the_maximum_to_zero():
    schedule = Schedule(1.0, 0, "cosine", 100, 300)
    assert [schedule.at(n) for n in (0, 100, 200, 300)] == pytest.approx([1, 1, 0.5, 0])
    assert Schedule(1.0, 10, "constant", 0, 300).at(5) == 0.5


def test_health_figures_are_means_per_bin_of_t():
    figures = HealthFigures(torch.device("cpu"))
    t = torch.tensor([0.01, 0.02, math.pi / 2 - 0.01])
    figures.add(Losses(torch.tensor([1.0, 3.0, 5.0]), t, {"size": torch.tensor([2.0, 4.0, 9.0])}))
    read = figures.read(lambda values: values)
    assert read == {"loss": 3, "loss/0": 2, f"loss/{BINS - 1}": 5, "size": 5, "size/0": 3, f"size/{BINS - 1}": 9}
    figures.add(Losses(torch.tensor([7.0]), torch.tensor([0.8]), {}))
    assert figures.read(lambda values: values) == {"loss": 7, "loss/4": 7}
    assert figures.read(lambda values: values) == {}


def test_health_figures_of_parts_have_names_and_times_of_their_own():
    """A part, and a figure, that only some steps have counts in those alone."""
    figures = HealthFigures(torch.device("cpu"))
    early, late = torch.tensor([0.01]), torch.tensor([1.5])
    part = Losses(torch.tensor([4.0]), late, {"size": torch.tensor([6.0])})
    figures.add(Losses(torch.tensor([1.0]), early, {"size": torch.tensor([2.0])}, {"fake": part}))
    figures.add(Losses(torch.tensor([3.0]), early))
    assert figures.read(lambda values: values) == {
        "loss": 2, "loss/0": 2, "size": 2, "size/0": 2,
        "fake_loss": 4, "fake_loss/7": 4, "fake_size": 6, "fake_size/7": 6,
    }  # fmt: skip


def test_what_was_not_finite_is_counted_by_figure_and_bin():
    figures = HealthFigures(torch.device("cpu"))
    t, fine = torch.tensor([0.01, 1.5, 1.5]), torch.ones(3)
    part = Losses(fine, t, {"size": torch.tensor([1.0, 1.0, -math.inf])})
    figures.add_skipped(Losses(torch.tensor([math.nan, 1.0, math.inf]), t, {"size": fine}, {"fake": part}))
    figures.add(Losses(torch.tensor([2.0]), torch.tensor([0.01])))
    expected = {"loss": 2, "loss/0": 2, "nonfinite/loss/0": 1, "nonfinite/loss/7": 1, "nonfinite/fake_size/7": 1}
    assert figures.read(lambda values: values) == expected


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path):
    trainer(tmp_path / "whole").run()
    stops = iter([False, False, True, False, True, False, False, False, False, False, False, False])
    for _ in range(2):
        with pytest.raises(Interrupted, match="of 160 images; run the same command to go on"):
            trainer(tmp_path / "parts", stopping=lambda: next(stops)).run()
    trainer(tmp_path / "parts", stopping=lambda: next(stops)).run()
    whole, parts = result(tmp_path / "whole"), result(tmp_path / "parts")
    assert len(whole) == 8 and equal(whole, parts)
    lines = [json.loads(line)["images"] for line in (tmp_path / "parts" / METRICS).read_text().splitlines()]
    assert lines == sorted(set(lines)) and lines[-1] == 160


def test_lines_and_snapshots_after_the_last_checkpoint_are_forgotten(tmp_path):
    """As kill -9 leaves it: a checkpoint, and a line and snapshots that are ahead of it."""
    trainer(tmp_path / "whole").run()
    killed = trainer(tmp_path / "killed", stopping=lambda: True)
    with pytest.raises(Interrupted):
        killed.run()
    ahead = trainer(tmp_path / "ahead", images=160)
    ahead.run()
    for file in (tmp_path / "ahead" / SNAPSHOTS).iterdir():
        (tmp_path / "killed" / SNAPSHOTS).mkdir(exist_ok=True)
        file.rename(tmp_path / "killed" / SNAPSHOTS / file.name)
    with (tmp_path / "killed" / METRICS).open("a") as file:
        file.write('{"images": 999, "half a li')
    trainer(tmp_path / "killed").run()
    assert equal(result(tmp_path / "whole"), result(tmp_path / "killed"))
    assert '"images": 999' not in (tmp_path / "killed" / METRICS).read_text()


def test_a_run_does_not_go_on_in_another_precision(tmp_path):
    """As `precision: auto` on another machine would have it."""
    with pytest.raises(Interrupted):
        trainer(tmp_path, stopping=lambda: True, header={"network": {}, "precision": "bf16"}).run()
    problem = f"^{tmp_path} was begun in bf16, and this machine computes in fp32: go on where it began, or delete"
    with pytest.raises(UserError, match=problem):
        trainer(tmp_path, header={"network": {}, "precision": "fp32"}).run()


def test_a_finished_run_is_not_trained_again(tmp_path):
    trainer(tmp_path).run()
    before = result(tmp_path)
    again = trainer(tmp_path, objective=lambda *arguments: pytest.fail("trained again"))
    again.run()
    assert equal(before, result(tmp_path))


@pytest.mark.parametrize(
    ("every", "minutes", "saved"),
    [
        (48, None, [64, 128, 160]),
        (None, 1.5, [64, 128, 160]),
        (None, 100, [160]),
        (96, 2.5, [96, 160]),
        (32, 2.5, [32, 64]),
    ],
)
def test_a_checkpoint_is_due_after_images_or_minutes(tmp_path, monkeypatch, every, minutes, saved):
    """A line of metrics comes every 32 images; rank 0's clock says a minute for each."""
    training = trainer(tmp_path, checkpoint_every=every, checkpoint_minutes=minutes)
    images: list[int] = []
    monkeypatch.setattr(training, "_save", lambda: images.append(training.images))
    monkeypatch.setattr(Ranks, "of_first", lambda _, value: 60.0 * (training.images - max(images, default=0)) / 32)
    monkeypatch.setattr(training, "_resume", lambda: None)
    training.run()
    assert images[: len(saved)] == saved


class Poisoned(Diffusion):
    """Answers NaN on the steps whose images seen are in `bad`."""

    bad: frozenset[int] = frozenset()
    bad_rank: int | None = None

    def __call__(self, model, batch, images_seen):
        losses = super().__call__(model, batch, images_seen)
        bad = images_seen in self.bad and self.bad_rank in (None, batch.rank)
        return Losses(losses.value * math.nan, losses.t, losses.figures) if bad else losses


def overflowing(rank: int | None = None) -> Poisoned:
    """Overflows on the steps after 32 images and 48, on one rank alone if it is given."""
    objective = Poisoned(0.5, -0.8, 1.6)
    object.__setattr__(objective, "bad", frozenset({32, 48}))
    object.__setattr__(objective, "bad_rank", rank)
    return objective


def test_steps_that_are_not_finite_are_skipped_and_counted(tmp_path):
    objective = Poisoned(0.5, -0.8, 1.6)
    object.__setattr__(objective, "bad", frozenset({16, 64}))
    trainer(tmp_path, objective=objective).run()
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert lines[-1]["skipped"] == 2
    for state in result(tmp_path).values():
        assert all(value.isfinite().all() for value in state.values())


def test_a_run_of_steps_that_are_not_finite_ends_with_a_clear_error(tmp_path):
    objective = Poisoned(0.5, -0.8, 1.6)
    object.__setattr__(objective, "bad", frozenset(range(0, 10_000, 16)))
    diagnosis = r"2 steps skipped: the loss was not finite at t 0.00-1.57, from 32 images on: lower teacher.lr.max \("
    with pytest.raises(UserError, match=f"diverged: 20 steps in a row .*, at 304 images: {diagnosis}it is 0.01"):
        trainer(tmp_path, objective=objective, images=3200, context=Context("teacher", lr_max=0.01)).run()


class LeavingOut(Diffusion):
    """In float16, leaves out the samples at `places`, whose loss was not finite."""

    places: tuple[int, ...] = ()

    def __call__(self, model, batch, images_seen):
        losses = super().__call__(model, batch, images_seen)
        out = torch.zeros(len(batch.x_0), dtype=torch.bool)
        out[list(self.places)] = True
        figures = {"tangent_norm": torch.where(out, math.nan, 1.0)}
        return Losses(torch.where(out, 0, losses.value), losses.t, figures, left_out=out)


def leaving_out(*places: int) -> LeavingOut:
    objective = LeavingOut(0.5, -0.8, 1.6)
    object.__setattr__(objective, "places", places)
    return objective


def test_samples_left_out_are_counted_and_neither_skip_a_step_nor_lower_the_scale(tmp_path):
    said: list[str] = []
    run = trainer(tmp_path, objective=leaving_out(3), half_precision=True, log_every=16, images=48)
    run.say = said.append
    run.run()
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    for line in lines:
        assert line["skipped"] == 0 and line["loss_scale"] == 2.0**16
        assert line["tangent_norm"] == 1 and math.isfinite(line["loss"])
        assert sum(value for key, value in line.items() if key.startswith("nonfinite/tangent_norm/")) == 1
        assert not any(key.startswith("nonfinite/loss") for key in line)
    assert any("samples left out: the tangent was not finite at t" in line for line in said)


def test_a_run_that_leaves_out_every_sample_diverges(tmp_path):
    with pytest.raises(UserError, match=r"diverged: 20 steps in a row .*: the tangent was not finite"):
        trainer(tmp_path, objective=leaving_out(*range(16)), half_precision=True, images=3200).run()


def test_weights_keep_unit_rows_and_the_loss_falls(tmp_path):
    run = trainer(tmp_path, images=1600, log_every=400, dropout=0.0)
    run.run()
    weight = run.model.network.out_conv.weight
    assert weight.square().mean(dim=(1, 2, 3)).sqrt().item() == pytest.approx(1, abs=1e-3)
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert lines[-1]["squared_error"] < 0.9 * lines[0]["squared_error"]
    assert {"lr", "grad_norm", "images_per_second", "skipped", "output_norm/0", "log_weight/3"} <= lines[-1].keys()
    assert 0 <= lines[-1]["data_wait"] < 1


def test_the_loss_scale_halves_at_an_overflow_and_doubles_after_two_thousand_good_steps():
    scale, good, bad = LossScale(), torch.tensor(True), torch.tensor(False)
    assert scale.after(bad) and scale.value == 2.0**15
    for _ in range(1999):
        assert not scale.after(good)
    assert scale.value == 2.0**15
    assert not scale.after(good) and scale.value == 2.0**16
    assert LossScale(*scale.state()).state() == scale.state()
    assert not LossScale(1.0).after(bad)  # nothing left to halve: it is the training that diverges


def test_the_loss_scale_changes_no_gradient(tmp_path):
    """Powers of two: in float32 a run with the scale has the bits of one without."""
    trainer(tmp_path / "plain").run()
    trainer(tmp_path / "scaled", half_precision=True).run()
    assert equal(result(tmp_path / "plain"), result(tmp_path / "scaled"))
    lines = [json.loads(line) for line in (tmp_path / "scaled" / METRICS).read_text().splitlines()]
    assert lines[-1]["loss_scale"] == 2**16 and lines[-1]["skipped"] == 0


def test_overflows_lower_the_scale_and_do_not_count_as_divergence(tmp_path):
    objective = Poisoned(0.5, -0.8, 1.6)
    object.__setattr__(objective, "bad", frozenset(range(0, 16 * 36, 16)))
    run = trainer(tmp_path, objective=objective, images=16 * 40, half_precision=True)
    with pytest.raises(UserError, match="diverged: 20 steps"):
        run.run()
    assert run.loss_scale.value == 1 and run.skipped == 16 + 20


def test_a_gradient_too_small_for_float16_is_kept_by_the_scale():
    weight, scale = torch.ones(1, requires_grad=True), LossScale()
    for factor, expected in ((1.0, 0.0), (scale.value, 1e-9)):
        weight.grad = None
        (weight.half().float() * 1e-9 * factor).sum().backward()
        if factor > 1:
            scale.unscale([weight])
        assert weight.grad.item() == pytest.approx(expected, rel=1e-3)


def test_an_interrupted_run_in_float16_with_a_half_life_ends_with_the_same_bits(tmp_path, monkeypatch):
    """With an overflow and a growth of the scale before the interruption, and more growth after it."""
    monkeypatch.setattr(loss_scale, "GROW_AFTER", 3)
    objective = Poisoned(0.5, -0.8, 1.6)
    object.__setattr__(objective, "bad", frozenset({0, 16}))

    def run(work: Path, stopping) -> None:
        one = trainer(work, stopping=stopping, half_precision=True, halflife=64, objective=objective)
        one.model.precision = torch.float16
        one.run()

    run(tmp_path / "whole", lambda: False)
    lines = [json.loads(line) for line in (tmp_path / "whole" / METRICS).read_text().splitlines()]
    assert [line["loss_scale"] for line in lines] == [2**14, 2**14, 2**15, 2**16, 2**16]
    stops = iter([False, False, False, True, *[False] * 20])
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", lambda: next(stops))
    run(tmp_path / "parts", lambda: next(stops))
    parts = [json.loads(line)["loss_scale"] for line in (tmp_path / "parts" / METRICS).read_text().splitlines()]
    assert parts[-1] == 2**16
    whole = result(tmp_path / "whole")
    assert len(whole) == 9 and equal(whole, result(tmp_path / "parts"))
    header = weights.read_header(tmp_path / "parts" / SNAPSHOTS / HALFLIFE_FILE)
    assert header["halflife"] == 64 and header["sigma_rel"] == pytest.approx(64 / math.log(2) / 160)


def train_two(ranks, folder):
    trainer(folder, ranks=ranks, half_precision=True, objective=overflowing(rank=1)).run()


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path):
    """Gloo, two processes, with dropout: averages equal to one process's.

    The loss is scaled, and overflows on one rank of the two: both must skip those steps.
    """
    trainer(tmp_path / "one", half_precision=True, objective=overflowing()).run()
    together(2, train_two, tmp_path / "two")
    one, two = result(tmp_path / "one"), result(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, state in one.items():
        for key, value in state.items():
            assert torch.allclose(value, two[name][key], atol=2e-4), (name, key)
    lines = {
        name: [json.loads(line) for line in (tmp_path / name / METRICS).read_text().splitlines()]
        for name in ("one", "two")
    }
    for one_line, two_line in zip(lines["one"], lines["two"], strict=True):
        assert one_line["loss_scale"] == two_line["loss_scale"] and one_line["skipped"] == two_line["skipped"]
    assert (lines["two"][-1]["loss_scale"], lines["two"][-1]["skipped"]) == (2**14, 2)
