"""What is packed in a way that is not read is refused, with the command that unpacks it."""

import pytest

from tests.support.pictures import GOOD, make, make_tar, picture, read, refused

COMMANDS = {
    "x.tar.xz": "xz -d", "x.TXZ": "xz -d", "x.tar.zst": "zstd -d --rm", "x.tar.bz2": "bzip2 -d", "x.tbz2": "bzip2 -d",
    "x.tar.lz4": "lz4 -d --rm",
}  # fmt: skip


@pytest.mark.parametrize("source", ["folder", "imagenet", "webdataset", "parquet", "cifar10"])
@pytest.mark.parametrize(("name", "command"), COMMANDS.items())
def test_data_path_itself(tmp_path, source, name, command):
    path = tmp_path / name
    path.write_bytes(b"packed")
    remedy = f"run `{command} {path}`, and set data.path to what it leaves"
    assert refused(path, source=source) == f"{path} is packed in a way that is not read: {remedy}"


@pytest.mark.parametrize(("source", "name"), [("imagenet", "t.tar.gz"), ("parquet", "t.tgz"), ("folder", "t.zip.gz")])
def test_gzip_where_it_is_not_read(tmp_path, source, name):
    path = tmp_path / name
    path.write_bytes(b"packed")
    assert f": run `gzip -d {path}`, and" in refused(path, source=source)


@pytest.mark.parametrize(("name", "command"), COMMANDS.items())
def test_a_shard_beside_others(tmp_path, name, command):
    make_tar(tmp_path / "0.tar", {"1.png": picture(), "1.cls": b"0"})
    make(tmp_path, {f"more/{name}": b"packed"})
    shard = tmp_path / "more" / name
    assert refused(tmp_path, source="webdataset") == (
        f"{shard} is packed in a way that is not read: run `{command} {shard}`"
    )


def test_a_name_that_a_shell_would_split_is_quoted(tmp_path):
    path = tmp_path / "my set.tar.xz"
    path.write_bytes(b"packed")
    assert f"run `xz -d '{path}'`, and" in refused(path)


def test_a_parquet_file_beside_others(tmp_path):
    make(tmp_path, {"0.parquet": b"-", "1.parquet.zst": b"packed", "notes.txt.gz": b"-"})
    assert refused(tmp_path, source="parquet").endswith(f"not read: run `zstd -d --rm {tmp_path / '1.parquet.zst'}`")


def test_archives_in_place_of_images(tmp_path):
    make(tmp_path, {"notes.txt": b"-", "set/x.tar.xz": b"packed"})
    assert refused(tmp_path).endswith(f"not read: run `xz -d {tmp_path / 'set/x.tar.xz'}`")
    path = make_tar(tmp_path / "outer.tar", {"inner.zip": b"packed"})
    assert refused(path) == f"{path}: no images in it: unpack it, since inner.zip in it is not read"


def test_beside_images_such_a_file_is_listed_as_any_other(tmp_path):
    skipped = read(make(tmp_path, GOOD | {"cat/notes.tar.xz": b"packed"}))[2]
    assert skipped == [{"file": "cat/notes.tar.xz", "reason": "not an image file"}]
