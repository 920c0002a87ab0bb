import os
from pathlib import Path

import pytest

from prichexy.config import StorageConfig
from prichexy.errors import Quarantined, StorageFault
from prichexy.lake import storage
from prichexy.lake.listing import StoredObject
from prichexy.lake.source import read_source
from prichexy.lake.storage import Store

NAME = "Roe_Jane.dcm"


@pytest.fixture
def lake(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "lake"))
    store.write(NAME, b"a radiograph")
    os.utime(tmp_path / "lake" / NAME, ns=(0, 1_600_000_000_000_000_000))
    return store


@pytest.fixture
def listed(lake: Store) -> StoredObject:
    (item,) = lake.list()
    return item


def reason(found: bytes | Quarantined) -> tuple[str, str]:
    assert isinstance(found, Quarantined)
    assert "Roe" not in found.message
    return found.stage, found.reason


def test_a_file_comes_back_as_it_was_listed(lake: Store, listed: StoredObject) -> None:
    assert read_source(lake, listed, 12, "row 0", False) == b"a radiograph"


def test_a_file_that_is_too_large_is_not_read(
    lake: Store, listed: StoredObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "read_listed", lambda *_: pytest.fail("it was read"))
    assert reason(read_source(lake, listed, 11, "row 0", False)) == ("fetch", "TooLarge")


@pytest.mark.parametrize("now", [b"A RADIOGRAPH", b"a radiograph", b"shorter"])
def test_a_file_written_again_is_quarantined_whatever_its_size(lake: Store, listed: StoredObject, now: bytes) -> None:
    lake.write(NAME, now)
    assert reason(read_source(lake, listed, 99, "row 0", False)) == ("fetch", "SourceChanged")


def test_a_row_of_an_older_catalog_without_an_etag_is_compared_by_size(lake: Store) -> None:
    lake.write(NAME, b"A RADIOGRAPH")
    assert read_source(lake, StoredObject(NAME, 12, ""), 99, "row 0", False) == b"A RADIOGRAPH"
    found = read_source(lake, StoredObject(NAME, 13, ""), 99, "row 0", False)
    assert reason(found) == ("fetch", "SourceChanged")


def test_a_file_that_is_gone_stops_the_job_unless_it_may(lake: Store, listed: StoredObject) -> None:
    lake.delete(NAME)
    with pytest.raises(StorageFault, match=r"a listed file is gone from the lake \(row 7\): is it mounted\?"):
        read_source(lake, listed, 99, "row 7", False)
    assert reason(read_source(lake, listed, 99, "row 7", True)) == ("fetch", "SourceGone")
    Path(lake.root).rmdir()
    with pytest.raises(StorageFault, match="nothing found at"):
        read_source(lake, listed, 99, "row 7", True)


def test_a_fault_of_the_store_is_never_the_files_and_names_its_row_only(
    lake: Store, listed: StoredObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(source: Path, etag: str) -> bytes:
        return source.read_bytes()[:5]

    monkeypatch.setattr(storage, "_read_local", cut)
    once = Store(lake.uri, StorageConfig(attempts=1))
    with pytest.raises(StorageFault, match=r": its answers break off \(row 7\)$") as caught:
        read_source(once, listed, 99, "row 7", True)
    assert "Roe" not in str(caught.value)
