import json
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import scm.evaluation.measuring
from scm.errors import UserError
from scm.evaluation.extractors.classifier import Classifier, accuracy
from scm.evaluation.figures import figures_of
from scm.evaluation.kernel import kernel_distance
from scm.evaluation.measuring import RealImages
from scm.evaluation.precision_recall import precision_recall
from scm.evaluation.reference import build_reference, load_reference
from tests.evaluation.conftest import reference_of

CLASSES = ["lying", "standing", "none"]


def distance(reference, images):
    return reference.distance_of(reference.features_of(images))


def measure(reference, images, labels, neighbours):
    """All figures of one set of samples, which need no sampling."""
    figures = figures_of([(reference.features_of(images), 1.0)], labels, reference, neighbours).figures
    del figures["images_per_second"]
    return figures


@pytest.fixture(scope="module")
def reference(striped: tuple[Tensor, Tensor]):
    return reference_of(*striped, CLASSES)


def test_distance_tells_real_from_distorted(reference, striped: tuple[Tensor, Tensor]):
    images, _ = striped
    scale = reference.extractor(images).detach().var(0).sum().item()
    assert 0 <= distance(reference, images) < 1e-6 * scale
    distorted = [distance(reference, (images * strength).to(torch.uint8)) for strength in (0.95, 0.8, 0.5)]
    assert 0 < distorted[0] < distorted[1] < distorted[2]


def test_real_statistics_are_of_all_images_once(reference, striped: tuple[Tensor, Tensor]):
    features = reference.extractor(striped[0]).detach()
    statistics = reference.statistics
    assert statistics["count"] == 240
    torch.testing.assert_close(statistics["sum"], features.sum(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(statistics["outer_sum"], features.T @ features, rtol=1e-12, atol=1e-12)


def test_accuracy_counts_asked_classes(reference, striped: tuple[Tensor, Tensor]):
    images, labels = striped
    mixed = torch.cat([labels[:120], (labels[120:] + 1) % 3])
    found = [measure(reference, images, asked, 3)["accuracy"] for asked in (labels, (labels + 1) % 3, mixed)]
    assert found[0] >= 0.95 and found[1] <= 0.05
    assert found[2] == pytest.approx(0.5, abs=0.05)
    assert found[0] == accuracy(reference.extractor, images, labels), "as the extractor itself was measured"


def test_all_figures_follow_from_one_pass(reference, striped: tuple[Tensor, Tensor], monkeypatch):
    images, labels = (striped[0] * 0.9).to(torch.uint8)[:200], striped[1][:200]
    seen = []
    forward = Classifier.forward
    monkeypatch.setattr(Classifier, "forward", lambda self, some: seen.append(len(some)) or forward(self, some))
    figures = measure(reference, images, labels, 5)
    assert sum(seen) == 200
    assert list(figures) == ["fd", "fd_inf", "fd_se", "kid", "precision", "recall", "accuracy"]
    assert figures["fd"] == distance(reference, images)
    features = reference.extractor(images).detach().float()
    assert (figures["precision"], figures["recall"]) == precision_recall(reference.features[:200], features, 5)
    assert figures["kid"] == kernel_distance(reference.features[:200], features)
    assert 0 < figures["recall"] < 1 and figures != measure(reference, images, labels, 3)


def test_precision_and_recall_of_the_real_images_and_of_one_class(reference, striped: tuple[Tensor, Tensor]):
    images, labels = striped
    itself = measure(reference, images.flip(0), labels, 3)
    assert (itself["precision"], itself["recall"]) == (1, 1)
    stripes = measure(reference, images[labels != 2], labels[labels != 2], 3)
    assert stripes["precision"] >= 0.95 and stripes["recall"] == pytest.approx(2 / 3, abs=0.06)


def test_features_are_of_some_real_images_chosen_at_random(reference, striped: tuple[Tensor, Tensor], monkeypatch):
    real = reference.extractor(striped[0]).detach().float()
    assert torch.equal(reference.features.unique(dim=0), real.unique(dim=0)), "all of few images"
    assert not torch.equal(reference.features, real), "in another order"
    monkeypatch.setattr(scm.evaluation.measuring, "MOST_IMAGES", 60)
    fewer = reference_of(*striped, CLASSES)
    assert torch.equal(fewer.features, reference.features[:60])
    nearest = torch.cdist(fewer.features, real).argmin(dim=1)
    assert (striped[1][nearest].bincount() >= 10).all(), "of all classes"
    assert fewer.protocol != reference.protocol
    many = measure(fewer, striped[0], striped[1], 3)
    assert many["recall"] == precision_recall(fewer.features, real[::4], 3)[1], "as many generated images"


@pytest.mark.parametrize(("classes", "label"), [([], -1), (["all"], 0)])
def test_data_without_two_classes_learn_rotations(striped: tuple[Tensor, Tensor], classes, label):
    images, labels = striped
    reference = reference_of(images, torch.full_like(labels, label), classes)
    assert reference.task == "rotation"
    assert reference.extractor.settings["outputs"] == 4
    figures = measure(reference, images // 2, labels, 3)
    assert list(figures) == ["fd", "fd_inf", "fd_se", "kid", "precision", "recall"] and figures["fd"] > 0


def test_saved_and_loaded_reference_is_the_same(reference, striped: tuple[Tensor, Tensor], tmp_path):
    images, labels = striped
    reference.save(tmp_path / "reference")
    assert sorted(path.name for path in (tmp_path / "reference").iterdir()) == [
        "extractor.safetensors",
        "header.json",
        "statistics.safetensors",
    ]
    loaded = load_reference(tmp_path / "reference")
    assert distance(loaded, images // 2) == distance(reference, images // 2)
    assert measure(loaded, images // 2, labels, 3) == measure(reference, images // 2, labels, 3)
    assert torch.equal(loaded.labels, labels) and torch.equal(loaded.features, reference.features)
    for name in ("classes", "task", "held_out_accuracy", "protocol"):
        assert getattr(loaded, name) == getattr(reference, name)


def test_same_seed_gives_the_same_bytes(reference, striped: tuple[Tensor, Tensor], tmp_path):
    reference.save(tmp_path / "a")
    reference_of(*striped, CLASSES).save(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_protocol_follows_what_defines_the_distance(reference, striped: tuple[Tensor, Tensor]):
    assert re.fullmatch("[0-9a-f]{64}", reference.protocol)
    images, labels = striped
    assert reference_of(images, labels, CLASSES, seed=1).protocol != reference.protocol
    assert reference_of(images[:-1], labels[:-1], CLASSES).protocol != reference.protocol


class Given(Classifier):
    """Somebody else's network, as far as the protocol goes."""

    weights_sha256 = "1" * 64


def test_protocol_of_a_given_network_follows_from_files_and_not_from_rounding(reference):
    def protocol(extractor, real, **further):
        return build_reference(extractor, real, **further).protocol

    def nudged(value):
        return {name: each * (1 + 1e-9) for name, each in value.items()}

    known = {"labels": reference.labels, "classes": reference.classes, "shape": reference.shape, "identity": "images"}
    real = RealImages(statistics=reference.statistics, features=reference.features, pictures=None, **known)
    given = Given(**reference.extractor.settings)
    expected = protocol(given, real)
    assert (
        protocol(given, replace(real, statistics=nudged(real.statistics), features=real.features * (1 + 1e-6)))
        == expected
    )
    assert protocol(given, replace(real, identity="others")) != expected
    assert protocol(given, real, statistics=real.statistics, statistics_sha256="2" * 64) != expected
    assert protocol(reference.extractor, replace(real, statistics=nudged(real.statistics))) != protocol(
        reference.extractor, real
    )
    given.weights_sha256 = "3" * 64
    assert protocol(given, real) != expected


def test_wrong_images_are_refused(reference, striped: tuple[Tensor, Tensor]):
    for images in (striped[0].float(), striped[0][:, :, :4], striped[0].expand(-1, 3, -1, -1)):
        with pytest.raises(ValueError, match=r"the reference measures uint8 \[N, \(1, 8, 8\)\], not "):
            distance(reference, images)
        with pytest.raises(ValueError, match=r"the reference measures uint8 \[N, \(1, 8, 8\)\], not "):
            measure(reference, images, striped[1], 3)
    with pytest.raises(UserError, match="needs at least 2 generated images, not 1"):
        distance(reference, striped[0][:1])
    with pytest.raises(UserError, match=r"evaluate\.neighbours = 3 takes more than 3 .* 3 real and 3 generated"):
        measure(reference, striped[0][:3], striped[1][:3], 3)


def test_load_refuses_missing_changed_and_foreign_files(reference, tmp_path):
    folder = tmp_path / "reference"
    with pytest.raises(UserError, match=r"header.json is missing: run `scm run` first$"):
        load_reference(folder)
    reference.save(folder)
    statistics = folder / "statistics.safetensors"
    content = bytearray(statistics.read_bytes())
    content[-1] ^= 1
    statistics.write_bytes(content)
    with pytest.raises(UserError, match=r"statistics.safetensors was changed after it was written: run `scm run --f"):
        load_reference(folder)
    statistics.unlink()
    with pytest.raises(UserError, match=r"statistics.safetensors is missing: run `scm run --force reference`$"):
        load_reference(folder)
    header = json.loads((folder / "header.json").read_text())
    (folder / "header.json").write_text(json.dumps({**header, "format": 9}))
    with pytest.raises(UserError, match=r"header.json has format 9, not 4: run `scm run --force reference`$"):
        load_reference(folder)
