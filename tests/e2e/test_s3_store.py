"""The store against a real S3 server."""

import time

import pytest

from prichexy.config import StorageConfig
from prichexy.errors import StorageFault
from prichexy.lake.storage import Store, _filesystem
from tests.e2e.conftest import S3Server

pytestmark = pytest.mark.e2e


def test_objects_are_written_listed_and_removed(bucket: str) -> None:
    store = Store(f"{bucket}/a")
    store.write("x/1", b"one")
    store.write("x/1", b"other")
    store.write("2", b"")
    assert store.read("x/1") == b"other"
    listed = {item.path: item for item in store.list()}
    assert {path: item.size for path, item in listed.items()} == {"x/1": 5, "2": 0}
    assert listed["x/1"].etag == "795f3202b17cb6bc3d4b771d8c6c9eaf"
    store.delete("x/1")
    assert [item.path for item in store.list()] == ["2"]
    with pytest.raises(FileNotFoundError, match=r"^no such object$"):
        store.read("x/1")


@pytest.mark.parametrize("secret", ["wrong", ""])
def test_wrong_credentials_are_told_at_once(
    bucket: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret or "x")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testkey" if secret else "stranger")
    _filesystem.cache_clear()
    import fsspec

    fsspec.filesystem("s3").clear_instance_cache()
    began = time.monotonic()
    for work in (Store(f"{bucket}/a").check_readable, Store(f"{bucket}/a").check_writable):
        with pytest.raises(StorageFault, match="refused the credentials"):
            work()
    assert time.monotonic() - began < 10


def test_a_dead_endpoint_is_told(bucket: str) -> None:
    store = Store(f"{bucket}/a", StorageConfig(endpoint_url="http://127.0.0.1:9", attempts=2))
    with pytest.raises(StorageFault, match="the endpoint does not answer"):
        store.check_readable()


def test_a_missing_bucket_is_told(bucket: str) -> None:
    with pytest.raises(StorageFault, match=r"nothing found at|no such bucket"):
        Store("s3://no-such-bucket/a").check_readable()
