"""Files of other people's extractors: found, downloaded once, checked; and programs of torch.export."""

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from scm.base.files import sha256
from scm.errors import UserError
from scm.evaluation.extractor import load_extractor, read_extractor
from scm.evaluation.weight_files import GivenWeights, located, verify


class Means(nn.Module):
    """Features that everybody can compute: the means of the three channels, and of their squares."""

    def forward(self, images: Tensor) -> Tensor:
        x = images.to(torch.float32).flatten(2)
        return torch.cat([x.mean(2), x.square().mean(2)], dim=1)


def exported(path: Path, module: nn.Module, shape=(2, 3, 8, 8), dynamic: bool = True) -> Path:
    batch = ({0: torch.export.Dim("batch")},) if dynamic else None
    images = torch.zeros(shape, dtype=torch.uint8)
    torch.export.save(torch.export.export(module.eval(), (images,), dynamic_shapes=batch), path)
    return path


@pytest.fixture(scope="module")
def means(tmp_path_factory) -> Path:
    return exported(tmp_path_factory.mktemp("exported") / "means.pt2", Means())


def images(count: int, channels: int = 3) -> Tensor:
    return torch.randint(256, (count, channels, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_exported_program_gives_its_features(means, tmp_path):
    digest = sha256(means)
    extractor = read_extractor("exported", GivenWeights(means.name, digest, means.parent, 8))
    assert extractor.num_features == 6 and extractor.weights_sha256 == digest
    assert torch.equal(extractor(images(70)), Means()(images(70)))
    grey = images(2, 1)
    assert torch.equal(extractor(grey), Means()(grey.repeat(1, 3, 1, 1)))
    assert extractor.save(tmp_path) == ["extractor.pt2"]
    assert torch.equal(load_extractor("exported", tmp_path, 8, "cpu")(images(70)), Means()(images(70)))


class Flat(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float().mean((1, 2, 3))


class Whole(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


class Nothing(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.float().flatten(1)[:, :0]


class Infinite(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return (images.float().flatten(1)[:, :4] - 300).log()


class Untrained(nn.Module):
    """Subtracts the batch's own mean, as batch normalisation does in training."""

    def forward(self, images: Tensor) -> Tensor:
        x = images.float().flatten(1)[:, :4]
        return x - x.mean(0)


HINT = r': export it with dynamic_shapes=\(\{0: torch\.export\.Dim\("batch"\)\},\)$'


@pytest.mark.parametrize(
    ("module", "options", "text"),
    [
        (Flat(), {}, r"maps uint8 \[32, 3, 8, 8\] to \[32\], not to \[32, F\]" + HINT),
        (Whole(), {}, r"gives torch.uint8, not floating-point features: export another network$"),
        (Nothing(), {}, r"gives no features at all: export another network$"),
        (Infinite(), {}, r"gives features of random images that are not finite: export another network$"),
        (Untrained(), {}, r"beside other images: export the network after network.eval\(\)$"),
        (Means(), {"dynamic": False}, r"does not take uint8 \[32, 3, 8, 8\] \(.*\)" + HINT),
        (Means(), {"shape": (2, 3, 16, 16)}, r"does not take uint8 \[32, 3, 8, 8\] \(.*\)" + HINT),
    ],
)
def test_refuses_programs_of_another_kind(tmp_path, module, options, text):
    path = exported(tmp_path / "other.pt2", module, **options)
    with pytest.raises(UserError, match=text):
        read_extractor("exported", GivenWeights(path.name, sha256(path), tmp_path, 8))


def test_refuses_what_is_no_program(tmp_path):
    path = tmp_path / "other.pt2"
    path.write_bytes(b"no program")
    text = r"other.pt2 is no file of torch.export \(.*\): write it with torch.export.save$"
    with pytest.raises(UserError, match=text):
        read_extractor("exported", GivenWeights(path.name, sha256(path), tmp_path, 8))


@pytest.mark.parametrize("content", [b"[]", b"{}", b"null"])
def test_refuses_a_program_whose_description_is_damaged(tmp_path, content):
    whole, path = exported(tmp_path / "whole.pt2", Means()), tmp_path / "other.pt2"
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name.endswith("models/model.json") else old.read(name))
    with pytest.raises(UserError, match=r"other.pt2 is no file of torch.export \("):
        read_extractor("exported", GivenWeights(path.name, sha256(path), tmp_path, 8))


@pytest.mark.parametrize("name", ["exported", "inception"])
def test_nothing_is_opened_before_its_hash_is_known(means, tmp_path, monkeypatch, name):
    monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("it was opened"))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(UserError) as error:
        read_extractor(name, GivenWeights(str(means), None, tmp_path, 8))
    digest = sha256(means)
    remedy = f"if that is the file you mean and you trust where it came from, write reference.sha256: {digest}"
    assert str(error.value) == f"{means} has the SHA-256 {digest}, and params.yaml names none: {remedy}"
    with pytest.raises(UserError) as error:
        read_extractor(name, GivenWeights(str(means), "0" * 64, tmp_path, 8))
    expected = f"{means} has the SHA-256 {digest}, not reference.sha256 = {'0' * 64}: correct one of the two"
    assert str(error.value) == expected


def test_verify_returns_the_hash(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    digest = hashlib.sha256(b"a").hexdigest()
    assert verify(tmp_path / "a", digest, "reference.sha256") == digest


def test_missing_file(tmp_path):
    with pytest.raises(UserError) as error:
        read_extractor("inception", GivenWeights("models/none.pth", None, tmp_path, 8))
    problem = "there is no such file; docs/evaluation.md says where to get it"
    assert str(error.value) == f"reference.weights = models/none.pth: {problem}"


@pytest.fixture
def server(tmp_path) -> Iterator[tuple[str, Path]]:
    """The address of a folder."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}", folder
        http.shutdown()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Torch's, which is made at the first download."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "cache"))
    return tmp_path / "cache/checkpoints"


def test_downloads_once_and_keeps_it(server, cache, tmp_path):
    address, folder = server
    (folder / "weights.pth").write_bytes(b"weights")
    digest = sha256(folder / "weights.pth")
    path = located("reference.weights", f"{address}/weights.pth", digest, tmp_path)
    assert path == cache / "weights.pth" and path.read_bytes() == b"weights"
    (folder / "weights.pth").unlink()
    assert located("reference.weights", f"{address}/weights.pth", None, tmp_path) == path, "it is here already"


def test_two_addresses_may_end_alike(server, cache, tmp_path):
    address, folder = server
    digests = []
    for version in ("v1", "v2"):
        (folder / version).mkdir()
        (folder / version / "stats.npz").write_bytes(version.encode())
        digests.append(sha256(folder / version / "stats.npz"))
    found = [
        located("reference.statistics", f"{address}/{version}/stats.npz", digest, tmp_path).read_bytes()
        for version, digest in zip(("v1", "v2", "v1"), (*digests, digests[0]), strict=True)
    ]
    assert found == [b"v1", b"v2", b"v1"]


def test_a_download_with_another_hash_is_not_kept(server, cache, tmp_path):
    address, folder = server
    (folder / "weights.pth").write_bytes(b"other weights")
    with pytest.raises(UserError, match=r"weights.pth cannot be downloaded \(invalid hash value .*\): where the"):
        located("reference.weights", f"{address}/weights.pth", "0" * 64, tmp_path)
    assert not list(cache.iterdir())
    with pytest.raises(UserError, match=r"weights.pth needs a SHA-256 beside it, as what is sent has to be checked: "):
        located("reference.weights", f"{address}/weights.pth", None, tmp_path)
    assert not list(cache.iterdir())


def test_no_network(server, cache, tmp_path):
    address = "http://127.0.0.1:9/weights.pth"
    with pytest.raises(UserError) as error:
        located("reference.statistics", address, "0" * 64, tmp_path)
    assert str(error.value) == (
        f"reference.statistics = {address} cannot be downloaded ([Errno 111] Connection refused): where there is a "
        f"network run curl -fL --create-dirs -o {cache / 'weights.pth'} {address}, and copy the file to the same place "
        "here"
    )
    with pytest.raises(UserError, match=r"none.pth cannot be downloaded \(.*not found\): where"):
        located("reference.weights", f"{server[0]}/none.pth", "0" * 64, tmp_path)
