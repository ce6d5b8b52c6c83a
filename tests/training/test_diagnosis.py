"""What a run says of its own health: from made-up lines, and from runs that are made to go wrong."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scm.errors import Interrupted, UserError
from scm.objectives import ConsistencyDistillation, ConsistencyTraining, Losses
from scm.training import loop
from scm.training.diagnosis import BINS, Context, Finding, diagnose
from scm.training.probe import Probe
from scm.training.schedule import Schedule
from tests.helpers import tiny_model
from tests.training.test_loop import ALONE, Digits, settings

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
        read = [json.loads(line) for line in (work / loop.METRICS).read_text().splitlines()]
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
