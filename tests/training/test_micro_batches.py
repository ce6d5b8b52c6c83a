"""A batch in parts: the same data, noise and dropout, and so the same gradients; smaller parts if the memory ends.

And parts whose activations are computed again, which changes no bit.
"""

import json

import pytest
import torch

from scm.errors import Interrupted, UserError
from scm.jvp import recomputed
from scm.objectives.diffusion import Diffusion
from scm.objectives.discrete import DiscreteDistillation, time_grid
from scm.objectives.facm import FlowAnchoredDistillation
from scm.objectives.kd import TrajectoryDistillation
from scm.objectives.meanflow import MeanFlow
from scm.objectives.multistep import MultistepDistillation
from scm.objectives.scd import ConsistencyDistillation
from scm.objectives.sct import ConsistencyTraining
from scm.objectives.vsd import VariationalScoreDistillation
from scm.training import loop
from scm.training.gradients import parts_of
from scm.training.record import METRICS
from scm.training.settings import Auxiliary
from tests.support.loops import ALONE, Digits, equal, result, score_distillation, settings
from tests.support.models import tiny_model

TIMES = {"sigma_d": 0.5, "p_mean": -1.0, "p_std": 1.4, "label_dropout": 0.2}
"""Settings of the objectives that follow a trajectory."""

TWO_TIMES = (MultistepDistillation, MeanFlow, FlowAnchoredDistillation)


def objectives() -> dict[str, object]:
    """One of each kind; the fake score of the last two has dropout as well."""
    trajectory = {**TIMES, "teacher": tiny_model(5).eval().requires_grad_(False)}
    both = score_distillation()
    alone = {name: getattr(both, name) for name in both.__dataclass_fields__ if name != "consistency"}
    return {
        "diffusion": Diffusion(0.5, -0.8, 1.6, 0.2),
        "diffusion, augmented": Diffusion(0.5, -0.8, 1.6, 0.2, augment=0.3),
        "sct": ConsistencyTraining(**TIMES),
        "scd, guided": ConsistencyDistillation(**trajectory, guidance=(1.0, 2.0)),
        "discrete": DiscreteDistillation(**trajectory, grid=time_grid(16, 0.002, 80.0, 7.0, 0.5)),
        "multistep": MultistepDistillation(**trajectory, segments=2, t_max=1.56),
        "meanflow, flow map": MeanFlow(**TIMES, jumps=0.5, weight_p=0.75, weight_c=1e-3, tangent="raw"),
        "facm, two times": FlowAnchoredDistillation(**trajectory, anchor=1.0),
        "kd, guided": TrajectoryDistillation(
            **trajectory,
            sigmas=(80.0, 2.0, 0.2, 0.0),
            classes=3,
            kept=2,
            uses=2,
            from_noise=0.3,
            seed=3,
            guidance=(1.0, 2.0),
        ),
        "vsd": VariationalScoreDistillation(**alone),
        "scd + vsd": both,
    }


def trainer(
    work, objective, *, stopping=lambda: False, said=None, dropout=0.3, micro_batch=None, way="none", **changes
):
    """A training whose network suits the objective; `way` of checkpointing."""
    network = {
        "guidance": getattr(objective, "guidance", None) is not None,
        "segments": isinstance(objective, TWO_TIMES),
        "augment": hasattr(objective, "augment") and objective.augment > 0,
    }
    fake = getattr(objective, "fake", None)
    return loop.Trainer(
        tiny_model(1, dropout=dropout, **network), objective, Digits(16), settings(**changes), work, ALONE, stopping,
        print if said is None else said.append, Auxiliary(fake) if fake else None, None,
        micro_batch, way, recomputed,
    )  # fmt: skip


@pytest.mark.parametrize("name", objectives())
def test_the_gradients_are_the_whole_batchs(tmp_path, name):
    """With dropout, of labels too, for the model and for the fake score beside it."""
    gradients, losses = {}, {}
    for size in (16, 4, 1):
        one = trainer(tmp_path, objectives()[name], micro_batch=size)
        one.trained.train()
        found = one._backward(160)
        assert len(found) == 16 // size
        gradients[size] = torch.cat([p.grad.flatten() for p in one.parameters if p.grad is not None])
        losses[size] = torch.cat([each.value for each in found])
    for size in (4, 1):
        assert torch.dist(gradients[size], gradients[16]) < 1e-6 * gradients[16].norm()
        assert torch.allclose(losses[size], losses[16], rtol=1e-4, atol=1e-5)


def test_dropout_differs_between_samples_and_steps(tmp_path):
    """The test above would also pass if all samples had the same mask."""
    one = trainer(tmp_path, Diffusion(0.5, -0.8, 1.6), dropout=0.5).model.train()
    x, t = torch.ones(2, 1, 8, 8), torch.ones(2)
    first, second = one(x, t)
    assert not torch.equal(first, second) and not torch.equal(first, one(x, t)[0])


@pytest.mark.parametrize(
    ("images", "limit", "parts"), [(16, 16, 1), (16, 99, 1), (16, 5, 4), (12, 5, 3), (7, 3, 7), (16, 1, 16)]
)
def test_the_parts_are_equal_and_as_few_as_the_limit_allows(images, limit, parts):
    assert parts_of(images, limit) == parts


@pytest.mark.parametrize("name", ["diffusion", "scd, guided", "multistep", "scd + vsd"])
def test_activations_that_are_computed_again_change_no_bit(tmp_path, name):
    """With dropout, and of the fake score as well."""
    for way in ("none", "blocks"):
        trainer(tmp_path / way, objectives()[name], way=way, images=64).run()
    assert equal(result(tmp_path / "none"), result(tmp_path / "blocks"))


class Small:
    """An objective on a device that holds the activations of `most` images, of three times as many without blocks."""

    def __init__(self, most: int, fault: type[Exception] = torch.OutOfMemoryError) -> None:
        self.most, self.fault, self.asked, self.objective = most, fault, [], Diffusion(0.5, -0.8, 1.6)

    def __call__(self, model, batch, images_seen):
        self.asked.append(len(batch.x_0))
        if len(batch.x_0) > self.most * (3 if model.network.evaluate is recomputed else 1):
            raise self.fault("out of memory")
        return self.objective(model, batch, images_seen)


def test_too_small_a_memory_halves_the_parts_once_and_for_all(tmp_path):
    said, small = [], Small(5)
    trainer(tmp_path / "small", small, said=said).run()
    assert small.asked == [16, 8, *[4] * 40]
    lines = [line for line in said if "does not hold" in line]
    assert lines == [
        "the memory of cpu does not hold 16 images at a time: at most 8 from now on",
        "the memory of cpu does not hold 8 images at a time: at most 4 from now on",
    ]
    given = trainer(tmp_path / "given", Diffusion(0.5, -0.8, 1.6), micro_batch=4)
    given.run()
    assert equal(result(tmp_path / "small"), result(tmp_path / "given"))
    one, other = (
        [json.loads(line) for line in (tmp_path / name / METRICS).read_text().splitlines()]
        for name in ("small", "given")
    )
    assert [line["loss"] for line in one] == [line["loss"] for line in other]


def test_too_small_a_memory_computes_activations_again_before_the_parts_become_small(tmp_path):
    """And then tries the whole batch again, of which the memory holds more now; a resumed run goes on so."""
    said, small = [], Small(5)
    stops = iter([False] * 4 + [True])
    with pytest.raises(Interrupted):
        trainer(tmp_path, small, way="auto", said=said, stopping=lambda: next(stops)).run()
    assert small.asked == [16, 16, *[8] * 10]
    assert [line for line in said if "does not hold" in line] == [
        "the memory of cpu does not hold 16 images at a time: activations are computed again in the backward pass from "
        "now on",
        "the memory of cpu does not hold 16 images at a time: at most 8 from now on",
    ]
    resumed = Small(5)
    trainer(tmp_path, resumed, way="auto").run()
    assert set(resumed.asked) == {8}


def test_a_resumed_run_keeps_the_parts(tmp_path):
    """Otherwise the parts' sums would round otherwise."""
    stops = iter([False] * 4 + [True])
    with pytest.raises(Interrupted):
        trainer(tmp_path / "parts", Small(5), stopping=lambda: next(stops)).run()
    roomy = Small(16)
    trainer(tmp_path / "parts", roomy).run()
    assert set(roomy.asked) == {4}
    trainer(tmp_path / "whole", Small(5)).run()
    assert equal(result(tmp_path / "whole"), result(tmp_path / "parts"))


def test_a_memory_that_holds_no_image_is_one_line(tmp_path):
    with pytest.raises(UserError, match="does not hold 1 images at a time: take precision bf16, a smaller network"):
        trainer(tmp_path, Small(0)).run()


def test_other_faults_are_not_taken_for_a_small_memory(tmp_path):
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer(tmp_path, Small(5, RuntimeError)).run()
