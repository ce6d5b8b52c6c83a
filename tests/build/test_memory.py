"""What a training needs of memory, as it is said before, and as torch's allocator measures it."""

from pathlib import Path

import pytest
import torch

from benchmarks.step_cost import Operations
from scm import methods
from scm.base.live_memory import LiveMemory
from scm.build import memory as build
from scm.build.memory import Choice, Counted, Line, Memory, Need, Peak, Peaks, choose, count
from scm.build.models import network_settings, new_model, new_student
from scm.build.training import student_objective, training_settings
from scm.jvp import recomputed
from scm.objectives.diffusion import Diffusion
from scm.presets import apply
from scm.training.loop import Trainer
from tests.support.loops import ALONE, Digits
from tests.support.projects import params_of_all

SMALL = {
    "network.width": 16, "network.channels_per_head": 16, "student.common.batch": 16, "teacher.batch": 16,
    "student.scd_vsd.fake_score.updates": 1, "student.vsd.fake_score.updates": 1, "student.rcm.fake_score.updates": 1,
    "student.dmd.fake_score.updates": 1,
}  # fmt: skip
GIB, ROOT = 2**30, Path(__file__).parents[2]


def trained(params, item, work, micro_batch, way="none"):
    """Two steps of the real training of digits by one method, or of the teacher; returns what stays in memory."""
    network = network_settings(params.network, 3, params.shape, params.teacher.augment)
    teacher = new_model(network, params.teacher, 0)
    if item == "teacher":
        settings, model, beside = params.teacher, teacher, None
        objective = Diffusion(0.5, settings.p_mean, settings.p_std, settings.label_dropout, settings.augment)
    else:
        settings = params.student.method(item)
        teacher.requires_grad_(False).eval()
        model = new_student(teacher, settings, 0)
        objective, beside = student_objective(item, settings, params.sampler, teacher, 0)
    loop = training_settings(params, settings, item, {"model": item, "network": model.settings.to_dict()})
    trainer = Trainer(
        model,
        objective,
        Digits(settings.batch),
        loop,
        work,
        ALONE,
        bool,
        print,
        beside,
        None,
        micro_batch,
        way,
        recomputed,
    )
    if way == "blocks":
        trainer._recompute()
    trainer.trained.train()
    for _ in range(2):  # the first step makes the optimiser's moments
        trainer._step()
    return trainer, teacher


def said(params, item, micro_batch, way="none") -> int:
    stage = "train_teacher" if item == "teacher" else "train_student"
    return Memory(count(params, stage, item, 3), 16).need(micro_batch, way).total


LIKE_OTHERS = {"ayf", "meanflow"}
"""Methods whose steps are those of sCD and sCT, with another second time."""
ONE_LEVEL = {**SMALL, "network.multipliers": [1], "network.attention": [8]}
slow = [
    pytest.param(name, 8, "none", ONE_LEVEL, marks=pytest.mark.slow, id=name)
    for name in methods.names()
    if name not in LIKE_OTHERS
]
CASES = [
    ("teacher", 16, "none", SMALL), ("teacher", 8, "blocks", SMALL), ("scd", 16, "none", SMALL),
    ("scd", 8, "blocks", SMALL), *slow,
]  # fmt: skip


@pytest.mark.parametrize(("item", "micro_batch", "way", "network"), CASES)
def test_a_training_needs_what_was_said_before(item, micro_batch, way, network, tmp_path):
    params = params_of_all(None if item == "sct" else [1.0, 2.0], **network)
    with LiveMemory() as memory:
        kept = trained(params, item, tmp_path, micro_batch, way)
    assert said(params, item, micro_batch, way) == pytest.approx(memory.peak, rel=0.03)
    del kept


def test_the_layer_that_is_told_of_augmentation_is_counted():
    plain, augmented = (params_of_all(**SMALL, **{"teacher.augment": augment}) for augment in (0.0, 0.12))
    before, after = (count(params, "train_teacher", "teacher", 3) for params in (plain, augmented))
    layer = 9 * max(plain.network.multipliers) * plain.network.width  # from nine numbers to EDM2's embedding
    assert after.weights - before.weights == after.gradients - before.gradients == 4 * layer
    assert after.peaks("none").whole.at(16) > before.peaks("none").whole.at(16)


def test_the_allocator_counts_the_same(tmp_path):
    """An independent measure of one training: the memory events of torch's profiler."""
    params = params_of_all([1.0, 2.0], **SMALL)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        kept = trained(params, "scd", tmp_path, 16)
    now = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    assert said(params, "scd", 16) == pytest.approx(peak, rel=0.05)
    del kept


@pytest.mark.slow
@pytest.mark.parametrize(
    ("item", "peak", "least", "most"),
    [("teacher", 0.25, 4 / 3 - 0.02, 4 / 3 + 0.02), ("scd", 0.25, 7 / 6 - 0.02, 7 / 6 + 0.02)],
)
def test_checkpointing_repeats_one_evaluation_and_keeps_a_quarter_of_the_memory(item, peak, least, most):
    """With the paper's network S and 64 images at a time; a step evaluates primal, tangent, teacher twice, backward."""
    params = apply.preview(ROOT / "params.yaml", ROOT, "imagenet512-s")
    stage = "train_teacher" if item == "teacher" else "train_student"
    memory: dict[str, int] = {}
    operations: dict[str, int] = {}
    for way in ("none", "blocks"):
        parts = build.setup(params, stage, item, 1000)
        with Operations() as counter:
            memory[way] = build.peaks(parts, way).part.at(64)
        operations[way] = counter.total
    assert memory["blocks"] <= peak * memory["none"]
    assert least * operations["none"] < operations["blocks"] <= most * operations["none"]


def test_a_guide_counts_as_a_second_teacher():
    plain, guided = (params_of_all([1.0, 2.0], **{"select.guide": guide}) for guide in (None, "guide.safetensors"))
    alone, both = (count(params, "train_student", "scd", 10).weights for params in (plain, guided))
    teacher = build.setup(plain, "train_student", "scd", 10).frozen
    assert teacher is not None and teacher.guide is None
    assert both - alone == sum(value.nbytes for value in (*teacher.parameters(), *teacher.buffers()))


def test_live_memory_counts_what_is_alive():
    before = torch.zeros(300)
    with LiveMemory() as memory:
        assert before[1:].sum() == 0
        a = torch.zeros(1000)
        b = a.reshape(10, 100)  # no memory of its own
        assert memory.now == 4000
        c = torch.zeros(500, dtype=torch.float64) + 1
        assert memory.peak == 4000 + 2 * 4000
        del a, c
        assert memory.now == 4000 and b.shape == (10, 100)


def test_a_peak_is_the_highest_of_its_lines():
    n = build.IMAGES
    peak = Peak.of([100, n * 10, -100, n * 2, -n * 12, 500])  # 100 + 10 n at its highest, then 12 n, then 500
    assert [peak.at(images) for images in (0, 10, 49, 51, 100)] == [500, 500, 590, 612, 1200]
    assert peak.lines == (Line(0, 12), Line(100, 10), Line(500, 0))


def memory(batch: int, kept: int, again: int, shards: int = 1) -> Memory:
    """1 GiB of weights, 1 of gradients, 8 that are divisible; activations of so many MiB an image."""
    each = {"none": Peak((Line(0, kept * 2**20),)), "blocks": Peak((Line(0, again * 2**20),))}
    return Memory(Counted(GIB, GIB, 8 * GIB, 0, lambda way: Peaks(each[way], each[way])), batch, shards)


@pytest.mark.parametrize(
    ("batch", "kept", "shards", "free", "chosen"),
    [
        (256, 100, 1, 80, (256, "none")),  # 9 + 25 GiB
        (256, 1024, 1, 80, (64, "none")),  # 10 + 64
        (256, 1024, 8, 80, (64, "none")),  # sharding leaves room for 77, which does not divide the batch
        (240, 1024, 8, 80, (60, "none")),
        (256, 1024, 1, 20, (32, "blocks")),  # 10 images would fit, of which 8 divide the batch
        (8, 1024, 1, 17, (8, "none")),  # the whole batch, without a copy of the gradients
        (256, 1024, 1, 10.3, (1, "blocks")),
    ],
)
def test_auto_takes_the_largest_part_that_fits(batch, kept, shards, free, chosen):
    choice = choose(memory(batch, kept, 256, shards), int(free * GIB))
    assert choice[:2] == chosen and choice.fits and choice.need.total <= free * GIB


def test_given_settings_are_kept_and_what_does_not_fit_is_said():
    small = memory(256, 1024, 256)
    assert choose(small, 80 * GIB, micro_batch=40)[:2] == (32, "none")
    assert choose(small, 80 * GIB, checkpointing="blocks")[:2] == (256, "blocks")
    assert choose(small, 20 * GIB, checkpointing="none")[:2] == (8, "none")
    too_large = choose(small, 20 * GIB, micro_batch=64, checkpointing="none")
    assert too_large[:2] == (64, "none") and not too_large.fits
    least = choose(small, 9 * GIB)
    assert least == Choice(1, "blocks", Need(9 * GIB, GIB, 2**28), fits=False)


def test_a_gpu_keeps_some_memory_for_itself():
    assert build.usable(79 * GIB) == int(77.5 * 0.94 * GIB)
