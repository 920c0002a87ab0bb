import os
from pathlib import Path

import pytest

from prichexy.config import StorageConfig
from prichexy.errors import StorageFault, UsageError
from prichexy.lake import storage
from prichexy.lake.listing import StoredObject
from prichexy.lake.storage import ObjectChanged, Store


def test_listing_shows_every_file_below_and_no_unfinished_write(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("a/b/c.bin", b"12345")
    store.write("d", b"")
    (tmp_path / "a" / ".tmp-0123").write_bytes(b"half")
    assert sorted((item.path, item.size) for item in store.list()) == [("a/b/c.bin", 5), ("d", 0)]
    assert [item.path for item in store.list("a")] == ["a/b/c.bin"]
    assert list(store.list("nowhere")) == []


def test_writes_replace_whole_objects_and_leave_no_temporary(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("x", b"old")
    store.write("x", b"new")
    assert store.read("x") == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    store.delete("x")
    store.delete("x")
    with pytest.raises(FileNotFoundError):
        store.read("x")


def test_a_transient_fault_is_tried_again_and_a_lasting_one_told_without_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)
    store = Store(str(tmp_path), StorageConfig(attempts=3))
    calls = 0

    def flaky() -> bytes:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise ConnectionResetError("/secret/path/Jane_Roe.dcm")
        return b"data"

    assert store.retried("read from", flaky) == b"data"
    calls = -1
    with pytest.raises(StorageFault) as caught:
        store.retried("read from", flaky)
    assert "Jane_Roe" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert str(tmp_path) in str(caught.value)


def test_a_refusal_is_not_tried_again(tmp_path: Path) -> None:
    calls = 0

    def refused() -> None:
        nonlocal calls
        calls += 1
        raise PermissionError("no")

    with pytest.raises(StorageFault, match="permission denied"):
        Store(str(tmp_path)).retried("read from", refused)
    assert calls == 1


def test_a_missing_object_is_no_fault_of_the_store_but_a_missing_root_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^no such object$"):
        Store(str(tmp_path)).read("absent")
    with pytest.raises(StorageFault, match="nothing found at"):
        Store(str(tmp_path / "absent")).check_readable()


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageFault, match="a part of the path is a file"):
        Store(str(tmp_path / "file")).check_writable()


def test_unknown_schemes_are_a_users_mistake() -> None:
    with pytest.raises(UsageError, match="storage nfs9:// is not supported"):
        Store("nfs9://x").read("y")


def listed_alone(store: Store) -> StoredObject:
    (listed,) = store.list()
    return listed


def test_a_listed_file_is_read_as_long_as_it_is_the_same(tmp_path: Path) -> None:
    store, file = Store(str(tmp_path)), tmp_path / "x"
    file.write_bytes(b"image")
    os.utime(file, ns=(0, 1_600_000_000_123_456_789))
    listed = listed_alone(store)
    assert listed == StoredObject("x", 5, "1600000000123456789-5")
    assert store.read_listed(listed) == b"image"
    os.utime(file, ns=(0, 1_600_000_000_123_456_790))
    with pytest.raises(ObjectChanged, match=r"^an object changed since it was listed$"):
        store.read_listed(listed)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"^no such object$"):
        store.read_listed(listed)


def test_a_file_replaced_by_one_of_equal_size_is_noticed(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("x", b"image")
    os.utime(tmp_path / "x", ns=(0, 1_600_000_000_000_000_000))
    listed = listed_alone(store)
    store.write("x", b"other")
    with pytest.raises(ObjectChanged):
        store.read_listed(listed)


def test_a_file_written_to_while_it_is_read_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, file, measure = Store(str(tmp_path)), tmp_path / "x", os.fstat
    file.write_bytes(b"image")
    os.utime(file, ns=(0, 1_600_000_000_000_000_000))
    listed = listed_alone(store)

    def written_meanwhile(descriptor: int) -> os.stat_result:
        file.write_bytes(b"other")
        return measure(descriptor)

    monkeypatch.setattr(storage.os, "fstat", written_meanwhile)
    with pytest.raises(ObjectChanged):
        store.read_listed(listed)


def test_without_an_etag_the_size_tells_a_change(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("x", b"image")
    assert store.read_listed(StoredObject("x", 5, "")) == b"image"
    with pytest.raises(ObjectChanged):
        store.read_listed(StoredObject("x", 4, ""))


def test_a_read_cut_short_under_the_same_etag_is_a_fault_of_the_store_not_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)
    store = Store(str(tmp_path), StorageConfig(attempts=4))
    store.write("x", b"image")
    listed, reads = listed_alone(store), 0
    whole = storage._read_local

    def cut(source: Path, etag: str) -> bytes:
        nonlocal reads
        reads += 1
        return whole(source, etag)[: 5 if reads == 4 else 3]

    monkeypatch.setattr(storage, "_read_local", cut)
    assert store.read_listed(listed) == b"image"
    assert reads == 4
    reads = 4
    with pytest.raises(StorageFault, match=r"^can't read from .*: its answers break off$"):
        store.read_listed(listed)
