import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prichexy.cohort.table import (
    FACTS_FILE,
    PartFacts,
    SplitRows,
    TableFacts,
    TrainingTable,
    fingerprint,
    open_table,
    table_schema,
    write_part,
)
from prichexy.config import StorageConfig
from prichexy.errors import StorageFault, UsageError
from prichexy.findings import FINDINGS
from prichexy.lake.storage import Store

SIZE = 32
PIXELS = np.random.default_rng(0).integers(0, 256, (12, SIZE, SIZE), dtype=np.uint8)
NAMED = [["Mass", "Hernia"], [], ["Atelectasis"]]


def labelled(start: int, stop: int) -> pa.Table:
    span = range(start, stop)
    return pa.table(
        {
            "image_name": [f"{row:03d}.png" for row in span],
            "patient_id": [f"P{row // 2}" for row in span],
            "follow_up": pa.array([None if row == 1 else row for row in span], pa.int32()),
            "findings": [NAMED[row % 3] for row in span],
        }
    )


def write(store: Store) -> TableFacts:
    plan = [("train", 0, 5), ("train", 5, 8), ("validation", 8, 9), ("test", 9, 12)]
    lost = [{"image_name": "x.png", "stage": "decode", "reason": "Truncated"}]
    parts = tuple(
        write_part(
            store, number, split, f"data/{split}-{number}.parquet", labelled(a, b), PIXELS[a:b], lost if a == 9 else []
        )
        for number, (split, a, b) in enumerate(plan)
    )
    counts = {"train": 8, "validation": 1, "test": 3}
    facts = TableFacts(
        SIZE, 12, counts, {"train": 4, "validation": 1, "test": 2}, fingerprint(parts), 42, {}, None, tuple(lost), parts
    )
    store.write(FACTS_FILE, facts.to_json())
    return facts


@pytest.fixture
def table(tmp_path: Path) -> TrainingTable:
    write(Store(str(tmp_path / "table")))
    return open_table(str(tmp_path / "table"), StorageConfig())


def test_a_split_reads_back_exactly_what_was_written(table: TrainingTable) -> None:
    rows = table.split("train")
    assert len(rows) == 8
    assert rows.names.tolist() == [f"{row:03d}.png" for row in range(8)]
    assert rows.patients.tolist() == [f"P{row // 2}" for row in range(8)]
    assert rows.follow_ups.tolist() == [0, -1, *range(2, 8)]
    assert [{FINDINGS[at] for at in np.flatnonzero(row)} for row in rows.findings] == [
        set(NAMED[row % 3]) for row in range(8)
    ]
    assert np.array_equal(rows.images(slice(None)), PIXELS[:8])
    assert np.array_equal(rows.images([7, 0, 4, 5, 0]), PIXELS[[7, 0, 4, 5, 0]])
    assert all(np.array_equal(rows.image(row), PIXELS[row]) for row in range(8))
    assert np.array_equal(table.split("test").images(slice(1, 3)), PIXELS[10:12])
    assert rows.images([]).shape == (0, SIZE, SIZE)
    with pytest.raises(IndexError):
        rows.images([8])


def test_images_are_views_of_the_file_and_nothing_is_mapped_before_it_is_asked_for(table: TrainingTable) -> None:
    rows = table.split("train")
    assert rows._maps == {}
    image = rows.image(6)
    assert not image.flags.owndata
    assert not image.flags.writeable
    assert set(rows._maps) == {1}
    file = Path(table.store.root) / table.facts.parts[1].path
    data = bytearray(file.read_bytes())
    data[table.facts.parts[1].pixels_offset + SIZE * SIZE] ^= 0xFF
    with file.open("r+b") as open_file:
        open_file.write(data)
    assert image[0, 0] == PIXELS[6, 0, 0] ^ 0xFF  # the file itself, not a copy


def test_any_parquet_reader_sees_the_same_table(table: TrainingTable) -> None:
    whole = pa.concat_tables(pq.read_table(Path(table.store.root) / part.path) for part in table.facts.parts)
    assert whole.schema.equals(table_schema(SIZE))
    assert whole["pixels"].to_pylist() == [image.tobytes() for image in PIXELS]
    assert whole["split"].to_pylist() == ["train"] * 8 + ["validation"] + ["test"] * 3
    assert whole["Hernia"].to_pylist() == [row % 3 == 0 for row in range(12)]


def test_rows_go_to_other_processes_without_their_pixels(tmp_path: Path) -> None:
    store, large = Store(str(tmp_path)), np.zeros((8, 512, 512), dtype=np.uint8)
    part = write_part(store, 0, "train", "a.parquet", labelled(0, 8), large, [])
    rows = SplitRows(512, [tmp_path / "a.parquet"], [part], pq.read_table(tmp_path / "a.parquet"))
    rows.image(3)
    sent = pickle.dumps(rows)
    assert len(sent) < 20_000 < large.nbytes
    assert np.array_equal(pickle.loads(sent).images([2]), large[2:3])


def test_the_fingerprint_follows_the_data_and_not_the_place(tmp_path: Path) -> None:
    one, again = write(Store(str(tmp_path / "a"))), write(Store(str(tmp_path / "b")))
    assert one.fingerprint == again.fingerprint
    assert len(one.fingerprint) == 64
    changed = PIXELS[:5].copy()
    changed[2, 3, 4] ^= 1
    other = write_part(Store(str(tmp_path / "c")), 0, "train", "a", labelled(0, 5), changed, [])
    assert fingerprint([other, *one.parts[1:]]) != one.fingerprint
    relabelled = labelled(0, 5).set_column(1, "patient_id", [["Q"] * 5])
    other = write_part(Store(str(tmp_path / "c")), 0, "train", "b", relabelled, PIXELS[:5], [])
    assert fingerprint([other, *one.parts[1:]]) != one.fingerprint


def test_facts_come_back_from_their_file(tmp_path: Path) -> None:
    facts = write(Store(str(tmp_path)))
    assert TableFacts.from_json((tmp_path / FACTS_FILE).read_bytes()) == facts
    text = json.loads((tmp_path / FACTS_FILE).read_text())
    assert text["quarantined"] == [{"image_name": "x.png", "stage": "decode", "reason": "Truncated"}]
    with pytest.raises(UsageError, match="another version"):
        TableFacts.from_json(json.dumps({**text, "format_version": 99}).encode())


def test_a_part_without_rows_has_no_file(tmp_path: Path) -> None:
    facts = write_part(Store(str(tmp_path)), 3, "test", "a.parquet", labelled(0, 0), PIXELS[:0], [])
    assert facts == PartFacts(3, "test", "a.parquet", 0, 0, 0, "")
    assert list(tmp_path.iterdir()) == []


def test_what_training_could_not_work_with_is_refused(table: TrainingTable, tmp_path: Path) -> None:
    table.check(1)
    with pytest.raises(UsageError, match="the validation split has 1 images for 2 workers: use at most 1 workers"):
        table.check(2)
    table.check(8, needed=["train"], pairs=True)
    with pytest.raises(UsageError, match="the train split has 8 images for 9 workers"):
        table.check(9, needed=["train"])
    with pytest.raises(UsageError, match="no same-patient pair: no patient of the validation split"):
        table.check(1, pairs=True)
    with pytest.raises(UsageError, match="there is no split 'val'"):
        table.split("val")
    with pytest.raises(UsageError, match="there is no finished training table"):
        open_table(str(tmp_path / "nowhere"), StorageConfig())
    parts = tuple(part for part in table.facts.parts if part.split != "test")
    with pytest.raises(UsageError, match="the test split of the training table has no image"):
        replace(table, facts=replace(table.facts, parts=parts)).split("test")


def test_a_part_cut_short_is_noticed_when_the_split_is_opened(table: TrainingTable) -> None:
    file = Path(table.store.root) / table.facts.parts[0].path
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StorageFault, match="missing or damaged"):
        table.split("train")
    assert len(table.split("test")) == 3


def test_a_table_in_object_storage_is_mapped_from_its_cache(tmp_path: Path) -> None:
    uri = f"memory://{tmp_path.name}"
    write(Store(uri))
    with pytest.raises(UsageError, match="set a cache"):
        open_table(uri, StorageConfig())
    table = open_table(uri, StorageConfig(), tmp_path / "cache")
    assert np.array_equal(table.split("train").images([6, 1]), PIXELS[[6, 1]])
    cached = {file.name for file in (tmp_path / "cache").iterdir()}
    assert cached == {f"{part.content}.parquet" for part in table.facts.parts[:2]}
    Store(uri).delete(table.facts.parts[0].path)
    assert len(table.split("train")) == 8  # not fetched again
