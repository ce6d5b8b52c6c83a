"""The noise of a difference between two candidates on the same seeds, against many fresh sets of samples."""

import math
import statistics

import pytest
import torch

from scm.evaluation.candidates import Candidate, Way, chosen, noise, with_noise
from scm.evaluation.frechet import distance_between
from scm.evaluation.jackknife import blocks_of, distance_errors, without_blocks
from scm.evaluation.statistics import statistics_of

SAMPLES, SETS = 400, 100


def test_the_noise_of_a_difference_is_its_deviation_over_seeds_and_less_than_that_of_a_distance():
    generator = torch.Generator().manual_seed(0)
    real = statistics_of(torch.randn(20_000, 4, dtype=torch.float64, generator=generator))
    differences, estimates, distances, errors = [], [], [], []
    for _ in range(SETS):
        drawn = torch.randn(SAMPLES, 4, dtype=torch.float64, generator=generator)
        sides = []
        for scale, shift in ((1.1, 0.3), (1.2, 0.25)):
            features = scale * drawn + shift
            parts = [features, *(features[kept] for kept in without_blocks(SAMPLES, blocks_of(SAMPLES)))]
            sides.append([distance_between(real, statistics_of(part)) for part in parts])
        (first, *without_first), (second, *without_second) = sides
        differences.append(first - second)
        distances.append(first)
        estimates.append(noise(without_first, without_second))
        errors += distance_errors(1.1 * drawn + 0.3, [real])
    deviation = statistics.stdev(differences)
    assert statistics.fmean(each**2 for each in estimates) ** 0.5 == pytest.approx(deviation, rel=0.2)
    assert deviation < 0.5 * statistics.stdev(distances), "the seeds are the same"
    assert statistics.fmean(each**2 for each in errors) ** 0.5 == pytest.approx(statistics.stdev(distances), rel=0.2)


def test_each_block_has_its_share_of_classes_that_are_sorted():
    labels = torch.arange(3).repeat_interleave(16)
    kept = [labels[each] for each in without_blocks(48, 8)]
    assert len(kept) == 8 and all(each.bincount().tolist() == [14, 14, 14] for each in kept)
    assert (blocks_of(2), blocks_of(3), blocks_of(8), blocks_of(50_000)) == (0, 3, 8, 8)


def test_the_choice_says_how_many_candidates_the_noise_does_not_tell_from_it():
    def candidate(scale: float, distance: float, *further: float) -> Candidate:
        row = {"steps": 2, "guidance": scale, "samples": 100, "fd": distance}
        return Candidate(row, Way(2, scale), [distance + each for each in further])

    found = [candidate(1.0, 5.0, 0.0, 0.0), candidate(1.5, 4.0, 0.2, -0.2), candidate(2.0, 4.3, 0.0, 0.0)]
    rows = list(with_noise(found))
    # The jackknife of two blocks: half the difference of the differences.
    assert [row["noise"] for row in rows] == pytest.approx([0.2, 0.0, 0.2])
    assert chosen(rows) == {"guidance": 1.5, "samples": 100, "fd": 4.0, "candidates": 3, "within_noise": 2}
    rows = list(with_noise([each._replace(without=()) for each in found]))
    assert chosen(rows) == {"guidance": 1.5, "samples": 100, "fd": 4.0}, "too few samples to tell"


def test_the_error_of_a_distance_is_the_jackknife_of_the_definition():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(21, 3, dtype=torch.float64, generator=generator)
    sides = [statistics_of(torch.randn(30, 3, dtype=torch.float64, generator=generator)) for _ in range(2)]
    for real, error in zip(sides, distance_errors(features, sides), strict=True):
        distances = [distance_between(real, statistics_of(features[kept])) for kept in without_blocks(21, 8)]
        assert error == pytest.approx((7 / 8 * 8) ** 0.5 * statistics.pstdev(distances), rel=1e-6)
    assert math.isnan(distance_errors(features[:2], sides)[0])
