"""What is counted, from which bytes, and how the images are split."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prichexy.config import SplitShares
from prichexy.errors import PrichexyError, StorageFault, UsageError
from prichexy.lake.storage import Store
from prichexy.publish.counting import count
from prichexy.publish.source import read_publication
from prichexy.publish.splits import split
from tests.publish.publications import image_id, job, png, published


def cells(store: Store, name: str) -> dict[str, tuple[int, int]]:
    """Images and patients of a table's cells, nothing withheld, zeros left out."""
    table = count(read_publication(store), 1).table(name)
    return {label: (images, patients) for label, images, patients in table.lines}


def test_tables_count_images_and_the_patients_they_are_of(store: Store) -> None:
    # 38 images: rows 0 to 39 without 3 and 7; rows 8, 17, 26 and 35 name no patient, so each is one.
    census = count(read_publication(store), 1)
    assert (census.images, census.patients) == (38, 20 + 4)
    assert census.known_patients
    assert census.some_unknown
    assert cells(store, "patient_sex") == {"female": (20, 12), "male": (18, 12)}
    assert cells(store, "view") == {"AP": (18, 18), "PA": (19, 19), "LL": (1, 1)}
    assert cells(store, "bit_depth") == {"8 bits": (34, 20), "12 bits": (4, 4)}
    assert cells(store, "side") == {"up to 512 px": (38, 24)}
    assert cells(store, "model_version") == {"net/3": (38, 24)}
    assert cells(store, "laterality") == {"not stated": (38, 24)}


def test_findings_are_counted_apart_from_none_and_from_not_labelled(store: Store) -> None:
    assert cells(store, "findings") == {
        "Effusion": (19, 19),
        "Mass": (10, 10),
        "Hernia": (1, 1),
        "no finding": (10, 10),
        "not labelled": (8, 8),
    }


def test_ages_are_counted_in_coarse_bins(store: Store) -> None:
    # Ages are 20 + 3 * (row // 2): 18 to 39 up to row 13, 40 to 59 up to row 27, then 60 to 77.
    assert {label: images for label, (images, _) in cells(store, "patient_age").items()} == {
        "18 to 39": 14 - 2,
        "40 to 59": 14,
        "60 to 79": 12,
    }


def test_small_cells_are_withheld(store: Store) -> None:
    table = count(read_publication(store), 5).table("findings")
    assert "Hernia" in table.withheld_labels
    assert len(table.withheld_labels) >= 2
    assert all(patients >= 5 for _, _, patients in table.lines)


def test_counting_reads_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publication = read_publication(published(tmp_path / "large", job(32, 16), side=512))
    assert publication.size > 32 * 512 * 512
    taken = 0
    opened = Store.opened

    def counted(self: Store, path: str) -> Any:
        class Counted:
            def __init__(self) -> None:
                self.file = opened(publication.store, path)
                self.closed = False

            def read(self, size: int = -1) -> bytes:
                nonlocal taken
                data = bytes(self.file.read(size if size >= 0 else None))
                taken += len(data)
                return data

            def seek(self, *where: int) -> int:
                return int(self.file.seek(*where))

            def tell(self) -> int:
                return int(self.file.tell())

            def readable(self) -> bool:
                return True

            def seekable(self) -> bool:
                return True

            def writable(self) -> bool:
                return False

            def close(self) -> None:
                self.closed = True

        return pa.PythonFile(Counted(), mode="r")

    monkeypatch.setattr(Store, "opened", counted)
    assert count(publication, 1, with_ids=True).images == 32
    assert 0 < taken < publication.size / 50


def test_a_shard_that_lost_rows_is_noticed(store: Store) -> None:
    publication = read_publication(store)
    path = Path(store.root) / publication.data[1].path
    pq.write_table(pq.read_table(path)[:3], path)
    with pytest.raises(PrichexyError, match="does not hold the rows that the manifest says"):
        count(publication, 5)


def test_a_shard_that_is_gone_is_a_fault_of_the_store(store: Store) -> None:
    publication = read_publication(store)
    (Path(store.root) / publication.data[1].path).unlink()
    with pytest.raises(StorageFault, match="lost a data file"):
        count(publication, 5)


def test_nothing_finished_is_nothing_to_describe(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PrichexyError, match="is not finished"):
        read_publication(Store(str(tmp_path / "empty")))


def test_images_to_show_are_found_and_unknown_ones_refused(store: Store) -> None:
    publication = read_publication(store)
    census = count(publication, 5, show=(image_id(8), image_id(39)))
    assert set(census.places) == {image_id(8), image_id(39)}
    place = census.places[image_id(39)]
    assert (place.view, place.findings) == ("AP", None)
    assert publication.image(place.file, place.row) == png(39, 64)
    with pytest.raises(UsageError, match="1 of the images are not published"):
        count(publication, 5, show=(image_id(8), "0" * 32))


def test_a_patient_is_in_one_split_and_an_unknown_one_in_none(store: Store) -> None:
    census = count(read_publication(store), 1, with_ids=True)
    table = split(census, SplitShares(), 1).table
    assert table["image_id"].to_pylist() == sorted(image_id(row) for row in range(40) if row not in (3, 7))
    of = dict(zip(table["image_id"].to_pylist(), table["split"].to_pylist(), strict=True))
    for patient in range(20):
        known = [row for row in (2 * patient, 2 * patient + 1) if row % 9 != 8 and row not in (3, 7)]
        assert len({of[image_id(row)] for row in known}) == 1
        assert all(of[image_id(row)] in ("train", "validation", "test") for row in known)
    assert [of[image_id(row)] for row in (8, 17, 26, 35)] == [None] * 4


def test_a_lake_that_grows_moves_no_patient(tmp_path: Path) -> None:
    shares = SplitShares(train=0.5, validation=0.2, test=0.3)
    small, large = (
        split(count(read_publication(published(tmp_path / str(rows), job(rows))), 1, with_ids=True), shares, 1)
        for rows in (20, 40)
    )
    before = dict(zip(*(small.table[name].to_pylist() for name in ("image_id", "split")), strict=True))
    after = dict(zip(*(large.table[name].to_pylist() for name in ("image_id", "split")), strict=True))
    assert {name: after[name] for name in before} == before
    assert {"train", "validation", "test"} <= set(after.values())
    assert np.unique(list(filter(None, after.values()))).size == 3


def test_splits_need_patients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.publish import publications

    plain = publications.row
    monkeypatch.setattr(publications, "row", lambda number, side: {**plain(number, side), "patient_id": None})
    census = count(read_publication(published(tmp_path / "nobody")), 5, with_ids=True)
    assert (census.known_patients, census.images) == (False, 40)
    with pytest.raises(UsageError, match="no image names its patient"):
        split(census, SplitShares(), 5)
