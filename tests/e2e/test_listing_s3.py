"""Listing and cataloguing a bucket: pages, folders, going on within a folder."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from prichexy.cohort.catalog import build_catalog, iterate_rows, listing
from prichexy.config import CatalogConfig, StorageConfig
from prichexy.errors import StorageFault
from prichexy.lake.listing import Page
from prichexy.lake.storage import Store
from tests.e2e.conftest import S3Server

pytestmark = pytest.mark.e2e
FILES = 2_350


@pytest.fixture
def lake(s3: S3Server, bucket: str) -> str:
    """2,350 objects: more than two pages in one folder, some in others, some beside the folders."""
    client = s3.client()
    keys = [f"flat/{n:05d}.png" for n in range(2_300)] + [f"a/b{n}/x-{n}.png" for n in range(40)]
    keys += [f"{n}.png" for n in range(10)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: client.pipe_file(f"store/listing/lake/{key}", key.encode()), keys))
    return f"{bucket}/listing/lake"


def test_a_bucket_is_listed_in_pages_and_gone_on_with_within_a_folder(
    lake: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = StorageConfig()
    store = Store(lake, storage)
    pages = list(store.pages("flat"))
    assert [len(page.objects) for page in pages] == [1000, 1000, 300]
    behind = [item.path for page in store.pages("flat", token=pages[0].token) for item in page.objects]
    assert sorted(behind) == sorted(item.path for page in pages[1:] for item in page.objects)
    (root,) = store.pages(deep=False)
    assert (sorted(root.folders), len(root.objects)) == (["a", "flat"], 10)
    assert list(store.list("nowhere")) == []
    assert len({item.etag for item in store.list()}) == FILES

    monkeypatch.setattr(listing, "PIECE_ROWS", 500)
    monkeypatch.setattr(listing, "PAGES_LOOKED_AT", 0)  # three pages are many
    config = CatalogConfig(source=lake, out=f"{bucket}/listing/private", storage=storage)
    whole = Store.pages
    asked: list[tuple[str, bool]] = []

    def cut_off(self: Store, below: str = "", deep: bool = True, token: str = "") -> Iterator[Page]:
        if self.uri != lake or not deep:
            yield from whole(self, below, deep, token)
            return
        asked.append((below, bool(token)))
        for number, page in enumerate(whole(self, below, deep, token)):
            yield page
            if below == "flat" and number == 1 and not token:
                raise StorageFault("the store is gone")

    monkeypatch.setattr(Store, "pages", cut_off)
    with pytest.raises(StorageFault, match="the store is gone"):
        build_catalog(config)
    asked.clear()
    made = build_catalog(config)
    assert ("flat", True) in asked
    assert ("flat", False) not in asked
    assert made.rows == FILES
    rows = [row for table in iterate_rows(made, storage) for row in table.to_pylist()]
    assert {row["uri"] for row in rows} == {item.path for item in store.list()}
    assert sorted(row["order"] for row in rows) == [row["order"] for row in rows]
    assert not list(Store(config.out, storage).list("_listing"))
