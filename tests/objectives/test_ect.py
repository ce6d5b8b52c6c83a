"""Easy consistency tuning against its definition in EDM's terms, its two limits, and data with a known flow."""

import math

import pytest
import torch
from torch import nn

from scm import trigflow
from scm.objectives.ect import EasyConsistencyTuning
from scm.objectives.protocol import Batch
from scm.objectives.sct import ConsistencyTraining
from tests.support.closed_forms import DATA, SIGMA_D, Student, pull
from tests.support.models import tiny_model

PROPOSAL = {"sigma_d": SIGMA_D, "p_mean": -0.8, "p_std": 1.2}
SCHEDULE = {"q": 2.0, "k": 8.0, "b": 1.0, "doubling": 1000}
LABELS = torch.tensor([0, 1, 2, -1])
both = pytest.mark.parametrize("data", [make() for make in DATA.values()], ids=DATA)


def ect(**changes) -> EasyConsistencyTuning:
    return EasyConsistencyTuning(**{**PROPOSAL, **SCHEDULE, "c": 0.0, **changes})


def images(seed: int = 0, count: int = 4) -> Batch:
    draws = torch.Generator().manual_seed(seed)
    x_0 = torch.randn(count, 1, 8, 8, generator=draws, dtype=torch.float64) * SIGMA_D
    return Batch(x_0, LABELS.repeat(count)[:count], draws)


def drawn(batch: Batch):
    """sigma of each sample and its noise eps, in the order of the objective's draws."""
    sigma = torch.exp(batch.normal() * 1.2 - 0.8)
    return sigma, batch.normal(*batch.x_0.shape[1:])


@pytest.mark.parametrize("stage", [1, 2, 4, 10])
def test_the_mapping_of_noise_levels(stage):
    """r = sigma (1 - n / q^a)+ with n = 1 + k sigmoid(-b sigma): by hand, at both ends of a stage."""
    sigma = torch.tensor([0.002, 0.1, 1.0, 2.0, 80.0], dtype=torch.float64)
    n = [1 + 8 / (1 + math.exp(value)) for value in sigma.tolist()]
    expected = [min(1.0, each / 2**stage) for each in n]
    for seen in (1000 * (stage - 1), 1000 * stage - 1):
        assert ect().fraction(sigma, seen).tolist() == pytest.approx(expected, rel=1e-12)
    assert ect().fraction(sigma, 1000 * stage)[-1] < ect().fraction(sigma, 0)[-1]
    doubled = ect(q=3.0, k=2.0, b=0.5).fraction(sigma, 0)
    assert doubled.tolist() == pytest.approx(
        [min(1.0, (1 + 2 / (1 + math.exp(value / 2))) / 3) for value in sigma.tolist()], rel=1e-12
    )


@pytest.mark.parametrize("c", [0.0, 0.5])
@pytest.mark.parametrize("seen", [0, 1500, 3500])
def test_loss_and_gradient_by_the_definition_in_edms_terms(c, seen):
    """x_sigma = x_0 + sigma eps, D = c_skip x + c_out F_edm(c_in x), F_edm = -F; pseudo-Huber over sigma - r."""
    student, objective = tiny_model(1).double(), ect(c=c, p_mean=-0.8, p_std=1.2)
    losses = objective(student, images(count=8), seen)
    batch = images(count=8)
    sigma, eps = drawn(batch)
    n = 1 + 8 * torch.sigmoid(-sigma)
    r = (sigma * (1 - n / 2 ** (1 + seen // 1000))).clamp(min=0)

    def denoiser(level):
        at = level[:, None, None, None]
        x, total = batch.x_0 + at * eps, (at**2 + SIGMA_D**2)
        inner = -student(x / total.sqrt(), torch.atan(level / SIGMA_D), batch.labels)
        return SIGMA_D**2 / total * x + level[:, None, None, None] * SIGMA_D / total.sqrt() * inner

    target = torch.where((r > 0)[:, None, None, None], denoiser(r.clamp(min=1e-9)).detach(), batch.x_0)
    squared = (denoiser(sigma) - target).square().sum(dim=(1, 2, 3))
    expected = ((squared + c**2).sqrt() - c) / (sigma - r)
    assert (r > 0).any() == (seen > 0 or (n < 2).any().item()) and torch.allclose(losses.value, expected, rtol=1e-9)
    assert torch.allclose(losses.t, torch.atan(sigma / SIGMA_D), rtol=1e-12)
    assert torch.allclose(losses.figures["squared_error"], squared.detach() / 64 / SIGMA_D**2, rtol=1e-9)
    weights = [p for name, p in student.named_parameters() if not name.startswith("log_weight")]
    found, wanted = (torch.autograd.grad(value.mean(), weights) for value in (losses.value, expected))
    assert all(torch.allclose(*pair, rtol=1e-7, atol=1e-9) for pair in zip(found, wanted, strict=True))
    assert max(gradient.abs().max() for gradient in found) > 1e-3


def test_where_the_earlier_time_is_zero_it_is_the_denoising_regression():
    """f - x_0 = -sin t (sigma_d F - v_t): the distance is the diffusion loss's, and for a large c so is its square."""
    student, stage = tiny_model(1).double(), {"b": 0.0}  # b = 0: n = 5 at all noise levels, more than q^a
    losses = ect(**stage)(student, images(), 0)
    again = images()
    sigma, eps = drawn(again)
    t, z = torch.atan(sigma / SIGMA_D), eps * SIGMA_D
    x_t, v_t = trigflow.interpolate(again.x_0, z, t), trigflow.velocity(again.x_0, z, t)
    error = SIGMA_D * student(x_t / SIGMA_D, t, again.labels) - v_t
    squared = torch.sin(t) ** 2 * error.square().sum(dim=(1, 2, 3))
    assert torch.allclose(losses.value, squared.sqrt() / sigma, rtol=1e-10)
    large = ect(**stage, c=1e4)(student, images(), 0)
    assert torch.allclose(large.value, squared / (2e4 * sigma), rtol=1e-5)


def test_in_the_limit_the_gradient_has_scts_direction():
    """Per sample: grad ECT (sigma - r) / (sigma_d sin t) -> grad of sCT with g / ||g||, times D / 2; first order."""
    student = tiny_model(1).double()
    weights = [p for name, p in student.named_parameters() if name.endswith("weight") and "log_weight" not in name]

    def gradient(objective, seed: int, scale) -> torch.Tensor:
        losses = objective(student, images(seed, 1), 0)
        found = torch.autograd.grad(losses.value.sum(), weights)
        return torch.cat([each.flatten() for each in found]) * scale(losses.t.item())

    limit = ConsistencyTraining(**PROPOSAL, tangent="normalized", tangent_norm_c=1e-12, adaptive_weighting=False)

    def error(q: float, seed: int) -> float:
        expected = gradient(limit, seed, lambda t: 64 / 2)
        found = gradient(ect(q=q, k=0.0), seed, lambda t: math.tan(t) / q / math.sin(t))
        return ((found - expected).norm() / expected.norm()).item()

    for seed in range(3):
        assert error(2.0**12, seed) / error(2.0**13, seed) == pytest.approx(2, abs=0.1)
        assert error(2.0**20, seed) < 1e-3


@both
@pytest.mark.parametrize("c", [0.0, 0.3])
def test_on_known_data_in_closed_form(data, c):
    """Measures the bent solution f* (1 - bend sigma_d sin t): value, and the pull on the bend."""
    bend, student = 0.8, Student(data, 0.8)
    losses = ect(c=c)(student, data.batch(), 2500)
    batch = data.batch()
    sigma, eps = drawn(batch)
    r = (sigma * (1 - (1 + 8 * torch.sigmoid(-sigma)) / 8)).clamp(min=0)

    def solution(level):
        t = torch.atan(level / SIGMA_D)
        x_t = trigflow.interpolate(batch.x_0, eps * SIGMA_D, t)
        return data.flow(x_t, t, torch.zeros_like(t)), trigflow.per_sample(SIGMA_D * torch.sin(t), x_t)

    (now, lean), (before, lean_before) = solution(sigma), solution(r)
    difference = now * (1 - bend * lean) - before * (1 - bend * lean_before)
    length = (difference.square().flatten(1).sum(dim=1) + c**2).sqrt()
    assert torch.allclose(losses.value, (length - c) / (sigma - r), rtol=1e-7)
    losses.value.sum().backward()
    expected = ((difference * -now * lean).flatten(1).sum(dim=1) / length / (sigma - r)).sum()
    assert student.bend.grad.item() == pytest.approx(expected.item(), rel=1e-7)


@both
def test_the_exact_solution_is_the_fixed_point_of_small_differences(data):
    """With squared distances the mean gradient vanishes at bend = 0 and leads back there from both sides."""
    objective = ect(q=2.0**10, k=0.0, c=1e3, p_std=0.8)
    mean, error = pull(objective, data, 0.0, 10, 128)
    assert abs(mean) < 5 * error
    for bend in (-1.0, 1.0):
        mean, error = pull(objective, data, bend, 10, 128)
        assert mean * bend > 5 * error


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_both_evaluations_drop_the_same_units_and_the_later_alone_has_a_graph(dropout):
    """Else the difference would be noise over a small step."""
    student, graphs = tiny_model(1, dropout=dropout).double().train(), []

    class Watched(nn.Module):
        def forward(self, x, t, labels):
            graphs.append(torch.is_grad_enabled())
            return student(x, t, labels)

    torch.manual_seed(5)
    losses = ect(q=2.0**20, k=0.0)(Watched(), images(), 0)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    with torch.no_grad():
        student(images().x_0, torch.ones(4, dtype=torch.float64), LABELS)
    assert torch.equal(torch.get_rng_state(), after) and graphs == [False, True]
    assert (losses.figures["squared_error"] < 1e-6).all()


def test_a_difference_of_zero_has_a_gradient_of_zero():
    """Though the distance, a square root, has none there."""

    class Still(Batch):
        def normal(self, *shape: int) -> torch.Tensor:
            return torch.zeros(len(self.x_0), *shape, dtype=torch.float64)

    add = nn.Parameter(torch.zeros((), dtype=torch.float64))
    nothing = Still(torch.zeros(2, 1, 8, 8, dtype=torch.float64), LABELS[:2], torch.Generator())
    losses = ect()(lambda x, t, labels: x + add, nothing, 0)
    losses.value.sum().backward()
    assert not losses.value.any() and add.grad == 0


def test_a_network_of_ln_sigma_stays_finite_at_an_earlier_time_of_zero():
    """ln tan 0 is infinite; what the network would answer there is multiplied by sin 0."""
    student = tiny_model(1, c_noise="log_sigma").double()
    losses = ect(b=0.0)(student, images(), 0)
    losses.value.sum().backward()
    assert losses.value.isfinite().all()
    assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)


def test_labels_are_dropped_after_times_and_noise():
    student, told = tiny_model(1).double(), []

    class Told(nn.Module):
        def forward(self, x, t, labels):
            told.append(labels)
            return student(x, t, labels)

    ect(label_dropout=0.5)(Told(), images(count=32), 0)
    again = images(count=32)
    drawn(again)
    dropped = torch.where(again.normal() < 0, -1, again.labels)
    assert len(told) == 2 and all(torch.equal(each, dropped) for each in told) and (dropped != again.labels).any()
