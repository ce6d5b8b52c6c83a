"""One pass over the real images, in blocks that several processes share and that an interruption does not lose."""

import io
import threading

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from scm.base.distributed import Ranks
from scm.data.shards.shards import read_index
from scm.errors import UserError
from scm.evaluation import measuring
from scm.evaluation.extractor import Extractor
from scm.evaluation.measuring import collect, measure
from scm.evaluation.statistics import statistics_of
from tests.evaluation.conftest import shards_of, with_held_out

CLASSES = ["lying", "standing", "none"]


class Squashed(Extractor):
    """Features that tell every image from every other one; counts the images that it sees."""

    name, preprocessing, num_features = "squashed", "none", 5

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(5, 64, generator=generator, dtype=torch.float64), requires_grad=False)
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return torch.tanh(images.flatten(1).double() @ self.weight.T / 500)

    def save(self, folder):
        raise AssertionError("nobody keeps it")


def measured(extractor, shards, work, seed, rank=0, world=1):
    measure(extractor, shards, work, seed, Ranks(rank, world, torch.device("cpu")), lambda line: None)


@pytest.fixture(scope="module")
def many(tmp_path_factory, striped: tuple[Tensor, Tensor]):
    """240 images in 12 shards of 20, which are no whole number of blocks of 15."""
    return shards_of(tmp_path_factory.mktemp("many") / "shards", *striped, CLASSES, 20)


@pytest.fixture(scope="module")
def alone(many, tmp_path_factory):
    work = tmp_path_factory.mktemp("alone")
    measured(Squashed(), many, work, 3)
    return collect(many, work, 3)


def equal(first, second) -> bool:
    alike = torch.equal(first.features, second.features) and first.identity == second.identity
    return alike and all(torch.equal(first.statistics[name], second.statistics[name]) for name in first.statistics)


def test_everything_is_of_all_images_once(alone, striped: tuple[Tensor, Tensor]):
    images, labels = striped
    features = Squashed()(images)
    expected = statistics_of(features)
    assert alone.statistics["count"] == 240
    for name in ("sum", "outer_sum"):
        torch.testing.assert_close(alone.statistics[name], expected[name], rtol=1e-12, atol=1e-12)
    assert torch.equal(alone.labels, labels) and alone.classes == tuple(CLASSES) and alone.shape == (1, 8, 8)
    rows = {tuple(row) for row in features.float().tolist()}
    assert {tuple(row) for row in alone.features.tolist()} == rows and len(rows) == 240


def test_shards_do_not_show(alone, tmp_path, striped: tuple[Tensor, Tensor]):
    for shard_images in (7, 240):
        shards = shards_of(tmp_path / f"shards-{shard_images}", *striped, CLASSES, shard_images)
        measured(Squashed(), shards, tmp_path / f"work-{shard_images}", 3)
        real = collect(shards, tmp_path / f"work-{shard_images}", 3)
        assert torch.equal(real.features, alone.features)
        torch.testing.assert_close(real.statistics, alone.statistics, rtol=1e-12, atol=1e-12)
        assert real.identity == alone.identity


def compressed_further(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0]).save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


def test_the_compression_does_not_show(alone, tmp_path, striped: tuple[Tensor, Tensor], monkeypatch):
    ours = shards_of(tmp_path / "ours", *striped, CLASSES, 20)
    monkeypatch.setattr("tests.support.shards.encode_png", compressed_further)
    shards = shards_of(tmp_path / "theirs", *striped, CLASSES, 20)
    assert read_index(shards)["shards"] != read_index(ours)["shards"]
    measured(Squashed(), shards, tmp_path / "work", 3)
    assert equal(collect(shards, tmp_path / "work", 3), alone)


@pytest.mark.parametrize("change", ["a pixel", "a label", "the order"])
def test_other_images_have_another_identity(alone, tmp_path, striped: tuple[Tensor, Tensor], change):
    images, labels = (each.clone() for each in striped)
    if change == "a pixel":
        images[100, 0, 3, 3] ^= 1
    elif change == "a label":
        labels[100] = 1 - labels[100]
    else:
        images[[100, 103]] = images[[103, 100]]  # of the same class
    shards = shards_of(tmp_path / "shards", images, labels, CLASSES)
    measured(Squashed(), shards, tmp_path / "work", 3)
    assert collect(shards, tmp_path / "work", 3).identity != alone.identity


@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_processes_gives_the_same_bits(many, alone, tmp_path, world):
    seen = []
    for rank in reversed(range(world)):
        extractor = Squashed()
        measured(extractor, many, tmp_path, 3, rank, world)
        seen.append(extractor.seen)
    assert sum(seen) == 240 and min(seen) > 0
    assert equal(collect(many, tmp_path, 3), alone)


def test_the_first_process_waits_for_the_others(many, alone, tmp_path):
    measured(Squashed(), many, tmp_path, 3, 0, 2)
    other = threading.Timer(0.3, lambda: measured(Squashed(), many, tmp_path, 3, 1, 2))
    other.start()
    assert equal(collect(many, tmp_path, 3, every=0.01), alone)
    other.join()


def test_an_interrupted_pass_goes_on_with_the_next_block(many, alone, tmp_path, monkeypatch):
    class Failing(Squashed):
        def forward(self, images):
            if self.seen >= 60:
                raise KeyboardInterrupt
            return super().forward(images)

    with pytest.raises(KeyboardInterrupt):
        measured(Failing(), many, tmp_path, 3)
    again = Squashed()
    measured(again, many, tmp_path, 3)
    assert again.seen == 240 - 4 * 15
    assert equal(collect(many, tmp_path, 3), alone)


@pytest.mark.parametrize("place", [0, 30, -1])
def test_a_damaged_block_is_measured_again(many, alone, tmp_path, place):
    measured(Squashed(), many, tmp_path, 3)
    file = sorted(tmp_path.glob("features-*"))[2]
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    again = Squashed()
    measured(again, many, tmp_path, 3)
    assert again.seen == 15 and equal(collect(many, tmp_path, 3), alone)


def test_a_block_that_is_damaged_when_its_process_has_finished_is_not_waited_for(many, alone, tmp_path):
    for rank in (1, 0):
        measured(Squashed(), many, tmp_path, 3, rank, 2)
    file = sorted(tmp_path.glob("features-*"))[3]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError) as error:
        collect(many, tmp_path, 3, every=0.01, patience=0.05)
    assert str(error.value) == f"{file} was damaged while the processes ran, and is removed: run the same command again"
    assert not file.exists()
    measured(Squashed(), many, tmp_path, 3, 1, 2)
    assert equal(collect(many, tmp_path, 3, every=0.01, patience=0.05), alone)


def test_a_damaged_block_is_removed_before_the_first_is_measured(many, tmp_path):
    """It is never taken for one that no process makes again."""
    measured(Squashed(), many, tmp_path, 3)
    first, *_, last = sorted(tmp_path.glob("features-*"))
    first.unlink()
    last.write_bytes(b"")

    class Looking(Squashed):
        def forward(self, images):
            assert self.seen or not last.exists()
            return super().forward(images)

    measured(Looking(), many, tmp_path, 3)
    assert last.exists()


def test_of_many_images_some_are_kept_at_random(many, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "MOST_IMAGES", 60)
    measured(Squashed(), many, tmp_path, 3)
    fewer = collect(many, tmp_path, 3)
    assert torch.equal(fewer.features, alone.features[:60])


def test_another_seed_keeps_other_features_of_the_same_images(many, alone, tmp_path):
    measured(Squashed(), many, tmp_path, 4)
    other = collect(many, tmp_path, 4)
    assert other.identity != alone.identity and not torch.equal(other.features, alone.features)
    assert all(torch.equal(other.statistics[name], alone.statistics[name]) for name in other.statistics)


def test_pictures_are_kept_where_images_are_held_out(many, alone, tmp_path, striped: tuple[Tensor, Tensor]):
    shards = with_held_out(tmp_path / "shards", *striped, CLASSES)
    measured(Squashed(), shards, tmp_path / "work", 3)
    real = collect(shards, tmp_path / "work", 3)
    assert real.pictures is not None and alone.pictures is None
    assert torch.equal(Squashed()(real.pictures).float(), real.features), "in the order of the features"
    assert real.statistics["count"] == len(real.pictures) == 180, "held-out images are not among them"


def test_too_few_images(tmp_path, striped: tuple[Tensor, Tensor]):
    shards = shards_of(tmp_path / "shards", striped[0][:1], striped[1][:1], CLASSES)
    with pytest.raises(UserError) as error:
        measured(Squashed(), shards, tmp_path / "work", 0)
    assert str(error.value) == "the reference needs at least 2 images, not 1: add images to data.path"


def test_features_that_are_no_numbers_are_refused(many, tmp_path):
    class Broken(Squashed):
        def forward(self, images):
            return super().forward(images).log()

    with pytest.raises(UserError, match=r"^reference.extractor = squashed: the features of \d+ of \d+ images are not "):
        measured(Broken(), many, tmp_path, 3)


def test_a_damaged_shard_is_named(tmp_path, striped: tuple[Tensor, Tensor]):
    shards = shards_of(tmp_path / "shards", *striped, CLASSES, 120)
    file = shards / read_index(shards)["shards"][1]["file"]
    content = bytearray(file.read_bytes())
    content[600] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"000001.tar is not what was written"):
        measured(Squashed(), shards, tmp_path / "work", 0)
