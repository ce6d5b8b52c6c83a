"""Precision and recall against the definition in loops, against scikit-learn, and on sets whose figures are known."""

import numpy
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch.utils._python_dispatch import TorchDispatchMode

from scm.errors import UserError
from scm.evaluation import precision_recall as module
from scm.evaluation.precision_recall import precision_recall, spread


def drawn(count, seed, features=8, scale=1.0, shift=0.0, dtype=torch.float32):
    random = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(count, features, generator=random, dtype=torch.float64) + shift).to(dtype)


def by_definition(real, generated, neighbours):
    """Every ball and every feature in plain loops, in float64."""

    def share_within(candidates, centres):
        within = 0
        for candidate in candidates:
            for index, centre in enumerate(centres):
                others = sorted(
                    numpy.linalg.norm(centre - other) for place, other in enumerate(centres) if place != index
                )
                if numpy.linalg.norm(candidate - centre) <= others[neighbours - 1]:
                    within += 1
                    break
        return within / len(candidates)

    real, generated = real.double().numpy(), generated.double().numpy()
    return share_within(generated, real), share_within(real, generated)


def with_sklearn(real, generated, neighbours):
    def share_within(candidates, centres):
        tree = NearestNeighbors(algorithm="kd_tree").fit(centres)
        radii = tree.kneighbors(n_neighbors=neighbours)[0][:, -1]
        distances, found = (
            NearestNeighbors(n_neighbors=len(centres), algorithm="kd_tree").fit(centres).kneighbors(candidates)
        )
        return float((distances <= radii[found]).any(axis=1).mean())

    real, generated = real.double().numpy(), generated.double().numpy()
    return share_within(generated, real), share_within(real, generated)


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_equals_the_definition(neighbours):
    real, generated = drawn(60, 1, features=3), drawn(50, 2, features=3, scale=1.5, shift=1.3)
    figures = precision_recall(real, generated, neighbours)
    assert figures == by_definition(real, generated, neighbours)
    assert all(0 < figure < 1 for figure in figures)


@pytest.mark.parametrize(("sizes", "scale"), [((900, 700), 0.8), ((500, 1100), 1.3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_scikit_learn(sizes, scale, dtype):
    real, generated = drawn(sizes[0], 1, dtype=dtype), drawn(sizes[1], 2, scale=scale, shift=0.2, dtype=dtype)
    figures = precision_recall(real, generated, 3)
    assert figures == with_sklearn(real, generated, 3)
    assert all(0.1 < figure < 0.99 for figure in figures)


def test_equal_sets_reach_everything_and_distant_ones_nothing():
    real = drawn(300, 1)
    assert precision_recall(real, real[torch.randperm(300)], 3) == (1.0, 1.0)
    assert precision_recall(real, real + 1000, 3) == (0.0, 0.0)


def test_a_dropped_mode_costs_recall_alone():
    modes = torch.arange(400) % 4
    real, generated = drawn(400, 1) + 100 * modes[:, None], drawn(400, 2) + 100 * modes[:, None]
    whole = precision_recall(real, generated, 3)
    part = precision_recall(real, generated[modes != 2], 3)
    assert part[0] == pytest.approx(whole[0], abs=0.05) and whole[0] > 0.7
    assert part[1] == pytest.approx(0.75 * whole[1], abs=0.05)


def test_invented_images_cost_precision_alone():
    real = drawn(400, 1)
    generated = torch.cat([drawn(400, 2), drawn(200, 3, shift=50.0)])
    whole, mixed = precision_recall(real, generated[:400], 3), precision_recall(real, generated, 3)
    assert mixed[0] == pytest.approx(whole[0] * 2 / 3, abs=1e-12)
    assert mixed[1] >= whole[1]


def test_a_ball_has_the_kth_other_image_on_its_surface():
    """Points of a line: with one neighbour the balls cover [-1, 2] and [1, 9] against [-3.9, 4.8] and [8.5, 10]."""
    real = torch.tensor([[0.0], [1.0], [5.0]])
    generated = torch.tensor([[-1.0], [1.9], [9.0], [9.5]])
    assert precision_recall(real, generated, 1) == (3 / 4, 2 / 3)
    assert precision_recall(real, generated, 2) == (1.0, 1.0)
    assert precision_recall(real, torch.tensor([[-1.1], [9.1]]), 1) == (0.0, 1.0)


def test_duplicates_are_neighbours_at_distance_zero():
    """With k + 1 equal images a ball has radius 0 and holds these images alone, whatever their size."""
    real = drawn(1, 1, scale=1e4).repeat(6, 1)
    assert precision_recall(real, real[:5].clone(), 3) == (1.0, 1.0)
    assert precision_recall(real, torch.cat([real[:1], real[:4] * (1 + 1e-6)]), 3) == (1 / 5, 1.0)
    assert precision_recall(real, real[:4] * (1 + 1e-6), 3) == (0.0, 0.0)


def test_blocks_change_nothing(monkeypatch):
    real, generated = drawn(250, 1), drawn(170, 2, scale=0.8)
    whole = precision_recall(real, generated, 3)
    for block in (1, 250 * 7, 250 * 169):
        monkeypatch.setattr(module, "BLOCK", block)
        assert precision_recall(real, generated, 3) == whole


def test_memory_is_bounded_by_the_block(monkeypatch):
    """Sets of one image many times, of which every distance is computed from differences as well."""
    monkeypatch.setattr(module, "BLOCK", 5000)
    first, second = drawn(1, 1).repeat(200, 1), drawn(1, 1).repeat(300, 1)
    rows = torch.zeros(200, dtype=torch.int64)
    with Largest() as largest:
        for place, squares in module.squares_between(first, second):
            rows[place] += 1
            assert squares.shape[1] == 300 and not squares.any()
    assert torch.equal(rows, torch.ones(200, dtype=torch.int64))
    assert 300 * 8 <= largest.elements <= 2 * 5000  # the places of a block's pairs are two numbers each


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that an operation has made."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), further=None):
        made = function(*arguments, **(further or {}))
        for each in made if isinstance(made, (tuple, list)) else [made]:
            self.elements = max(self.elements, each.numel() if isinstance(each, torch.Tensor) else 0)
        return made


@pytest.mark.parametrize("length", [1, 64, 2048])
@pytest.mark.parametrize("shift", [0.0, 1.0, 1e4])
def test_squares_are_those_of_differences(length, shift):
    """Also far from the origin, where most of the product cancels, and of features that almost or wholly agree."""
    first = drawn(40, 1, length, shift=shift)
    second = torch.cat([drawn(50, 2, length, shift=shift), first[:10] * (1 + 1e-6), first[10:20]])
    ((_, found),) = module.squares_between(first, second)
    true = (first[:, None].double() - second.double()).square().sum(dim=2)
    torch.testing.assert_close(found, true, rtol=1e-11, atol=0)
    assert not found[range(10, 20), range(60, 70)].any()


@pytest.mark.parametrize(("real", "generated"), [(3, 10), (10, 3), (0, 0)])
def test_too_few_images(real, generated):
    with pytest.raises(UserError) as error:
        precision_recall(drawn(real, 1), drawn(generated, 2), 3)
    assert str(error.value) == (
        f"evaluate.neighbours = 3 takes more than 3 images on either side, not {real} real and {generated} generated: "
        "lower it, or raise evaluate.samples and add images"
    )
    assert all(0 <= figure <= 1 for figure in precision_recall(drawn(4, 1), drawn(4, 2), 3))


def test_spread_keeps_the_proportions_of_a_sorted_list():
    labels = torch.arange(10).repeat_interleave(539)[:, None]
    of_class = spread(labels, 1797).flatten().bincount()
    assert of_class.sum() == 1797 and 179 <= of_class.min() <= of_class.max() <= 180
    assert torch.equal(spread(labels, 5390), labels) and torch.equal(spread(labels, 10_000), labels)
