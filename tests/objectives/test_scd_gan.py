"""sCD + GAN: both players' gradients and optima in closed form, who learns from what, and the teacher's features."""

import math

import pytest
import torch
from torch import nn

from scm import trigflow
from scm.jvp import output_and_tangent, recomputed
from scm.networks.layers import recompute_blocks
from scm.objectives.diffusion import drop_labels
from scm.objectives.protocol import Batch, Losses
from scm.objectives.scd import ConsistencyDistillation
from scm.objectives.scd_gan import BlockFeatures, ConsistencyAndAdversary, Discriminator, blocks_watched
from tests.support.closed_forms import SIGMA_D, T_MAX, Data
from tests.support.models import FAMILIES, tiny_model

GAN = {"sigma_d": SIGMA_D, "t_max": T_MAX, "weight": 0.7, "p_mean": 0.2, "p_std": 1.1}
SCM = {"sigma_d": SIGMA_D, "p_mean": -1.0, "p_std": 1.4, "guidance": (1.0, 3.0), "label_dropout": 0.4}


class Generator(nn.Module):
    """f(z, t_max) = mean + width z / sigma_d: samples N(mean, width^2)."""

    def __init__(self, mean: float, width: float) -> None:
        super().__init__()
        self.mean, self.width = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (mean, width))

    def forward(self, x, t, labels=None):
        sample = self.mean + self.width * x
        return (math.cos(T_MAX) * x * SIGMA_D - sample) / (math.sin(T_MAX) * SIGMA_D)


class Slope(nn.Module):
    """D(x) = slope x / sigma_d + level, of a feature that is the sample itself."""

    def __init__(self, slope: float, level: float = 0.0) -> None:
        super().__init__()
        self.slope, self.level = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (slope, level))

    def forward(self, features):
        return [self.slope * each + self.level for each in features]


class Sign(nn.Module):
    """D(x) = height sign(x)."""

    def __init__(self, height: float) -> None:
        super().__init__()
        self.height = nn.Parameter(torch.tensor(height, dtype=torch.float64))

    def forward(self, features):
        return [self.height * each.sign() for each in features]


def nothing(model, batch: Batch, images_seen: int) -> Losses:
    """No sCD: both players alone."""
    return Losses(torch.zeros(len(batch.x_0), dtype=torch.float64), torch.zeros(len(batch.x_0), dtype=torch.float64))


def players(discriminator: nn.Module, **changes) -> ConsistencyAndAdversary:
    settings = {**GAN, "consistency": nothing, **changes}
    return ConsistencyAndAdversary(**settings, features=lambda x, t, labels: [x], discriminator=discriminator)


def data(mean: float, width: float = 0.3) -> Data:
    made = Data((1.0,), (mean,), width, elements=1)
    return made


def test_the_students_gradient_leads_where_the_heads_see_real_samples():
    """D = slope x / sigma_d: dL/dmean = -slope E cos t / sigma_d, and dL/dwidth its product with z / sigma_d."""
    for slope in (0.8, -0.8):
        generator, source = Generator(-0.4, 0.3), data(0.4).batch(64)
        losses = players(Slope(slope))(generator, source, 0).parts["gan"]
        losses.value.mean().backward()
        again = data(0.4).batch(64)
        z = again.normal(1, 1, 1)
        cos = torch.cos(trigflow.propose_times(again.normal(), 0.2, 1.1, SIGMA_D))
        assert generator.mean.grad.item() == pytest.approx(-slope * cos.mean().item() / SIGMA_D, rel=1e-10)
        width = -slope * (cos * z.flatten()).mean().item() / SIGMA_D
        assert generator.width.grad.item() == pytest.approx(width, rel=1e-9)
        assert generator.mean.grad * slope < 0  # so that a step raises D of the samples


@pytest.mark.parametrize("mean", [0.3, -0.3])
def test_the_discriminators_gradient_in_closed_form_and_its_direction(mean):
    """At D = 0 the hinge is open on both sides: dL/dslope = (E generated - E real) / sigma_d, dL/dlevel = 0."""
    generator, discriminator = Generator(-mean, 0.3), Slope(0.0)
    losses = players(discriminator)(generator, data(mean).batch(20_000), 0).parts["discriminator"]
    losses.value.mean().backward()
    expected = -2 * mean * torch.cos(losses.t).mean().item() / SIGMA_D
    assert discriminator.slope.grad.item() == pytest.approx(expected, rel=0.05)
    assert discriminator.level.grad.item() == pytest.approx(0, abs=1e-12)
    assert torch.equal(losses.value, torch.full_like(losses.value, 2.0))
    assert discriminator.slope.grad * mean < 0  # so that a step makes D positive where the real samples are


def test_the_best_discriminator_measures_the_distance_of_the_distributions():
    """The sign separates N(-m, s^2) and N(m, s^2) best, with L_D = 2 (1 - TV) = 4 Phi(-m_t / s_t): it ends at 1."""
    generator, far = Generator(-0.4, 0.3), {"p_mean": -1.0, "p_std": 1e-9}
    t = math.atan(math.exp(-1.0) / SIGMA_D)
    ratio = 0.4 * math.cos(t) / math.hypot(0.3 * math.cos(t), SIGMA_D * math.sin(t))
    wrong = 0.5 * math.erfc(ratio / 2**0.5)

    def at(height: float) -> tuple[float, float]:
        discriminator = Sign(height)
        value = players(discriminator, **far)(generator, data(0.4).batch(20_000), 0).parts["discriminator"].value.mean()
        value.backward()
        return value.item(), discriminator.height.grad.item()

    assert at(1.0)[0] == pytest.approx(4 * wrong, rel=0.03)
    for height, slope in ((0.5, -2 * (1 - 2 * wrong)), (1.5, 2 * wrong)):
        assert at(height)[1] == pytest.approx(slope, rel=0.05)


def test_both_players_end_at_the_data():
    """Simultaneous steps with an a discriminator that decays: the generator's mean comes to the data's, D to 0."""
    generator, discriminator = Generator(-0.4, 0.3), Slope(0.0)
    made = players(discriminator, p_mean=-1.0, p_std=0.1, weight=1.0)
    for step in range(150):
        for module in (generator, discriminator):
            module.zero_grad()
        made(generator, data(0.2).batch(256, step), 0).value.mean().backward()
        with torch.no_grad():
            generator.mean -= 0.05 * generator.mean.grad
            discriminator.slope -= 0.2 * discriminator.slope.grad + 0.2 * discriminator.slope
    assert generator.mean.item() == pytest.approx(0.2, abs=0.05) and abs(discriminator.slope.item()) < 0.2


class Whole:
    """Student, teacher and heads of tiny networks."""

    def __init__(self, heads: int = 3) -> None:
        self.student, self.teacher = tiny_model(1, guidance=True).double(), tiny_model(2).double().requires_grad_(False)
        features = BlockFeatures(self.teacher, heads)
        x, t = torch.zeros(1, 1, 8, 8, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            channels = [each.shape[1] for each in features(x, t, torch.zeros(1, dtype=torch.int64))]
            self.heads = Discriminator(channels, 4).double()
        self.scm = ConsistencyDistillation(**SCM, teacher=self.teacher)
        common = {"guidance": (1.0, 3.0), "label_dropout": 0.4, "consistency": self.scm}
        self.objective = ConsistencyAndAdversary(**GAN, **common, features=features, discriminator=self.heads)


def batch(rank: int = 0, world: int = 1) -> Batch:
    draws = torch.Generator().manual_seed(0)
    x_0, count = torch.randn(6, 1, 8, 8, generator=draws, dtype=torch.float64) * SIGMA_D, 6 // world
    own = slice(rank * count, (rank + 1) * count)
    return Batch(x_0[own], (torch.arange(6) % 3)[own], draws, rank, world)


def test_the_step_by_its_definition():
    """What is drawn, what the teacher and the heads are shown, and how the parts are weighted."""
    whole, again = Whole(), batch()
    losses = whole.objective(whole.student, batch(), 0)
    alone = whole.scm(whole.student, again, 0)
    labels, scale = drop_labels(again, 0.4), 1 + 2 * again.uniform()
    z, t_max = again.normal(1, 8, 8) * SIGMA_D, torch.full((6,), T_MAX, dtype=torch.float64)
    output = whole.student(z / SIGMA_D, t_max, labels, guidance=scale)
    sample = math.cos(T_MAX) * z - math.sin(T_MAX) * SIGMA_D * output
    t = trigflow.propose_times(again.normal(), 0.2, 1.1, SIGMA_D)
    shown = [trigflow.interpolate(x, again.normal(1, 8, 8) * SIGMA_D, t) for x in (sample, batch().x_0)]
    generated, real = (whole.heads(whole.objective.features(x / SIGMA_D, t, labels)) for x in shown)

    def each(logits, function):
        return sum(function(logit).mean(dim=(1, 2, 3)) for logit in logits) / 3

    gan = -each(generated, lambda logit: logit)
    judged = each(real, lambda logit: (1 - logit).clamp(min=0)) + each(
        generated, lambda logit: (1 + logit).clamp(min=0)
    )
    assert torch.allclose(losses.parts["gan"].value, gan, rtol=1e-10)
    assert torch.allclose(losses.parts["discriminator"].value, judged, rtol=1e-10)
    assert torch.allclose(losses.value, alone.value + 0.7 * gan + judged, rtol=1e-10)
    assert torch.equal(losses.t, alone.t) and all(torch.equal(part.t, t) for part in losses.parts.values())
    figures = losses.parts["discriminator"].figures
    assert torch.allclose(figures["generated"], -gan.detach(), rtol=1e-10) and not figures["real"].requires_grad
    weights = [p for name, p in whole.student.named_parameters() if "log_weight" not in name]
    found, expected = (
        torch.autograd.grad(value.sum(), weights, retain_graph=True) for value in (losses.parts["gan"].value, gan)
    )
    assert all(torch.allclose(*pair, rtol=1e-8, atol=1e-12) for pair in zip(found, expected, strict=True))
    assert max(gradient.abs().max() for gradient in found) > 1e-4


def test_the_players_share_no_gradients():
    whole = Whole()
    losses = whole.objective(whole.student, batch(), 0)

    def reached(value: torch.Tensor) -> set[str]:
        found = set()
        for name, module in {"student": whole.student, "heads": whole.heads}.items():
            weights = list(module.parameters())
            gradients = torch.autograd.grad(value.sum(), weights, retain_graph=True, allow_unused=True)
            if any(gradient is not None and gradient.any() for gradient in gradients):
                found.add(name)
        return found

    assert reached(losses.parts["gan"].value) == {"student"}
    assert reached(losses.parts["discriminator"].value) == {"heads"}
    assert reached(losses.value) == {"student", "heads"}
    losses.value.mean().backward()
    assert all(p.grad is None for p in whole.teacher.parameters())
    assert all(p.requires_grad for p in whole.heads.parameters())


def test_two_ranks_losses_are_the_whole_batchs():
    whole = Whole()
    one, ranks = (
        whole.objective(whole.student, batch(), 0),
        [whole.objective(whole.student, batch(rank, 2), 0) for rank in range(2)],
    )
    for name, part in one.parts.items():
        assert torch.allclose(torch.cat([each.parts[name].value for each in ranks]), part.value, rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", ["edm2-trigflow", "ddpmpp-trigflow"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_features_are_the_outputs_of_blocks_and_leave_the_network_as_it_was(family, checkpointing):
    model = tiny_model(1, **FAMILIES[family]).double().eval().requires_grad_(False)
    if checkpointing:
        recompute_blocks(model, recomputed)
    x, t, labels = torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.tensor([0.3, 1.2]), torch.tensor([1, -1])
    t, seen, before = t.double(), {}, model.network.evaluate
    blocks = [*list(model.network.encoder.values())[1:], *model.network.decoder.values()]
    hooks = [
        block.register_forward_hook(lambda _, __, output, index=index: seen.setdefault(index, output.detach()))
        for index, block in enumerate(blocks)
    ]
    expected = model(x, t, labels)
    for hook in hooks:
        hook.remove()
    with blocks_watched(model) as found:
        assert torch.equal(model(x, t, labels), expected)
    assert len(found) == len(blocks) and all(torch.equal(one, seen[index]) for index, one in enumerate(found))
    three = BlockFeatures(model, 3)(x, t, labels)
    ends = [len(blocks) // 3 - 1, 2 * len(blocks) // 3 - 1, len(blocks) - 1]
    assert all(torch.equal(one, seen[index]) for one, index in zip(three, ends, strict=True))
    with pytest.raises(KeyError), blocks_watched(model):
        raise KeyError
    assert model.network.evaluate is before
    # Gradients to the input, and tangents afterwards.
    asked = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(BlockFeatures(model, 3)(asked, t, labels)[1].square().sum(), asked)
    step, h = torch.randn_like(x), 1e-6
    ahead, behind = (BlockFeatures(model, 3)(x + s * h * step, t, labels)[1].square().sum() for s in (1, -1))
    assert (gradient * step).sum().item() == pytest.approx(((ahead - behind) / (2 * h)).item(), rel=1e-5)
    output, tangent = output_and_tangent(lambda x, t: model(x, t, labels), (x, t), (step, torch.ones_like(t)))
    assert torch.allclose(output, expected, rtol=0, atol=1e-12) and tangent.abs().max() > 0


def test_tokens_are_judged_as_places_in_a_line():
    """A transformer's blocks return [B, tokens, channels]."""
    model, x, t = tiny_model(**FAMILIES["dit"]).eval(), torch.randn(2, 1, 8, 8), torch.tensor([0.3, 1.1])
    with blocks_watched(model) as found:
        model(x, t, torch.tensor([0, 1]))
    (last,) = BlockFeatures(model, 1)(x, t, torch.tensor([0, 1]))
    assert torch.equal(last[..., 0].transpose(1, 2), found[-1]) and last.dim() == 4
    (judged,) = Discriminator([last.shape[1]], 4)([last])
    assert judged.shape == (2, 1, found[-1].shape[1], 1)
