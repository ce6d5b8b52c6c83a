"""What a run says of its own health: from made-up lines, and from runs that are made to go wrong."""

import copy
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scm.base.distributed import Ranks
from scm.errors import Interrupted, UserError
from scm.objectives.protocol import Losses
from scm.objectives.scd import ConsistencyDistillation
from scm.objectives.score_distillation import ScoreDistillation
from scm.objectives.sct import ConsistencyTraining
from scm.training import loop
from scm.training.diagnosis import BINS, Context, Finding
from scm.training.probe import Probe
from scm.training.record import METRICS
from scm.training.schedule import Schedule
from scm.training.settings import Auxiliary
from tests.support.loops import ALONE, Digits, diagnose, score_distillation, settings
from tests.support.models import tiny_model
from tests.support.projects import ROOT

CONTEXT = Context(
    tangent="normalized", tangent_norm_c=0.1, tangent_warmup=400, lr_max=1e-3, embedding="positional", c_noise="t",
    precision="fp32", data_norm=4.0,
)  # fmt: skip


def lines(count: int = 20, **last: float) -> list[dict[str, float]]:
    """Lines of a healthy run, 100 images each, with other figures in the last one."""
    healthy = {"grad_norm_max": 2.0, "skipped": 0}
    for k in range(BINS):
        healthy |= {f"tangent_norm/{k}": 1.5, f"tangent_term1/{k}": 1.0, f"tangent_term2/{k}": 0.8}
    return [{"images": 100 * n, **healthy, **(last if n == count else {})} for n in range(1, count + 1)]


def only(found: list[Finding]) -> Finding:
    assert len(found) == 1, [str(finding) for finding in found]
    return found[0]


def test_a_steady_run_has_no_finding():
    assert diagnose(lines(), CONTEXT) == []
    assert diagnose(lines(grad_norm_max=9.9), CONTEXT) == []


def test_a_gradient_far_above_its_recent_size_is_reported_once():
    run = lines(grad_norm_max=24.0)
    finding = only(diagnose([*run, {**run[-1], "images": 2100}], CONTEXT))
    assert (finding.kind, finding.images) == ("gradient", 2000)
    assert str(finding) == (
        "the gradient's norm rose to 24, 12 times what it was before, from 2,000 images on: lower "
        "student.common.lr.max (it is 0.001), or lengthen student.common.tangent_warmup (it is 400), or raise "
        "student.common.tangent_norm_c (it is 0.1)"
    )
    assert diagnose(lines(4, grad_norm_max=24.0), CONTEXT) == []  # nothing to compare with yet


def test_a_gradient_may_grow_from_stage_to_stage():
    """ECT's differences shrink by q in each stage, and its gradient grows as much."""
    staged = replace(CONTEXT, stage=1000, growth=10.0)
    run = [{"images": 100 * n, "grad_norm_max": 2.0 if n <= 10 else 20.0} for n in range(1, 21)]
    assert diagnose(run, staged) == [] and only(diagnose(run, CONTEXT)).images == 1100
    high = {"grad_norm_max": 101.0}
    assert only(diagnose([*run[:10], {"images": 1100, **high}], staged)).images == 1100
    finding = only(diagnose([*run[:14], {"images": 1500, **high}], staged))
    assert finding.images == 1500 and "rose to 101, 5.05 times what it was before" in finding.what
    assert diagnose([*run[:10], {"images": 2100, **high}], staged) == []  # two stages later


@pytest.mark.parametrize("term", [1, 2])
def test_a_jump_of_the_tangent_names_bin_and_term(term: int):
    last = {"tangent_norm/7": 7.8, f"tangent_term{term}/7": 7.7}
    finding = only(diagnose(lines(**last), CONTEXT))
    assert (finding.kind, finding.figure, finding.bins) == ("tangent", f"tangent_term{term}", (7,))
    assert "up to 5.2 times as long as it was before at t 1.37-1.57, from 2,000" in str(finding)
    assert finding.remedies[0] == "lower student.common.p_mean"


def test_a_jump_that_stays_small_is_none():
    """A tangent that is short of a sample's length does no harm: it is what grows in the warm-up."""
    run = lines()
    for line in run[:-1]:
        line["tangent_norm/3"] = 0.1
    assert diagnose(run, CONTEXT) == []


def test_what_grows_in_the_warm_up_is_no_jump():
    run = [{"images": 100 * n, "tangent_norm/2": 0.5 * n if n < 13 else 6.0} for n in range(1, 30)]
    assert diagnose(run, replace(CONTEXT, tangent_warmup=1200)) == []


def test_a_tangent_out_of_proportion_names_its_bins_and_what_the_network_is_told_of_the_time():
    context = replace(CONTEXT, embedding="fourier", fourier_scale=16.0, c_noise="log_sigma", tangent="raw")
    high = {f"{figure}/{k}": 9.0 + k for k in (0, 5, 6) for figure in ("tangent_norm", "tangent_term2")}
    first, second = diagnose([*lines(1, **high), *lines(1, **high, **{"tangent_norm/7": 30.0})], context)
    assert (first.figure, first.bins, first.images) == ("tangent_term2", (0, 5, 6), 100)
    assert str(first) == (
        "the tangent's second term, which carries dF/dt, is up to 3.75 times as long as a sample at t 0.00-0.20 and "
        "0.98-1.37, from 100 images on: set network.embedding: positional (fourier_scale is 16), or set "
        "network.c_noise: t, or set student.common.tangent: normalized"
    )
    assert (second.figure, second.bins) == ("tangent_term1", (7,))


def test_an_anchor_has_the_times_of_its_method():
    run = [{"images": 100, "skipped": 1, "nonfinite/anchor_output_norm/7": 2.0}]
    assert "lower student.common.p_mean" in str(only(diagnose(run, replace(CONTEXT, precision="bf16"))))


def test_a_difference_that_drowns_in_rounding_is_reported_with_its_remedies():
    context = replace(CONTEXT, precision="bf16", places={"points": "student.discrete.points"})
    run = lines(rounding=0.5, **{"rounding/2": 0.6, "rounding/6": 1.0, "rounding/3": 0.3})
    assert "precision" not in str(diagnose(run, replace(context, precision="fp32")))
    finding = only(diagnose(run, context))
    assert (finding.kind, finding.bins) == ("rounding", (2, 6))
    assert str(finding) == (
        "in bf16, the rounding error of the tangent's difference is up to 0.25 times as long as a sample at t "
        "0.39-0.59 and 1.18-1.37, from 2,000 images on: set student.common.precision: fp32, or lower "
        "student.discrete.points"
    )


def test_samples_that_move_away_are_reported_at_the_second_probe():
    def run(*distances: float) -> list[dict[str, float]]:
        return [{"images": 100 * n, "sample_fd": value} for n, value in enumerate(distances, 1)]

    assert diagnose(run(1.0, 0.2, 0.5, 0.2, 0.5, 0.1), CONTEXT) == []  # up and down
    assert diagnose(run(1.0, 0.02, 0.09, 0.09, 0.09), CONTEXT) == []  # beside where it began, that is nothing
    assert diagnose([*run(1.0, 0.2), {"images": 150}, *run(0.5)], CONTEXT) == []
    finding = only(diagnose(run(1.0, 0.2, 0.5, math.inf, 0.6), replace(CONTEXT, tangent="clipped")))
    assert (finding.kind, finding.images, finding.remedies[0]) == (
        "samples",
        400,
        "set student.common.tangent: normalized",
    )
    assert "their distance is inf and was 0.2" in finding.what


@pytest.mark.parametrize("value", ["Infinity", "NaN"])
def test_samples_that_are_never_finite_are_reported(value: str):
    """As metrics.jsonl holds them."""

    def run(*values: str) -> list[dict[str, float]]:
        return [json.loads(f'{{"images": {100 * n}, "sample_fd": {each}}}') for n, each in enumerate(values, 1)]

    finding = only(diagnose(run(value, value, value), CONTEXT))
    assert (finding.kind, finding.images) == ("samples", 200)
    assert finding.what == f"samples are not finite: their distance from the data is {float(value):g}"
    assert diagnose(run(value, "1.0", value, "0.9", "0.8"), CONTEXT) == []  # those that were finite count as before
    finding = only(diagnose(run(value, "1.0", "0.2", "0.5", value), CONTEXT))
    assert (finding.images, finding.what[-11:]) == (500, "and was 0.2")


def test_a_figure_that_is_no_number_hides_no_later_one():
    run = lines(**{"tangent_norm/3": 7.8})
    for line in run[8:-1]:
        line["tangent_norm/3"] = math.nan
    assert "up to 5.2 times as long as it was before" in only(diagnose(run, CONTEXT)).what


PLACES = {name: f"student.scd_vsd.{name}" for name in ("fake_score", "vsd")}
VSD = replace(CONTEXT, places=PLACES, fake_lr_max=2e-4, vsd_weight=0.5)


def skipped(*figures: str) -> Finding:
    broken = {f"nonfinite/{figure}": 1.0 for figure in figures}
    return only(diagnose(lines(skipped=1, **broken), VSD))


def test_of_several_losses_the_one_that_was_not_finite_is_named():
    """Their sum, binned by sCM's times, is not finite whenever one of them is not."""
    finding = skipped("loss/2", "vsd_loss/3", "vsd_difference/3", "fake_loss/5", "fake_squared_error/5")
    assert str(finding) == (
        "1 step skipped: the squared error of the fake score was not finite at t 0.98-1.18, from 2,000 images on: "
        "lower student.scd_vsd.fake_score.lr_max (it is 0.0002), or lengthen student.common.lr.warmup"
    )
    finding = skipped("loss/2", "vsd_loss/3", "vsd_log_weight/3")
    assert "the adaptive weight of VSD was not finite at t 0.59-0.79" in finding.what
    assert finding.remedies[0] == "lower student.scd_vsd.vsd.weight (it is 0.5)"
    assert skipped("loss/2", "vsd_loss/7").remedies[0] == "lower student.scd_vsd.vsd.p_mean"
    finding = skipped("loss/2")
    assert "the loss of sCM was not finite at t 0.39-0.59" in finding.what
    assert finding.remedies[0] == "lower student.common.lr.max (it is 0.001)"
    finding = skipped("loss/2", "tangent_term1/2", "fake_loss/5", "vsd_loss/3")
    assert finding.figure == "tangent_term1" and not any("fake" in remedy for remedy in finding.remedies)


def test_a_generator_that_is_not_finite_is_not_the_fake_scores_fault():
    finding = skipped("fake_loss/5", "fake_sample_norm/5", "fake_squared_error/5", "vsd_loss/2")
    assert finding.what == "1 step skipped: the generator's sample was not finite"
    assert skipped("fake_sample_norm/5", "tangent_term1/2").figure == "tangent_term1"
    assert finding.remedies[0] == "lower student.common.lr.max (it is 0.001)"


def test_a_gradient_of_two_networks_may_be_of_either():
    assert only(diagnose(lines(grad_norm_max=24.0), VSD)).remedies[:2] == (
        "lower student.common.lr.max (it is 0.001)",
        "lower student.scd_vsd.fake_score.lr_max (it is 0.0002)",
    )


def test_steps_that_are_not_finite_are_told_by_the_first_figure_that_was_not():
    last = {"skipped": 3, "nonfinite/loss/6": 3.0, "nonfinite/tangent_term2/6": 2.0, "nonfinite/fake_loss/1": 1.0}
    finding = only(diagnose([*lines(**last), {"images": 2100, "skipped": 3}], CONTEXT))
    assert (finding.kind, finding.figure, finding.bins) == ("nonfinite", "tangent_term2", (6,))
    assert "3 steps skipped: the tangent's second term, which carries dF/dt, was not finite at t 1.18-1.37" in str(
        finding
    )


def test_a_gradient_that_alone_is_not_finite():
    context = replace(CONTEXT, precision="fp16")
    finding = only(diagnose(lines(skipped=1), context))
    assert "1 step skipped: the gradient was not finite, though the loss was" in str(finding)
    assert finding.remedies[0] == "set student.common.precision: bf16 or fp32"
    assert diagnose(lines(skipped=2, loss_scale=2.0**14), context) == []  # float16 finds its scale
    finding = only(diagnose(lines(skipped=13, loss_scale=8.0), context))
    assert (finding.kind, finding.what) == ("scale", "the loss scale fell to 8, so that float16 loses small gradients")


def run(work: Path, objective, images: int = 960, rate: float = 1e-3, context: Context = CONTEXT, **network):
    """A run of the tiny network in which r has grown to 1 after 400 images; the trainer and its lines."""
    model, data, said = tiny_model(**network), Digits(16), []
    changes = {"images": images, "log_every": 80, "checkpoint_every": 10_000, "snapshots": images // 160}
    schedule = Schedule(rate, 160, "constant", 0, images)
    trainer = loop.Trainer(
        model, objective(model), data, settings(**changes, schedule=schedule, context=replace(context, lr_max=rate)),
        work, ALONE, lambda: False, said.append, None, Probe(data, 16, 0, 1.5645, 0.5),
    )  # fmt: skip
    try:
        trainer.run()
    finally:
        read = [json.loads(line) for line in (work / METRICS).read_text().splitlines()]
        found = trainer.diagnosis.findings
        assert diagnose(read, trainer.settings.context) == found  # of the lines alone
        assert [line for line in said if line.startswith("health")] == [f"health: {finding}" for finding in found]
    return trainer, read


def training(**changes):
    options = {"sigma_d": 0.5, "p_mean": -1.0, "p_std": 1.4, "tangent_warmup": 400, **changes}
    return lambda model: ConsistencyTraining(**options)


def test_a_raw_tangent_at_a_high_learning_rate_says_so(tmp_path):
    trainer, _ = run(tmp_path, training(tangent="raw"), rate=0.1, context=replace(CONTEXT, tangent="raw"))
    tangent = next(finding for finding in trainer.diagnosis.findings if finding.kind == "tangent")
    assert tangent.figure == "tangent_term1" and 0 in tangent.bins
    assert tangent.remedies[:2] == ("set student.common.tangent: normalized", "lower student.common.lr.max (it is 0.1)")
    assert "samples" in {finding.kind for finding in trainer.diagnosis.findings}


def test_fourier_features_of_a_large_scale_show_in_the_second_term(tmp_path):
    network = {"embedding": "fourier", "fourier_scale": 16.0, "c_noise": "log_sigma"}
    trainer, read = run(tmp_path, training(), images=320, context=replace(CONTEXT, **network), **network)
    large = {k for k in range(BINS) if any(line.get(f"tangent_norm/{k}", 0) > 8 for line in read)}
    assert len(large) > 4
    assert large == {k for finding in trainer.diagnosis.findings for k in finding.bins}
    assert {finding.figure for finding in trainer.diagnosis.findings} == {"tangent_term2"}
    assert trainer.diagnosis.findings[0].remedies[:2] == (
        "set network.embedding: positional (fourier_scale is 16)", "set network.c_noise: t"
    )  # fmt: skip


def test_a_bin_that_is_not_finite_is_named_by_the_error(tmp_path):
    def poisoned(model):
        inner = training()(model)

        def objective(model, batch, images_seen):
            losses = inner(model, batch, images_seen)
            bad = torch.where((losses.t > 0.6) & (losses.t < 0.97) & (images_seen >= 160), math.nan, 1.0)
            figures = {**losses.figures, "tangent_term2": losses.figures["tangent_term2"] * bad}
            return Losses(losses.value * bad, losses.t, figures)

        return objective

    named = "the tangent's second term, which carries dF/dt, was not finite at t 0.59-0.98, from 240 images on"
    with pytest.raises(UserError, match=f"diverged: 20 steps in a row .*: 5 steps skipped: {named}: lower") as error:
        run(tmp_path, poisoned)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["sct", "scd"])
def test_a_healthy_run_has_no_finding(tmp_path, method):
    """Warm-up and all. The distance of its samples stands in lines with a snapshot alone."""

    def distillation(model):
        teacher = copy.deepcopy(model).requires_grad_(False).eval()
        return ConsistencyDistillation(sigma_d=0.5, p_mean=-1.0, p_std=1.4, tangent_warmup=400, teacher=teacher)

    trainer, read = run(tmp_path, training() if method == "sct" else distillation)
    assert trainer.diagnosis.findings == []
    distances = {line["images"]: line["sample_fd"] for line in read if "sample_fd" in line}
    assert list(distances) == [160, 320, 480, 640, 800, 960]
    assert method == "scd" or distances[960] < 0.9 * distances[160]  # the other's teacher knows nothing
    assert all(line["grad_norm_max"] >= line["grad_norm"] for line in read)


def test_a_resumed_run_knows_what_was_said_before(tmp_path):
    """Here the second term is large from the first line on; the rest is the same as without an interruption."""
    network = {"embedding": "fourier", "fourier_scale": 16.0, "c_noise": "log_sigma"}
    stops, said, trainers = iter([*[False] * 9, True, *[False] * 20]), [], []
    for _ in range(2):
        arguments = (
            settings(images=320, log_every=80, context=CONTEXT),
            tmp_path,
            ALONE,
            lambda: next(stops),
            said.append,
        )
        trainers.append(loop.Trainer(tiny_model(**network), training()(None), Digits(16), *arguments))
        if len(trainers) == 1:
            with pytest.raises(Interrupted):
                trainers[0].run()
    before = len(trainers[0].diagnosis.findings)
    trainers[1].run()
    found = trainers[1].diagnosis.findings
    assert before and found[:before] == trainers[0].diagnosis.findings
    assert [line for line in said if line.startswith("health")] == [f"health: {finding}" for finding in found]


def spoiled_score(updates: int) -> tuple[ScoreDistillation, Auxiliary]:
    """sCD + VSD whose fake score answers NaN at t 0.39-1.18."""
    method = score_distillation(updates)

    def spoil(module, arguments, keywords, output):
        t = arguments[1]
        return torch.where(((t > 0.4) & (t < 1.17))[:, None, None, None], math.nan, 1.0) * output

    method.fake.network.register_forward_hook(spoil, with_kwargs=True)
    return method, Auxiliary(method.fake)


def vsd_run(work: Path, objective: ScoreDistillation, auxiliary: Auxiliary, **changes) -> list[dict]:
    options = settings(**{"images": 480, "context": VSD, **changes})
    arguments = (tiny_model(), objective, Digits(16), options, work, ALONE, lambda: False, lambda text: None, auxiliary)
    try:
        loop.Trainer(*arguments).run()
    finally:
        read = [json.loads(line) for line in (work / METRICS).read_text().splitlines()]
    return read


@pytest.mark.parametrize("updates", [1, 5])
def test_a_fake_score_that_is_not_finite_is_named_by_the_error(tmp_path, updates):
    named = r"the network's output of the fake score was not finite at t [01][.\d and-]+, from \d+ images on: lower "
    with pytest.raises(UserError, match=rf"{named}student.scd_vsd.fake_score.lr_max \(it is 0.0002\)"):
        vsd_run(tmp_path, *spoiled_score(updates), images=3200)


def test_the_loss_of_steps_in_which_the_student_rests_stands_under_its_part_alone(tmp_path):
    """A line for each step; in the last of each four the student learns."""
    method = score_distillation(updates=4)
    read = vsd_run(tmp_path, method, Auxiliary(method.fake), images=128, log_every=16, context=Context())
    for number, line in enumerate(read, 1):
        assert ("loss" in line) == ("vsd_loss" in line) == ("output_norm" in line) == (number % 4 == 0)
        assert "fake_loss" in line and "fake_sample_norm" in line
    assert len(read) == 8


class NotFinite(ConsistencyTraining):
    """On no rank is a step finite."""

    def __call__(self, model, batch, images_seen):
        losses = super().__call__(model, batch, images_seen)
        return Losses(losses.value * math.nan, losses.t, losses.figures)


def diverging(work: Path, ranks: Ranks) -> loop.Trainer:
    objective = NotFinite(sigma_d=0.5, p_mean=-1.0, p_std=1.4)
    data, options = Digits(16, ranks), settings(images=3200, context=CONTEXT)
    return loop.Trainer(tiny_model(), objective, data, options, work, ranks, lambda: False, print)


def test_the_other_ranks_leave_the_diagnosis_to_the_first(tmp_path):
    other = diverging(tmp_path, Ranks(1, 1, torch.device("cpu")))
    other.skipped_in_a_row = loop.MAX_SKIPPED - 1
    with pytest.raises(UserError, match=r"^rank 1 ends: the training diverged, as rank 0 explains$"):
        other._skip(diverging=True)


@pytest.mark.slow
def test_of_two_processes_that_diverge_one_says_why_and_both_fail(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*command, __file__, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert sorted(line[:12] for line in errors) == ["error: rank ", "error: train"]
    assert sum("the loss was not finite at t" in line for line in errors) == 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a stage, too, goes on when torchrun asks it to end
    try:
        diverging(Path(sys.argv[1]), Ranks.join("cpu")).run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # as a stage does; sys.exit would write the end of the line apart
        sys.exit(1)
