"""The step of score distillation as a whole: its draws, its parts, who learns from what, and when."""

import math

import pytest
import torch
from torch import nn

from scm import trigflow
from scm.networks.model import LogWeight, evaluating
from scm.objectives.diffusion import drop_labels
from scm.objectives.protocol import Batch
from scm.objectives.scd import ConsistencyDistillation
from scm.objectives.score_distillation import FakeScore, ScoreDistillation
from tests.support.models import tiny_model

SIGMA_D, T_MAX = 0.5, 1.5
SETTINGS = {"sigma_d": SIGMA_D, "t_max": T_MAX, "weight": 0.7, "p_mean": 0.4, "p_std": 1.1}
SETTINGS |= {"fake_p_mean": -0.9, "fake_p_std": 1.5, "guidance": (1.0, 3.0), "label_dropout": 0.4}
SCM = {"sigma_d": SIGMA_D, "p_mean": -1.0, "p_std": 1.4, "guidance": (1.0, 3.0), "label_dropout": 0.4}


def head() -> LogWeight:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        made = LogWeight().double()
        nn.init.normal_(made.linear.weight, std=0.05)
    return made


class Parts:
    """Student, fake score, teacher and the objective over them."""

    def __init__(self, *, scm: bool = True, dropout: float = 0.0, **changes: object) -> None:
        self.student = tiny_model(1, guidance=True).double()
        self.network = tiny_model(3, guidance=True, dropout=dropout).double()
        self.teacher = tiny_model(2).double()
        with torch.no_grad():  # the guidance scale matters
            for model in (self.student, self.network):
                for name, parameter in model.named_parameters():
                    if "_guidance" in name:
                        parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(5))
        self.fake = FakeScore(self.network, head())
        self.scm = ConsistencyDistillation(**SCM, teacher=self.teacher) if scm else None
        self.objective = ScoreDistillation(
            **{**SETTINGS, **changes}, teacher=self.teacher, fake=self.fake, consistency=self.scm
        )

    def losses(self, images_seen: int = 0, **place: int):
        return self.objective(self.student, batch(**place), images_seen)


def batch(rank: int = 0, world: int = 1) -> Batch:
    draws = torch.Generator().manual_seed(0)
    x_0, count = torch.randn(6, 1, 8, 8, generator=draws, dtype=torch.float64) * 0.5, 6 // world
    own = slice(rank * count, (rank + 1) * count)
    return Batch(x_0[own], (torch.arange(6) % 3)[own], draws, rank, world)


@pytest.mark.parametrize("scm", [True, False])
def test_each_part_by_its_formula(scm):
    """The step written out: what is drawn, who is evaluated where, and how the parts are weighted."""
    parts, again = Parts(scm=scm), batch()
    losses = parts.losses()
    total, sigma = torch.zeros(6, dtype=torch.float64), SIGMA_D
    if parts.scm is not None:
        alone = parts.scm(parts.student, again, 0)
        total = total + alone.value
        assert torch.equal(losses.t, alone.t)
        assert all(torch.equal(losses.figures[name], value) for name, value in alone.figures.items())
    labels = drop_labels(again, 0.4)
    scale = 1 + 2 * again.uniform()
    z, t_max = again.normal(1, 8, 8) * sigma, torch.full((6,), T_MAX, dtype=torch.float64)
    assert (labels == -1).any() and (labels >= 0).any()
    output = parts.student(z / sigma, t_max, labels, guidance=scale)
    sample = (math.cos(T_MAX) * z - math.sin(T_MAX) * sigma * output).detach()

    t = trigflow.propose_times(again.normal(), 0.4, 1.1, sigma)
    x_t = trigflow.interpolate(sample, again.normal(1, 8, 8) * sigma, t)
    with torch.no_grad():
        fake = parts.network(x_t / sigma, t, labels, guidance=scale)
        alone, cond = (parts.teacher(x_t / sigma, t, which) for which in (torch.full_like(labels, -1), labels))
        difference = fake - (alone + scale[:, None, None, None] * (cond - alone))
    w = parts.fake.log_weight_head(t)
    vsd = w.exp() * (sigma * (output - output.detach()) + difference).square().mean(dim=(1, 2, 3)) - w
    assert torch.allclose(losses.parts["vsd"].value, vsd, rtol=0, atol=1e-12)
    assert torch.equal(losses.parts["vsd"].t, t)

    t = trigflow.propose_times(again.normal(), -0.9, 1.5, sigma)
    noise = again.normal(1, 8, 8) * sigma
    x_t, v_t = trigflow.interpolate(sample, noise, t), trigflow.velocity(sample, noise, t)
    error = (sigma * parts.network(x_t / sigma, t, labels, guidance=scale) - v_t).square().mean(dim=(1, 2, 3))
    w = parts.network.log_weight(t)
    assert torch.allclose(losses.parts["fake"].value, w.exp() * error - w, rtol=0, atol=1e-12)
    assert torch.equal(losses.parts["fake"].t, t)
    assert torch.allclose(losses.parts["fake"].figures["squared_error"], error.detach() / sigma**2, atol=1e-12)
    assert torch.equal(losses.parts["fake"].figures["log_weight"], w.detach())
    assert torch.equal(losses.parts["fake"].figures["sample_norm"], sample.square().mean(dim=(1, 2, 3)).sqrt())

    total = total + 0.7 * vsd + w.exp() * error - w
    assert torch.allclose(losses.value, total, rtol=0, atol=1e-11)
    gradients = []
    for value in (losses.value, total):
        found = torch.autograd.grad(value.mean(), list(parts.student.parameters()), allow_unused=True)
        gradients.append([gradient for gradient in found if gradient is not None])
    assert all(torch.allclose(*pair, rtol=0, atol=1e-11) for pair in zip(*gradients, strict=True))
    if not scm:
        assert torch.equal(losses.t, t_max) and set(losses.figures) == {"output_norm"}
        norm = output.detach().square().mean(dim=(1, 2, 3)).sqrt()
        assert torch.allclose(losses.figures["output_norm"], norm, atol=1e-12)


def test_the_three_losses_share_no_gradients():
    """L_VSD reaches the generator and w_psi alone; the fake score's loss the fake score alone; nothing the teacher."""
    parts = Parts()
    losses = parts.losses()

    def reached(value: torch.Tensor) -> set[str]:
        named = {
            "student": parts.student.network, "student's w": parts.student.log_weight_head,
            "fake": parts.network.network, "fake's w": parts.network.log_weight_head,
            "w_psi": parts.fake.log_weight_head, "teacher": parts.teacher,
        }  # fmt: skip
        found = set()
        for name, module in named.items():
            weights = list(module.parameters())
            gradients = torch.autograd.grad(value.sum(), weights, retain_graph=True, allow_unused=True)
            if any(gradient is not None for gradient in gradients):
                found.add(name)
        return found

    assert reached(losses.parts["vsd"].value) == {"student", "w_psi"}
    assert reached(losses.parts["fake"].value) == {"fake", "fake's w"}
    assert reached(losses.value) == {"student", "student's w", "fake", "fake's w", "w_psi"}


@pytest.mark.parametrize("updates", [1, 2, 3])
@pytest.mark.parametrize("scm", [True, False])
@pytest.mark.parametrize("world", [1, 2])
def test_the_generator_learns_every_so_many_steps(updates, scm, world):
    """In the last of `updates` steps, counted in global batches; the fake score in each."""
    parts, recorded = Parts(scm=scm, updates=updates), []
    parts.student.register_forward_hook(lambda *_: recorded.append(torch.is_grad_enabled()))
    for step in range(6):
        recorded.clear()
        losses = parts.losses(images_seen=step * 6, world=world)
        learns = step % updates == updates - 1
        assert recorded == [learns] * (2 if learns and scm else 1)  # no graph where nothing is learned
        assert set(losses.parts) == ({"vsd", "fake"} if learns else {"fake"})
        assert ("tangent_norm" in losses.figures) == (learns and scm)
        assert ("output_norm" in losses.figures) == (learns or not scm)  # of a time, or of the times, of its own
        assert losses.recorded == learns
        weights = list(parts.student.parameters())
        gradients = torch.autograd.grad(losses.value.sum(), weights, allow_unused=True, retain_graph=True)
        assert any(gradient is not None for gradient in gradients) == learns
        (bias,) = torch.autograd.grad(losses.value.sum(), [parts.network.log_weight_head.linear.bias])
        assert bias.abs().sum() > 0
        if not learns:
            assert torch.equal(losses.value, losses.parts["fake"].value)


def test_the_fake_score_is_compared_without_dropout_and_trained_with_it():
    dropped, plain = Parts(dropout=0.5, scm=False), Parts(scm=False)
    for parts in (dropped, plain):
        parts.fake.train()
    torch.manual_seed(0)
    found, expected = dropped.losses(), plain.losses()
    assert torch.equal(found.parts["vsd"].value, expected.parts["vsd"].value)
    assert not torch.allclose(found.parts["fake"].value, expected.parts["fake"].value, rtol=1e-3)
    assert all(module.training for module in dropped.network.modules())


def test_evaluating_gives_the_mode_back():
    module = nn.Linear(1, 1)
    for mode in (True, False):
        module.train(mode)
        with evaluating(module):
            assert not module.training
        assert module.training == mode
        with pytest.raises(KeyError), evaluating(module):
            raise KeyError
        assert module.training == mode


@pytest.mark.parametrize("scm", [True, False])
def test_two_ranks_losses_are_the_whole_batchs(scm):
    """Draws, times, scales and losses of the parts of a batch, side by side."""
    parts = Parts(scm=scm)
    whole, ranks = parts.losses(), [parts.losses(rank=rank, world=2) for rank in range(2)]
    assert torch.allclose(torch.cat([each.value for each in ranks]), whole.value, rtol=0, atol=1e-10)
    for name, part in whole.parts.items():
        assert torch.equal(torch.cat([each.parts[name].t for each in ranks]), part.t)
        assert torch.allclose(torch.cat([each.parts[name].value for each in ranks]), part.value, rtol=0, atol=1e-10)
    scales = [batch(rank, 2).uniform() for rank in range(2)]
    assert torch.equal(torch.cat(scales), batch().uniform())
    assert batch(1, 2).size == batch().size == 6
