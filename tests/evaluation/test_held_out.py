"""Figures that a model cannot improve by repeating its training images."""

import pytest
import torch
from torch import Tensor

from scm.evaluation import copies, extrapolation
from scm.evaluation.figures import figures_of
from scm.evaluation.frechet import distance_between
from scm.evaluation.held_out import PAIRS, pictures_of
from scm.evaluation.precision_recall import precision_recall
from scm.evaluation.reference import Reference, load_reference
from scm.evaluation.statistics import statistics_of
from tests.evaluation.conftest import reference_of_stripes

CLASSES = ["lying", "standing", "none"]


@pytest.fixture(scope="module")
def reference() -> Reference:
    return reference_of_stripes(held_out=True)


@pytest.fixture(scope="module")
def sides(striped: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The images that train and the held-out ones, as `with_held_out` divides them."""
    held = torch.arange(240) % 4 == 0
    return striped[0][~held], striped[0][held]


def normal(count: int, length: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(count, length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_planted_copies_are_found(reference, sides):
    assert reference.held_out.copies(reference.features_of(sides[0]))[0] == 1.0
    _, pairs = reference.held_out.copies(reference.features_of(sides[0][:50]))
    assert len(pairs) == PAIRS and all(pair.distance < 1e-5 for pair in pairs)
    for pair in pairs:
        assert torch.equal(reference.held_out.pictures[pair.training], sides[0][pair.sample])


def test_some_planted_copies_are_counted(reference, sides):
    """A fifth of the samples are copies, the others held-out images, of which a twentieth count as copies."""
    mixed = torch.cat([sides[0][:15], sides[1]])
    share, pairs = reference.held_out.copies(reference.features_of(mixed))
    assert share == pytest.approx((15 + 0.05 * 60) / 75)
    assert {pair.sample for pair in pairs} <= set(range(15))


def test_held_out_images_have_the_expected_share(reference, sides):
    assert reference.held_out.expected == pytest.approx(0.05)
    assert reference.held_out.copies(reference.features_of(sides[1]))[0] == reference.held_out.expected


def test_new_samples_of_one_distribution_have_about_the_expected_share():
    training, held_out, samples = (normal(count, seed=count) for count in (1500, 1000, 1200))
    threshold = copies.threshold_of(copies.nearest(held_out, training).distances)
    found = copies.nearest(samples, training).distances
    assert copies.share_of_copies(found, threshold) == pytest.approx(0.05, abs=0.02)
    wide = copies.nearest(3 * samples, training).distances
    assert copies.share_of_copies(wide, threshold) < 0.01


def test_the_nearest_is_found_whatever_the_blocks_are(monkeypatch):
    images, training = normal(70, seed=1), normal(90, seed=2)
    expected = torch.stack([(training - image).norm(dim=1) for image in images]).min(dim=1)
    for block in (2**24, 100):
        monkeypatch.setattr("scm.evaluation.precision_recall.BLOCK", block)
        found = copies.nearest(images, training)
        assert torch.equal(found.places, expected.indices)
        torch.testing.assert_close(found.distances, expected.values.float())


def test_figures_against_held_out_images_are_those_of_the_parts(reference, sides):
    features = reference.features_of(sides[0])
    unseen = reference.extractor(sides[1]).detach()
    found = reference.held_out.figures(features, 3)
    assert found["fd_held_out"] == pytest.approx(distance_between(statistics_of(unseen), statistics_of(features)))
    parts = [precision_recall(unseen.float(), features.float()[part::3], 3) for part in range(3)]
    assert found["precision_held_out"] == pytest.approx(sum(part[0] for part in parts) / 3, abs=1e-9)
    assert found["recall_held_out"] == pytest.approx(sum(part[1] for part in parts) / 3, abs=1e-9)


def test_figures_of_several_ranges_name_the_best_one_and_its_pairs(reference, sides):
    real, labels = reference.features_of(sides[0]), torch.arange(60) % 3
    sets = [(real[:60] * shrunk, 1.0) for shrunk in (0.5, 1.0, 0.8)]
    figures, best, pairs = figures_of(iter(sets), labels, reference, 3)
    assert best == 1 and figures["fd"] == figures["fd_1"] and len(pairs) == PAIRS
    assert figures["copies"] == 1.0 and figures["fd_held_out"] == figures["fd_held_out_1"]
    assert figures["fd_held_out_0"] > figures["fd_held_out_1"]


def test_floors_fall_with_the_number_of_samples_but_not_against_held_out_images(reference):
    few, many = reference.floors(60, 3), reference.floors(4000, 3)
    assert few.keys() == {
        "fd_floor", "fd_held_out_floor", "precision_held_out_floor", "recall_held_out_floor", "copies_expected"
    }  # fmt: skip
    assert few["fd_floor"] / many["fd_floor"] == pytest.approx(4000 / 60, rel=0.5)
    everything = reference.held_out.distance_of(reference.held_out.training.double())
    assert many["fd_held_out_floor"] == pytest.approx(everything, rel=0.05) and everything > 10 * many["fd_floor"]
    assert reference.floors(60, 3) == few, "the draws are always the same"


def test_a_floor_is_the_distance_of_draws_from_all_training_images(reference):
    features, distances = reference.features.double(), []
    for seed in range(200):
        chosen = torch.randint(180, (60,), generator=torch.Generator().manual_seed(seed))
        distances.append(distance_between(statistics_of(features), statistics_of(features[chosen])))
    spread = torch.tensor(distances).std().item() / 8**0.5
    assert reference.floors(60, 3)["fd_floor"] == pytest.approx(sum(distances) / 200, abs=4 * spread)


def test_extrapolation_takes_the_bias_of_few_samples_away():
    real = statistics_of(normal(4000, seed=5))
    real["outer_sum"] = 3999 * torch.eye(8).double()
    real["sum"] = torch.zeros(8).double()

    def distance_of(features: Tensor) -> float:
        return distance_between(real, statistics_of(features))

    for shift, true in ((0.0, 0.0), (0.2, 8 * 0.04)):
        features = normal(2000, seed=6) + shift
        whole = distance_of(features)
        found = extrapolation.extrapolated(features, distance_of, whole)
        assert found is not None and abs(found - true) < 0.03
    assert extrapolation.extrapolated(normal(64), distance_of, 1.0) is None, "8 samples of 8 features"
    assert extrapolation.extrapolated(normal(72), distance_of, 1.0) is not None


def test_the_line_is_numpys():
    numpy = pytest.importorskip("numpy")
    x, y = normal(5, 1, 1)[:, 0], normal(5, 1, 2)[:, 0]
    assert extrapolation.intercept(x, y) == pytest.approx(numpy.polyfit(x.numpy(), y.numpy(), 1)[1], rel=1e-12)


def test_a_reference_with_held_out_images_is_read_as_it_was_saved(reference, tmp_path):
    reference.save(tmp_path / "reference")
    loaded = load_reference(tmp_path / "reference")
    assert loaded.protocol == reference.protocol and loaded.floors(50, 3) == reference.floors(50, 3)
    assert loaded.held_out is not None and torch.equal(loaded.held_out.pictures, reference.held_out.pictures)
    assert loaded.held_out.threshold == reference.held_out.threshold


def test_other_held_out_images_are_another_protocol(reference, striped: tuple[Tensor, Tensor]):
    without = reference_of_stripes()
    assert without.held_out is None and without.protocol != reference.protocol
    assert without.floors(50, 3).keys() == {"fd_floor"}


def test_large_pictures_are_reduced():
    images = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    reduced = pictures_of(images)
    assert reduced.shape == (2, 3, 64, 64) and reduced.dtype == torch.uint8
    torch.testing.assert_close(reduced.float().mean(), images.float().mean(), rtol=0, atol=0.5)
    assert pictures_of(images[:, :, :64, :64]) is not None and torch.equal(pictures_of(reduced), reduced)
