"""What a large or growing lake asks of its catalog: units, pieces, going on after a crash, increments."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from prichexy.cohort.catalog import Catalog, build_catalog, iterate_rows, listing, open_catalog, replacing
from prichexy.config import CatalogConfig, StorageConfig
from prichexy.errors import StorageFault, UsageError
from prichexy.lake.listing import Page
from prichexy.lake.storage import Store

LOCAL = StorageConfig()
SALT = b"s" * 16


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """300 files: beside the root, in 20 wards, and two levels down."""
    for number in range(300):
        folder = tmp_path / "lake" / (f"ward{number % 20:02d}" if number % 3 else "") / ("deep" if number % 7 else "")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:03d}.png").write_bytes(b"x" * number)
    return tmp_path / "lake"


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PIECE_ROWS", 10)


def rows(catalog: Catalog) -> list[dict[str, object]]:
    return [row for table in iterate_rows(catalog, LOCAL) for row in table.to_pylist()]


def uris(catalog: Catalog) -> set[object]:
    return {row["uri"] for row in rows(catalog)}


@pytest.mark.parametrize("most", [3, 256])
def test_units_cover_the_lake_once_and_their_number_is_bounded(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(listing, "MOST_UNITS", most)
    units = listing._units(Store(str(lake)))
    assert len(units) == {3: 4, 256: 22}[most]  # 20 wards and "deep" beside them, and the root itself
    made = build_catalog(CatalogConfig(source=str(lake), out=str(tmp_path / "c")), salt=SALT)
    assert made.rows == len(rows(made)) == 300
    assert uris(made) == {str(path.relative_to(lake)) for path in lake.rglob("*.png")}
    assert [path.name for path in (tmp_path / "c").iterdir() if path.is_dir()] == []


def test_a_lake_of_few_folders_is_cut_below_them(tmp_path: Path) -> None:
    for patient in range(40):
        (tmp_path / "lake" / "images" / f"{patient:02d}").mkdir(parents=True)
        (tmp_path / "lake" / "images" / f"{patient:02d}" / "0.png").write_bytes(b"x")
    units = listing._units(Store(str(tmp_path / "lake")))
    assert units[0].folders == [("", False), ("images", False)]
    assert [unit.folders for unit in units[1:]] == [[(f"images/{patient:02d}", True)] for patient in range(40)]


def test_a_listing_that_was_cut_off_goes_on_and_lists_no_finished_unit_again(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = build_catalog(CatalogConfig(source=str(lake), out=str(tmp_path / "whole")), salt=SALT)
    listed: list[str] = []
    pages = Store.pages

    def counted(store: Store, below: str = "", deep: bool = True, token: str = "", fail: str = "") -> Iterator[Page]:
        if deep and store.uri == str(lake):
            if below == fail:
                raise StorageFault("the store is gone")
            listed.append(below)
        return pages(store, below, deep, token)

    config = CatalogConfig(source=str(lake), out=str(tmp_path / "c"))
    monkeypatch.setattr(Store, "pages", lambda *args, **kwargs: counted(*args, **kwargs, fail="ward13"))
    with pytest.raises(StorageFault, match="the store is gone"):
        build_catalog(config, salt=SALT)
    assert open_catalog(config.out, LOCAL) is None
    before = set(listed)
    assert "ward00" in before
    listed.clear()
    monkeypatch.setattr(Store, "pages", counted)
    made = build_catalog(config, salt=SALT)
    assert "ward13" in listed
    assert not before & set(listed)
    assert (made.content, rows(made)) == (undisturbed.content, rows(undisturbed))


def test_a_listing_of_another_lake_or_salt_is_not_gone_on_with(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CatalogConfig(source=str(lake), out=str(tmp_path / "c"))
    store = Store(config.out)
    listing.list_lake(Store(str(lake)), store, config, SALT)
    (lake / "new.png").write_bytes(b"new")
    assert listing.list_lake(Store(str(lake)), store, config, SALT).files == 300
    assert listing.list_lake(Store(str(lake)), store, config, b"t" * 16).files == 301
    narrower = config.model_copy(update={"exclude": ("ward*",)})
    assert listing.list_lake(Store(str(lake)), store, narrower, b"t" * 16).files == 101


def test_an_unreadable_folder_is_told_and_its_images_are_not_left_out(
    lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refused(folder: str | Path) -> object:
        if Path(folder).name == "ward03":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refused)  # root, as which tests may run, reads everything
    with pytest.raises(StorageFault, match=r"can't list .*: permission denied"):
        list(Store(str(lake)).list())


def test_links_to_files_count_and_links_in_a_circle_end(lake: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.png").write_bytes(b"linked")
    (lake / "link.png").symlink_to(tmp_path / "elsewhere.png")
    (lake / "dead.png").symlink_to(tmp_path / "nowhere")
    (lake / "ward05" / "circle").symlink_to(lake)
    listed = [item.path for item in Store(str(lake)).list()]
    assert len(listed) == len(set(listed)) == 301
    assert "link.png" in listed


def test_an_increment_holds_what_is_new_or_changed_and_remembers_what_is_gone(lake: Path, tmp_path: Path) -> None:
    def catalog(name: str, since: str | None) -> Catalog:
        out = str(tmp_path / name)
        return build_catalog(
            CatalogConfig(source=str(lake), out=out, since=since and str(tmp_path / since)),
            salt=None if since else SALT,
        )

    first = catalog("one", None)
    (lake / "new.png").write_bytes(b"new")
    (lake / "000.png").write_bytes(b"now it has bytes")
    (lake / "ward01" / "deep" / "001.png").unlink()
    second = catalog("two", "one")
    assert uris(second) == {"new.png", "000.png"}
    assert (second.rows, second.replaces, second.gone, second.follows) == (2, 1, 1, first.content)
    assert list(replacing(second, LOCAL)) == ["000.png"]
    assert [row["row_id"] for row in rows(second)] == [0, 1]

    (lake / "new.png").write_bytes(b"newer")
    third = catalog("three", "two")
    assert (uris(third), third.since) == ({"new.png"}, (first.uri, second.uri))
    assert list(replacing(third, LOCAL)) == ["new.png"]

    fourth = catalog("four", "three")
    assert (fourth.rows, fourth.replaces, fourth.gone) == (0, 0, 1)
    assert open_catalog(fourth.uri, LOCAL) == fourth


def test_an_increment_needs_its_own_lakes_catalogs(lake: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "1.png").write_bytes(b"x")
    one = build_catalog(CatalogConfig(source=str(lake), out=str(tmp_path / "one")))
    with pytest.raises(UsageError, match="the catalog of another lake"):
        build_catalog(CatalogConfig(source=str(tmp_path / "other"), out=str(tmp_path / "x"), since=one.uri))
    with pytest.raises(UsageError, match="setting since: there is no catalog"):
        build_catalog(CatalogConfig(source=str(lake), out=str(tmp_path / "x"), since=str(tmp_path / "nowhere")))
