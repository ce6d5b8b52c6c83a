"""Shards from an object store: s3:// against moto's server on loopback."""

import pytest

from scm.data import store as scm_store
from scm.data.remote import fetch_missing
from scm.errors import UserError
from tests.data.test_remote import contents, make_latents

pytest.importorskip("s3fs", reason="the extra dev is not installed as a whole")
pytest.importorskip("moto", reason="the extra dev is not installed as a whole")

BUCKET = "latents"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The endpoint of a store that holds what the folder `origin` does; yields both."""
    import boto3
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "127.0.0.1")
        patch.setenv("AWS_ACCESS_KEY_ID", "a")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        origin = make_latents(tmp_path_factory.mktemp("origin") / "latents")
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket=BUCKET)
        for name, content in contents(origin).items():
            client.put_object(Bucket=BUCKET, Key=f"of/digits/{name}", Body=content)
        yield origin, client
        server.stop()


@pytest.mark.parametrize("chunk", [5000, scm_store.CHUNK])
def test_shards_from_s3_are_byte_for_byte_those_of_the_bucket(store, tmp_path, monkeypatch, chunk):
    """Whether a shard takes many requests or one."""
    origin, _ = store
    monkeypatch.setattr(scm_store, "CHUNK", chunk)
    fetch_missing(tmp_path / "l", f"s3://{BUCKET}/of/digits", lambda text: None, pauses=())
    assert contents(tmp_path / "l") == contents(origin)


def test_what_is_missing_or_wrong_there_is_named(store, tmp_path):
    _, client = store
    with pytest.raises(UserError, match=r"^s3://latents/nothing/index.json cannot be read \(not found\): runtime.sha"):
        fetch_missing(tmp_path / "l", f"s3://{BUCKET}/nothing", lambda text: None, pauses=())
    with pytest.raises(UserError, match=r"^s3://nobodys/index.json cannot be read \(not found\): runtime.shards"):
        fetch_missing(tmp_path / "l", "s3://nobodys", lambda text: None, pauses=())
    body = client.get_object(Bucket=BUCKET, Key="of/digits/000001.tar")["Body"].read()
    client.put_object(Bucket=BUCKET, Key="of/digits/000001.tar", Body=body[:-1] + b"x")
    with pytest.raises(UserError, match=r"^s3://latents/of/digits/000001.tar is not what the index says"):
        fetch_missing(tmp_path / "l", f"s3://{BUCKET}/of/digits", lambda text: None, pauses=())
    client.put_object(Bucket=BUCKET, Key="of/digits/000001.tar", Body=body)


def test_without_credentials_they_are_asked_for(store, tmp_path, monkeypatch):
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(UserError, match=r"\(Unable to locate credentials\): check runtime.shards and your creden"):
            fetch_missing(tmp_path / "l", f"s3://{BUCKET}/of/digits", lambda text: None, pauses=())
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
