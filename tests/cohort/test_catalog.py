import json
import os
from pathlib import Path

import pytest

from prichexy.cohort.catalog import build_catalog, building, count_formats, open_catalog, read_rows, reading, source_of
from prichexy.config import CatalogConfig, StorageConfig
from prichexy.errors import StorageFault, UsageError

LOCAL = StorageConfig()
HEADER = "Image Index,Finding Labels,Follow-up #,Patient ID\n"


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    folder = tmp_path / "lake"
    for number in range(25):
        file = folder / f"ward{number % 3}" / f"{number:03d}.{'png' if number % 2 else 'DCM'}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * number)
    (folder / "ward0" / ".DS_Store").write_bytes(b"mac")
    (folder / "notes.txt").write_bytes(b"hello")
    return folder


def test_every_file_is_a_row_once_in_an_order_that_tells_nothing(lake: Path, tmp_path: Path) -> None:
    made = build_catalog(CatalogConfig(source=str(lake), out=str(tmp_path / "c")))
    assert (made.rows, made.skipped, made.bytes) == (26, 1, sum(range(25)) + 5)
    table = read_rows(made, LOCAL, 0, made.rows)
    assert table["row_id"].to_pylist() == list(range(26))
    names = table["uri"].to_pylist()
    assert set(names) == {f"ward{n % 3}/{n:03d}.{'png' if n % 2 else 'DCM'}" for n in range(25)} | {"notes.txt"}
    assert names != sorted(names)
    other = build_catalog(CatalogConfig(source=str(lake), out=str(tmp_path / "d")))
    assert read_rows(other, LOCAL, 0, 26)["uri"].to_pylist() != names
    assert count_formats(made, LOCAL) == {"png": 12, "dicom": 13, "other": 1}


def test_each_row_holds_what_tells_the_files_next_change(lake: Path, tmp_path: Path) -> None:
    os.utime(lake / "ward1" / "007.png", ns=(0, 1_600_000_000_123_456_789))
    made = build_catalog(CatalogConfig(source=str(lake), out=str(tmp_path / "c")), salt=b"s" * 16)
    rows = {row["uri"]: row for row in read_rows(made, LOCAL, 0, made.rows).to_pylist()}
    assert rows["ward1/007.png"]["etag"] == "1600000000123456789-7"
    times = {path: (lake / path).stat().st_mtime_ns for path in rows}
    assert {path: row["etag"] for path, row in rows.items()} == {
        path: f"{times[path]}-{row['size']}" for path, row in rows.items()
    }
    os.utime(lake / "ward1" / "007.png", ns=(0, 1_600_000_000_123_456_790))
    again = build_catalog(CatalogConfig(source=str(lake), out=str(tmp_path / "d")), salt=b"s" * 16)
    assert again.content != made.content


def test_ranges_are_read_across_parts_and_row_groups(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "ROWS_PER_PART", 10)
    monkeypatch.setattr(reading, "ROWS_PER_GROUP", 4)
    made = build_catalog(CatalogConfig(source=str(lake), out=str(tmp_path / "c")))
    for start, stop in [(0, 26), (0, 1), (9, 11), (3, 5), (8, 26), (25, 26), (10, 20)]:
        assert read_rows(made, LOCAL, start, stop)["row_id"].to_pylist() == list(range(start, stop))
    whole = read_rows(made, LOCAL, 0, 26)["uri"].to_pylist()
    assert source_of(made, LOCAL, [25, 3]) == {3: f"{lake}/{whole[3]}", 25: f"{lake}/{whole[25]}"}


def test_two_builds_with_one_salt_are_equal_and_another_catalog_in_the_same_place_is_not_read_for_it(
    lake: Path, tmp_path: Path
) -> None:
    first = build_catalog(CatalogConfig(source=str(lake), out=str(tmp_path / "c")), salt=b"s" * 16)
    before = {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir()}
    again = build_catalog(CatalogConfig(source=str(lake), out=str(tmp_path / "c")), salt=b"s" * 16)
    assert {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir()} == before
    assert again == first
    rows = read_rows(first, LOCAL, 0, 26)
    (lake / "new.png").write_bytes(b"new")
    other = build_catalog(CatalogConfig(source=str(lake), out=str(tmp_path / "c")), salt=b"s" * 16)
    assert other.rows == 27
    assert read_rows(first, LOCAL, 0, 26).equals(rows)


def test_file_names_that_are_no_text_are_told(lake: Path, tmp_path: Path) -> None:
    (lake / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    with pytest.raises(UsageError, match="1 file names in the lake are not valid UTF-8"):
        build_catalog(CatalogConfig(source=str(lake), out=str(tmp_path / "c")))


def test_labels_are_joined_by_file_name(lake: Path, tmp_path: Path) -> None:
    labels = lake / "labels.csv"
    labels.write_text(HEADER + "001.png,Mass|Effusion,4,17\n003.png,No Finding,0,18\nabsent.png,Mass,1,19\n")
    made = build_catalog(CatalogConfig(source=str(lake), out=str(tmp_path / "c"), labels=str(labels)))
    assert (made.labelled, made.labels_unused) == (2, 1)
    rows = {row["uri"]: row for row in read_rows(made, LOCAL, 0, made.rows).to_pylist()}
    assert "labels.csv" not in rows
    assert rows["ward1/001.png"]["findings"] == ["Effusion", "Mass"]
    assert (rows["ward1/001.png"]["patient_id"], rows["ward1/001.png"]["follow_up"]) == ("17", 4)
    assert rows["ward0/003.png"]["findings"] == []
    assert rows["ward2/005.png"]["findings"] is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a,b\n1,2\n", "no column 'Image Index'"),
        (HEADER + "1.png,Mass,0,1\n1.png,Mass,0,1\n", "line 3 names an image"),
        (HEADER + "1.png,Jane Roe,0,1\n", "line 2 has a finding that is none of the 14"),
    ],
)
def test_unusable_labels_are_refused_without_quoting_them(lake: Path, tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UsageError, match=sentence) as caught:
        build_catalog(CatalogConfig(source=str(lake), out=str(tmp_path / "c"), labels=str(tmp_path / "labels.csv")))
    assert "Jane" not in str(caught.value)


def test_a_label_that_fits_two_files_is_refused(lake: Path, tmp_path: Path) -> None:
    (lake / "copy").mkdir()
    (lake / "copy" / "001.png").write_bytes(b"another patient")
    (tmp_path / "labels.csv").write_text(HEADER + "001.png,Mass,0,1\n")
    with pytest.raises(UsageError, match="1 names fit several files"):
        build_catalog(CatalogConfig(source=str(lake), out=str(tmp_path / "c"), labels=str(tmp_path / "labels.csv")))


def test_a_catalog_is_for_its_owner_only_and_means_the_same_everywhere(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = build_catalog(CatalogConfig(source="lake", out="c"))
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700
    assert (made.root, made.uri) == (str(lake), str(tmp_path / "c"))


def test_excluded_patterns_are_counted(lake: Path, tmp_path: Path) -> None:
    made = build_catalog(CatalogConfig(source=str(lake), out=str(tmp_path / "c"), exclude=("*.txt", "ward1/*")))
    assert made.rows + made.skipped == 27
    assert made.rows == 17


def test_an_empty_or_absent_lake_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no files found at"):
        build_catalog(CatalogConfig(source=str(tmp_path / "empty"), out=str(tmp_path / "c")))
    with pytest.raises(StorageFault, match="nothing found at"):
        build_catalog(CatalogConfig(source=str(tmp_path / "absent"), out=str(tmp_path / "c")))


def test_an_unfinished_or_foreign_catalog_is_not_used(lake: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    made = build_catalog(CatalogConfig(source=str(lake), out=str(out)))
    assert open_catalog(str(out), LOCAL) == made
    facts = json.loads((out / "_catalog.json").read_text())
    (out / "_catalog.json").write_text(json.dumps({**facts, "format_version": 99}))
    with pytest.raises(UsageError, match="another version"):
        open_catalog(str(out), LOCAL)
    (out / "_catalog.json").unlink()
    assert open_catalog(str(out), LOCAL) is None
