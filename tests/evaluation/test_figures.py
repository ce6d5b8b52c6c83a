"""Samples measured a batch at a time, by one process or several, over one range of seeds or several."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scm.base.distributed import Ranks
from scm.errors import UserError
from scm.evaluation.figures import figures_of, kept_features, sampled_features
from scm.evaluation.reference import Reference
from scm.evaluation.selection import DIGITS, Measured
from scm.generation.generate import batches, generate
from scm.generation.sampler import Sampler
from scm.samplers import SampleNoise
from tests.evaluation.conftest import reference_of_stripes
from tests.support.models import tiny_model
from tests.support.processes import together

COUNT, BATCH = 22, 4
LABELS = torch.arange(COUNT) % 3
ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def reference() -> Reference:
    return reference_of_stripes()


def sampler() -> Sampler:
    """x = the noise once through the network: enough for every sample to be another."""

    def run(function, noise: SampleNoise) -> Tensor:
        x = noise.draw()
        return function(x, torch.full((len(x),), 1.0))

    return Sampler(1, run)


def decode(samples: Tensor) -> Tensor:
    return (samples * 40 + 128).clamp(0, 255).to(torch.uint8)


def drawn(ranks: Ranks, seeds: range) -> Iterator[tuple[slice, Tensor, float]]:
    place = BATCH, ranks.device, 1.0, ranks.rank, ranks.world
    return batches(tiny_model(1), sampler(), seeds, LABELS, [1, 8, 8], *place)


def test_processes_share_the_batches_and_leave_none_out():
    parts = [list(drawn(Ranks(rank, 3, torch.device("cpu")), range(COUNT))) for rank in range(3)]
    assert [len(part) for part in parts] == [2, 2, 2]
    rows = sorted((rows.start, rows.stop) for part in parts for rows, _, _ in part)
    assert rows == [(start, start + BATCH) for start in range(0, COUNT, BATCH)]
    whole, _ = generate(tiny_model(1), sampler(), range(COUNT), LABELS, [1, 8, 8], BATCH, "cpu")
    for rows, samples, seconds in parts[0] + parts[1] + parts[2]:
        assert torch.equal(samples, whole[rows]) and seconds > 0


def test_features_are_in_the_order_of_the_seeds(reference):
    found, seconds = sampled_features(drawn(ALONE, range(COUNT)), COUNT, decode, reference, ALONE)
    whole, _ = generate(tiny_model(1), sampler(), range(COUNT), LABELS, [1, 8, 8], COUNT, "cpu")
    assert seconds > 0 and len(found.unique(dim=0)) == COUNT
    torch.testing.assert_close(found, reference.features_of(decode(whole)), rtol=1e-9, atol=1e-9)


def test_of_several_ranges_of_seeds_the_smallest_distance_is_quoted(reference):
    random = torch.Generator().manual_seed(3)
    real = reference.features.double()
    sets = [
        (real[:COUNT] + shift * torch.rand(COUNT, real.shape[1], generator=random, dtype=torch.float64), taken)
        for shift, taken in ((2.0, 1.0), (0.5, 2.0), (1.0, 1.0))
    ]
    found = figures_of(iter(sets), LABELS, reference, 3).figures
    distances = [reference.distance_of(features) for features, _ in sets]
    assert distances[1] < distances[2] < distances[0]
    assert [found[f"fd_{index}"] for index in range(3)] == distances and found["fd"] == distances[1]
    mean = sum(distances) / 3
    assert found["fd_mean"] == pytest.approx(mean, rel=1e-12)
    assert found["fd_std"] == pytest.approx((sum((each - mean) ** 2 for each in distances) / 2) ** 0.5, rel=1e-12)
    assert found["images_per_second"] == pytest.approx(3 * COUNT / 4.0)
    of_best = reference.further(sets[1][0], LABELS, 3)
    assert of_best.items() <= found.items() and of_best != reference.further(sets[0][0], LABELS, 3)


def test_one_range_of_seeds_has_no_spread(reference):
    features = reference.features.double()[:COUNT]
    found = figures_of([(features, 2.0)], LABELS, reference, 3).figures
    assert found.keys() == {"fd", "fd_se", "kid", "precision", "recall", "accuracy", "images_per_second"}
    assert found["images_per_second"] == COUNT / 2.0
    with pytest.raises(ValueError, match="no samples"):
        figures_of([], LABELS, reference, 3)


def test_a_sample_that_is_not_finite_is_refused(reference):
    def spoilt() -> Iterator[tuple[slice, Tensor, float]]:
        for rows, samples, taken in drawn(ALONE, range(COUNT)):
            samples[:, 0, 0, 0] = torch.nan if rows.start == 8 else samples[:, 0, 0, 0]
            yield rows, samples, taken

    with pytest.raises(UserError, match=f"{BATCH} of {COUNT} samples are not finite: the training diverged"):
        sampled_features(spoilt(), COUNT, decode, reference, ALONE)


def measure(ranks: Ranks, file: Path) -> dict[str, float | str]:
    """All figures of two ranges of seeds, and what a search that was interrupted after one distance goes on to."""
    reference = reference_of_stripes()
    ranges = [range(COUNT), range(COUNT, 2 * COUNT)]

    def measured(seeds: range) -> tuple[Tensor, float]:
        return sampled_features(drawn(ranks, seeds), COUNT, decode, reference, ranks)

    new = file.parent / "new.safetensors"
    sets = [measured(ranges[0]), kept_features(new, partial(measured, ranges[1]), ranks)]
    figures: dict[str, float | str] = {}
    if ranks.rank == 0:
        figures |= figures_of(sets, LABELS, reference, 3).figures
    kept, seconds = kept_features(new, partial(pytest.fail, "drawn again"), ranks)
    figures["same"] = float(ranks.rank > 0 or (torch.equal(kept, sets[1][0]) and seconds == sets[1][1]))
    known = Measured(file, ranks)
    figures["known"] = known.of("known", 2, partial(pytest.fail, "measured again"))
    figures["new"] = known.of("new", 1, lambda: [2.5 if ranks.rank == 0 else 99.0])
    try:
        bad = (
            (rows, samples * (torch.nan if ranks.rank else 1.0), 1.0) for rows, samples, _ in drawn(ranks, ranges[0])
        )
        sampled_features(bad, COUNT, decode, reference, ranks)
    except UserError as error:
        figures["error"] = str(error)
    return figures


def test_damaged_features_are_measured_again(tmp_path):
    file, features = tmp_path / "f.safetensors", torch.rand(5, 3, dtype=torch.float64)
    kept_features(file, lambda: (features, 1.5), ALONE)
    content = file.read_bytes()
    for place in (0, 20, len(content) // 2, len(content) - 1):
        damaged = bytearray(content)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        calls = list[int]()

        def measure(calls: list[int] = calls) -> tuple[Tensor, float]:
            calls.append(1)
            return features, 1.5

        assert torch.equal(kept_features(file, measure, ALONE)[0], features) and calls
        assert file.read_bytes() == content


def write_figures(ranks, folder):
    results = measure(ranks, folder / "measured.jsonl")
    (folder / f"{ranks.rank}.json").write_text(json.dumps(results))
    ranks.wait()


@pytest.mark.slow
def test_the_figures_of_two_processes_are_those_of_one(tmp_path, reference):
    Measured(tmp_path / "measured.jsonl", ALONE).of("known", 2, lambda: [1.25, 0.5])
    together(2, write_figures, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    for found in (first, second):
        assert found.pop("known") == [1.25, 0.5] and found.pop("new") == [2.5] and found.pop("same") == 1.0
        assert found.pop("error").startswith("10 of 22 samples are not finite")  # batches 1, 3 and 5, the last of 2
    lines = (tmp_path / "measured.jsonl").read_text().splitlines()
    assert not second and [line[DIGITS:] for line in lines] == ['["known", [1.25, 0.5]]', '["new", [2.5]]']
    sets = (
        sampled_features(drawn(ALONE, seeds), COUNT, decode, reference, ALONE)
        for seeds in (range(COUNT), range(COUNT, 2 * COUNT))
    )
    expected = figures_of(sets, LABELS, reference, 3).figures
    del first["images_per_second"], expected["images_per_second"]
    assert first == pytest.approx(expected, rel=1e-9)
