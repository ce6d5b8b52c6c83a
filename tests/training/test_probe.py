"""The distance of a student's samples while it trains."""

import math
from pathlib import Path

import pytest
import torch

from scm.base.frechet import frechet_distance
from scm.networks import Model
from scm.objectives.sct import ConsistencyTraining
from scm.samplers import SampleNoise, consistency
from scm.training import loop
from scm.training.probe import Probe, pooled, statistics
from scm.training.record import METRICS
from tests.support.loops import ALONE, Digits, equal, result, settings
from tests.support.models import tiny_model

T_MAX = math.atan(80 / 0.5)


def weights_of(model: Model) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def probe(**changes) -> Probe:
    return Probe(Digits(16), 16, 0, T_MAX, 0.5, **changes)


def test_features_are_means_of_squares_of_pixels():
    x = torch.arange(2 * 8 * 8, dtype=torch.float32).reshape(1, 2, 8, 8)
    assert pooled(x).shape == (1, 32)
    assert pooled(x)[0, 0] == x[0, 0, :2, :2].double().mean()
    assert torch.equal(pooled(x[:, :1, :2, :2]), x[:, :1, :2, :2].double().flatten(1))
    mean, covariance = statistics(torch.tensor([[1.0], [3.0]]).double())
    assert (mean.tolist(), covariance.tolist()) == ([2.0], [[2.0]])


def test_the_samples_are_one_step_of_the_model_with_the_given_weights():
    """Against the sampler, with a model that holds the weights itself and is asked for the labels in their shares."""
    model, other = tiny_model(0), tiny_model(1)
    measured = probe()
    real = torch.cat([Digits(16).batch_at(position)[0] for position in range(0, 2048, 16)])
    labels = torch.tensor([0] * 96 + [1] * 80 + [2] * 80)  # of 16 images, 6 are of the first class
    noise = SampleNoise(measured._seeds, (1, 8, 8))
    with torch.no_grad():
        samples = consistency(lambda x, t: other.eval()(x, t, labels), noise, [T_MAX], 0.5)
    expected = frechet_distance(*statistics(pooled(real)), *statistics(pooled(samples)))
    assert measured(model, weights_of(other))["sample_fd"] == pytest.approx(expected, rel=1e-5)


def test_a_probe_changes_neither_weights_nor_mode_nor_random_state():
    model = tiny_model(dropout=0.5).train()
    before, state = weights_of(model), torch.get_rng_state()
    measured = probe()
    first = measured(model, weights_of(tiny_model(1)))
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert measured(model, weights_of(tiny_model(1))) == first != measured(model, before)


def test_samples_that_are_not_finite_are_infinitely_far():
    model = tiny_model()
    spoiled = {name: value * math.nan for name, value in weights_of(model).items()}
    assert probe()(model, spoiled) == {"sample_fd": math.inf}


def test_students_with_further_inputs_are_sampled_as_they_are():
    segmented = tiny_model(segments=True)
    distances = {probe(segments=segments)(segmented, weights_of(segmented))["sample_fd"] for segments in (1, 2)}
    assert len(distances) == 2 and all(map(math.isfinite, distances))
    guided = tiny_model(guidance=True)
    for parameter in guided.network.emb_guidance.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    distances = {probe(guidance=scale)(guided, weights_of(guided))["sample_fd"] for scale in (1.0, 2.0)}
    assert len(distances) == 2 and all(map(math.isfinite, distances))


def test_training_has_the_same_bits_with_a_probe_and_without(tmp_path: Path):
    def train(work: Path, measured: Probe | None) -> dict[str, dict[str, torch.Tensor]]:
        objective = ConsistencyTraining(sigma_d=0.5, p_mean=-1.0, p_std=1.4)
        model = tiny_model(dropout=0.2)
        arguments = (settings(), work, ALONE, lambda: False, lambda text: None)
        loop.Trainer(model, objective, Digits(16), *arguments, None, measured).run()
        return result(work)

    assert equal(train(tmp_path / "without", None), train(tmp_path / "with", probe()))
    assert "sample_fd" in (tmp_path / "with" / METRICS).read_text()
    assert "sample_fd" not in (tmp_path / "without" / METRICS).read_text()
