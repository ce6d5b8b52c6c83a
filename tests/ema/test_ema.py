"""Post-hoc EMA against EDM2's figures and against averages computed directly."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from scm.base import weights
from scm.ema.profiles import coefficients, decay, exponent_of, inner_product, relative_width
from scm.ema.reconstruct import HALFLIFE_FILE, reconstruct, snapshot_file, snapshot_times
from scm.ema.reconstruct import averages as offered
from scm.ema.tracker import Averages
from scm.errors import UserError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "edm2.json").read_text())


def test_exponents_are_edm2s():
    for sigma_rel, gamma in GOLDEN["std_to_exp"].items():
        assert exponent_of(float(sigma_rel)) == pytest.approx(gamma, rel=1e-9)
        assert (gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)) == pytest.approx(float(sigma_rel) ** 2)


@pytest.mark.parametrize("sigma_rel", [0.0, 0.2887, -0.1, 0.5])
def test_lengths_that_do_not_exist_are_refused(sigma_rel):
    with pytest.raises(ValueError, match=r"sigma_rel must lie between 0 and 0\.2887"):
        exponent_of(sigma_rel)


def test_decay_rates_are_edm2s():
    for key, beta in GOLDEN["beta"].items():
        sigma_rel, images = key.split("@")
        assert decay(float(sigma_rel), int(images), 2048) == pytest.approx(beta, rel=1e-9, abs=1e-15)


def test_inner_products_are_edm2s_and_integrals():
    cases = [(8.0, 0.05, 16.0, 0.1), (16.0, 0.1, 8.0, 0.05), (8.0, 0.05, 8.0, 0.05)]
    for (ta, sa, tb, sb), expected in zip(cases, GOLDEN["correlation"], strict=True):
        ga, gb = exponent_of(sa), exponent_of(sb)
        assert inner_product(np.float64(ta), np.float64(ga), np.float64(tb), np.float64(gb)) == pytest.approx(
            expected, rel=1e-9
        )
        tau = (np.arange(400_000) + 0.5) / 400_000 * min(ta, tb)
        profiles = (ga + 1) / ta ** (ga + 1) * tau**ga * (gb + 1) / tb ** (gb + 1) * tau**gb
        assert profiles.mean() * min(ta, tb) == pytest.approx(expected, rel=1e-6)


def test_coefficients_are_edm2s():
    golden = GOLDEN["posthoc_coefs_8x8Mi"]
    times = [8 * 2**20 * i for i in range(1, 9) for _ in range(2)]
    for column, sigma_rel in enumerate(golden["out_std"]):
        ours = coefficients(times, [0.05, 0.1] * 8, times[-1], sigma_rel)
        assert ours == pytest.approx([row[column] for row in golden["X"]], rel=1e-6, abs=1e-9)
        assert ours.sum() == pytest.approx(1)


def train(
    folder: Path, steps: int = 400, snapshots: int = 16, further: dict[float, torch.Tensor] | None = None
) -> list[torch.Tensor]:
    """A random walk with tracked averages and snapshots; returns its weights after each step.

    Args:
        further: gets the tracked average at the end for each sigma_rel among its keys; no snapshot holds these.
    """
    draws, module = torch.Generator().manual_seed(0), nn.Linear(3, 2)
    nn.init.constant_(module.weight, 0.5)
    module.register_buffer("constant", torch.tensor([5.0]))
    averages, path = Averages(module, [0.05, 0.10]), []
    tracked = Averages(module, list(further or {}))
    for step in range(1, steps + 1):
        with torch.no_grad():
            module.weight += 0.1 * torch.randn(2, 3, generator=draws)
        averages.update(step, 1)
        tracked.update(step, 1)
        path.append(module.weight.detach().clone())
        if step % (steps // snapshots) == 0:
            for sigma_rel, average in zip([0.05, 0.10], averages.averages, strict=True):
                header = {"images": step, "sigma_rel": sigma_rel, "buffers": ["constant"]}
                weights.save(folder / snapshot_file(step, sigma_rel), {**average, "constant": module.constant}, header)
    for sigma_rel, average in zip(tracked.sigma_rels, tracked.averages, strict=True):
        assert further is not None
        further[sigma_rel] = average["weight"]
    return path


def test_a_tracked_average_is_the_power_weighted_mean_of_the_path(tmp_path):
    path = train(tmp_path)
    gamma = exponent_of(0.10)
    bounds = torch.arange(0, 401, dtype=torch.float64) / 400
    weight = bounds[1:] ** (gamma + 1) - bounds[:-1] ** (gamma + 1)  # integral of the profile over each step
    expected = (torch.stack(path).double() * weight[:, None, None]).sum(0)
    state, _ = weights.load(tmp_path / snapshot_file(400, 0.10))
    assert torch.allclose(state["weight"].double(), expected, atol=1e-5)


@pytest.mark.parametrize(("sigma_rel", "tolerance"), [(0.05, 1e-5), (0.10, 1e-5), (0.075, 0.02), (0.15, 0.02)])
def test_a_reconstruction_is_the_average_that_was_not_tracked(tmp_path, sigma_rel, tolerance):
    path = train(tmp_path)
    state, header = reconstruct(tmp_path, sigma_rel)
    gamma = exponent_of(sigma_rel)
    bounds = torch.arange(0, 401, dtype=torch.float64) / 400
    expected = (
        torch.stack(path).double() * (bounds[1:] ** (gamma + 1) - bounds[:-1] ** (gamma + 1))[:, None, None]
    ).sum(0)
    assert (state["weight"] - expected).abs().max() < tolerance
    assert state["weight"].dtype == torch.float32
    assert torch.equal(state["constant"], torch.tensor([5.0]))
    assert header["sigma_rel"] == sigma_rel and header["images"] == 400


@pytest.mark.parametrize("snapshots", [4, 9])
def test_until_gives_the_average_of_a_run_that_ended_there(tmp_path, snapshots):
    """Against a run of the same steps that stops at that snapshot, its averages tracked, also of other lengths."""
    until = 25 * snapshots
    ended = {0.05: torch.zeros(()), 0.10: torch.zeros(()), 0.075: torch.zeros(())}
    train(tmp_path / "whole")
    train(tmp_path / "ended", steps=until, snapshots=snapshots, further=ended)
    for sigma_rel, tolerance in ((0.05, 1e-5), (0.10, 1e-5), (0.075, 0.02)):
        state, header = reconstruct(tmp_path / "whole", sigma_rel, until=until)
        assert (state["weight"] - ended[sigma_rel]).abs().max() < tolerance
        assert torch.equal(state["weight"], reconstruct(tmp_path / "ended", sigma_rel)[0]["weight"])
        assert (header["images"], header["sigma_rel"]) == (until, sigma_rel)
    assert (reconstruct(tmp_path / "whole", 0.05)[0]["weight"] - ended[0.05]).abs().max() > 0.1


def test_until_the_end_is_the_whole_run_and_between_two_snapshots_the_earlier_one_counts(tmp_path):
    train(tmp_path)
    assert torch.equal(reconstruct(tmp_path, 0.1, until=400)[0]["weight"], reconstruct(tmp_path, 0.1)[0]["weight"])
    state, header = reconstruct(tmp_path, 0.1, until=249)
    assert header["images"] == 225
    assert torch.equal(state["weight"], reconstruct(tmp_path, 0.1, until=225)[0]["weight"])


def test_snapshot_times_are_those_of_the_run_once_each(tmp_path):
    train(tmp_path, steps=400, snapshots=4)
    weights.save(tmp_path / HALFLIFE_FILE, {"weight": torch.ones(2, 3)}, {"images": 401, "sigma_rel": 0.004})
    assert snapshot_times(tmp_path) == [100, 200, 300, 400]
    with pytest.raises(UserError, match="holds no snapshots: run `scm run` to train the model"):
        snapshot_times(tmp_path / "nowhere")


def test_the_average_with_a_half_life_forgets_half_of_what_it_knew_in_it():
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    averages = Averages(module, [0.05], halflife=30)
    nn.init.zeros_(module.weight)
    for step in range(1, 7):
        averages.update(10 * step, 10)
    assert averages.averages[-1]["weight"].item() == pytest.approx(0.25, abs=1e-6)
    images = np.arange(0.0, 40_000)  # its profile 2^-(age / halflife), as a distribution over the last images
    profile = 0.5 ** (images / 30)
    mean = (profile * images).sum() / profile.sum()
    width = np.sqrt((profile * (images - mean) ** 2).sum() / profile.sum())
    assert relative_width(30, 40_000) * 40_000 == pytest.approx(width, rel=1e-3)


def test_a_process_may_keep_no_average():
    averages = Averages(nn.Linear(1, 1), [0.05], halflife=30, keeps=lambda parameter: False)
    averages.update(10, 10)
    assert averages.state() == {}


def test_what_is_averaged_is_asked_of_each_parameter():
    averages = Averages(nn.Linear(2, 1), [0.05], keeps=lambda parameter: parameter.ndim > 1)
    (kept,) = averages.averages
    assert list(kept) == ["weight"]


def test_the_averages_of_a_run_are_those_asked_for_and_the_half_lifes(tmp_path):
    train(tmp_path)
    weights.save(tmp_path / HALFLIFE_FILE, {"weight": torch.full((2, 3), 7.0)}, {"images": 400, "sigma_rel": 0.004})
    found = list(offered(tmp_path, [0.05, 0.2]))
    assert [header["sigma_rel"] for _, header in found] == [0.05, 0.2, 0.004]
    assert torch.equal(found[1][0]["weight"], reconstruct(tmp_path, 0.2)[0]["weight"])
    assert torch.equal(found[2][0]["weight"], torch.full((2, 3), 7.0))


def test_a_single_snapshot_is_taken_as_it_is(tmp_path):
    header = {"images": 9, "sigma_rel": 0.075, "buffers": []}
    weights.save(tmp_path / snapshot_file(9, 0.075), {"weight": torch.ones(2)}, header)
    found = list(offered(tmp_path, [0.05, 0.2]))
    assert len(found) == 1 and found[0][1]["sigma_rel"] == 0.075 and torch.equal(found[0][0]["weight"], torch.ones(2))


def test_missing_and_damaged_snapshots_are_named(tmp_path):
    with pytest.raises(UserError, match="holds no snapshots: run `scm run` to train the model"):
        reconstruct(tmp_path, 0.1)
    (tmp_path / snapshot_file(1, 0.05)).write_bytes(b"12345678 nonsense")
    with pytest.raises(UserError, match=r"0\.050\.safetensors is damaged .*: delete it and run `scm run`"):
        reconstruct(tmp_path, 0.1)
