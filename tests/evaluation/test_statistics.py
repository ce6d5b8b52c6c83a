"""Other people's mean and covariance: EDM's .npz and EDM2's .pkl, read without executing anything."""

import io
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from scm.errors import UserError
from scm.evaluation.frechet import distance_between
from scm.evaluation.statistics import read_statistics, statistics_of


def moments(count: int = 500, features: int = 6, seed: int = 0):
    random = np.random.default_rng(seed)
    values = random.normal(size=(count, features)) @ random.normal(size=(features, features))
    return values, {"mu": values.mean(0), "sigma": np.cov(values, rowvar=False)}


def written(tmp_path, name: str, content):
    path = tmp_path / name
    if name.endswith(".npz"):
        np.savez(path, **content)
    else:
        with path.open("wb") as file:
            pickle.dump(content, file)
    return path


def distance_to(statistics) -> float:
    generated, _ = moments(300, seed=1)
    return distance_between(statistics, statistics_of(torch.from_numpy(generated)))


def test_edms_file(tmp_path):
    values, found = moments()
    statistics = read_statistics(written(tmp_path, "cifar10.npz", found), "fid", 6)
    expected = distance_to(statistics_of(torch.from_numpy(values)))
    assert distance_to(statistics) == pytest.approx(expected, rel=1e-9) and expected > 1


def test_edm2s_file_holds_two_distances(tmp_path):
    values, found = moments()
    others, further = moments(seed=7, features=4)
    content = {"fid": found, "fd_dinov2": further}
    path = written(tmp_path, "img512.pkl", content)
    expected = distance_to(statistics_of(torch.from_numpy(values)))
    assert distance_to(read_statistics(path, "fid", 6)) == pytest.approx(expected, rel=1e-9)
    statistics = read_statistics(path, "fd_dinov2", 4)
    torch.testing.assert_close(statistics["sum"] / statistics["count"], torch.from_numpy(others.mean(0)))
    with pytest.raises(UserError, match=r"img512.pkl has no mu and sigma: use EDM's .npz or EDM2's .pkl for this"):
        read_statistics(path, None, 6)


def test_float32_is_read_as_float64(tmp_path):
    _, found = moments()
    path = written(tmp_path, "a.npz", {name: value.astype(np.float32) for name, value in found.items()})
    assert read_statistics(path, "fid", 6)["outer_sum"].dtype == torch.float64


def described(shape: tuple[int, ...]) -> bytes:
    """The beginning of an array's file."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


@pytest.mark.parametrize("lying", [False, True])
@pytest.mark.parametrize("packed", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize("shape", [(2**22,), (2**40, 2**40)])
def test_a_bomb_is_not_unpacked(tmp_path, shape, packed, lying):
    """32 MiB in a small file, whose index tells their size or a smaller one."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", packed) as file:
        file.writestr("mu.npy", described(shape) + bytes(2**25))
        size = file.getinfo("mu.npy").file_size
    if lying:
        path.write_bytes(path.read_bytes().replace(size.to_bytes(4, "little"), (200).to_bytes(4, "little")))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"a.npz cannot be read as .npz \(.*\): check reference.statistics$"):
        read_statistics(path, "fid", 6)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


REMEDY = r": use EDM's \.npz or EDM2's \.pkl for this extractor, or reference\.statistics: null$"


@pytest.mark.parametrize("name", ["a.npz", "a.pkl"])
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"mu": None}, r"has no mu and sigma for fid" + REMEDY),
        ({"sigma": np.eye(5)}, r"mu and sigma have shapes \[6\] and \[5, 5\], and the extractor 6 features" + REMEDY),
        ({"mu": np.arange(6)}, r"holds something else than finite numbers" + REMEDY),
        ({"mu": np.full(6, np.nan)}, r"holds something else than finite numbers" + REMEDY),
        (
            {"sigma": np.triu(np.ones((6, 6)))},
            r"sigma is not symmetric or has a negative variance"
            + REMEDY.replace(": use", ", so is no covariance: use", 1),
        ),
        ({"sigma": -np.eye(6)}, r"sigma is not symmetric or has a negative variance, so is no covariance" + REMEDY),
    ],
)
def test_refuses_what_is_no_mean_and_covariance(tmp_path, name, changes, text):
    content = {key: value for key, value in {**moments()[1], **changes}.items() if value is not None}
    with pytest.raises(UserError, match=text):
        read_statistics(written(tmp_path, name, content), "fid", 6)


def test_refuses_what_is_no_such_file(tmp_path):
    with pytest.raises(UserError, match=r"a.npz cannot be read as .npz \(.*\): check reference.statistics$"):
        read_statistics(tmp_path / "a.npz", "fid", 6)
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"a.npz cannot be read as .npz \(.*\): check reference.statistics$"):
        read_statistics(tmp_path / "a.npz", "fid", 6)
    whole = written(tmp_path, "whole.npz", moments()[1]).read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[:200] + bytes(100) + whole[300:])
    with pytest.raises(UserError, match=r"a.npz"):
        read_statistics(tmp_path / "a.npz", "fid", 6)
    path = written(tmp_path, "list.pkl", [1, 2])
    with pytest.raises(UserError, match=r"list.pkl has no mu and sigma for fid" + REMEDY):
        read_statistics(path, "fid", 6)
    path = written(tmp_path, "text.pkl", {"mu": "text", "sigma": "text"})
    with pytest.raises(UserError, match=r"text.pkl: mu or sigma is no array" + REMEDY):
        read_statistics(path, "fid", 6)


class Attack:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("name", ["a.npz", "a.pkl"])
def test_executes_nothing(tmp_path, capsys, name):
    path = written(tmp_path, name, {"mu": np.array([Attack()]) if name == "a.npz" else Attack(), "sigma": np.eye(1)})
    with pytest.raises(UserError, match=r"a\.npz cannot be read|refused"):
        read_statistics(path, "fid", 1)
    assert "executed" not in capsys.readouterr().out
