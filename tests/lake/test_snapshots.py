"""Snapshots: later jobs in the same destination, replaced images, what earlier readers still see."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prichexy.errors import PrichexyError, UsageError
from prichexy.lake.commit import commit_shard
from prichexy.lake.job import claim, current_snapshot, read_job
from prichexy.lake.snapshots import finish, quarantined_rows, read_manifest, shards_of
from prichexy.lake.status import status
from prichexy.lake.storage import Store
from prichexy.lake.verify import verify
from tests.lake.test_commit import job, publish, rows


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Snapshot 1: rows 0 to 9 in three shards, one quarantined."""
    store = Store(str(tmp_path / "out"))
    publish(store, job(), bad=(6,))
    return store


def as_rows(sources: list[int], bad: tuple[int, ...] = ()) -> pa.Table:
    """Rows of an increment: row_id counts from 0, the image is that of a source file."""
    table = pa.concat_tables([rows(source, source + 1, bad) for source in sources])
    return table.set_column(table.column_names.index("row_id"), "row_id", pa.array(range(len(sources)), pa.int64()))


def increment(store: Store, snapshot: int, sources: list[int], replaced: tuple[int, ...] = ()) -> None:
    the_job = replace(job(len(sources), 4), snapshot=snapshot, catalog=f"catalog {snapshot}")
    claim(store, the_job)
    table = as_rows(sources)
    for shard in range(the_job.shards):
        start, stop = the_job.span(shard)
        commit_shard(store, the_job, shard, table.slice(start, stop - start))
    finish(store, the_job, [row["image_id"] for row in as_rows(list(replaced)).to_pylist()] if replaced else ())


def sources_in(store: Store, snapshot: int | None = None) -> list[int]:
    """The grey levels of a snapshot's images, which are the numbers of their source files."""
    import io

    import numpy as np
    from PIL import Image

    manifest = read_manifest(store, snapshot)
    assert manifest is not None
    files = [f"{store.root}/{commit.data.path}" for commit in shards_of(manifest) if commit.data]
    images = [row["bytes"] for file in files for row in pq.read_table(file)["image"].to_pylist()]
    return sorted(int(np.asarray(Image.open(io.BytesIO(image)))[0, 0]) for image in images)


def test_an_increment_adds_to_what_was_there(store: Store) -> None:
    increment(store, 2, [10, 11, 12, 13, 14])
    report = verify(store)
    assert (report.problems, report.snapshot, report.rows, report.published) == ([], 2, 15, 14)
    assert sources_in(store) == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14]
    names = sorted(path.name for path in Path(store.root, "data").iterdir())
    assert names == [f"part-0001-00000{n}-of-000003.parquet" for n in range(3)] + [
        f"part-0002-00000{n}-of-000002.parquet" for n in range(2)
    ]


def test_replaced_images_are_in_each_snapshot_once_and_earlier_snapshots_stay_as_they_were(store: Store) -> None:
    before = {path: path.read_bytes() for path in Path(store.root, "data").iterdir()}
    increment(store, 2, [10, 1, 2], replaced=(1, 2))
    increment(store, 3, [11, 1], replaced=(1,))
    for snapshot, published in ((1, 9), (2, 10), (3, 11)):
        report = verify(store, snapshot=snapshot)
        assert (report.problems, report.published) == ([], published)
    assert sources_in(store, 1) == [0, 1, 2, 3, 4, 5, 7, 8, 9]
    assert sources_in(store, 2) == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10]
    assert sources_in(store, 3) == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11]
    assert {path: path.read_bytes() for path in before} == before
    third = read_manifest(store, 3)
    assert third is not None
    assert third["counts"]["replaced"] == 3
    assert [commit.data.path for commit in shards_of(third) if commit.data and commit.replaced] == [
        "data/part-0002-from-0001-000000.parquet",
        "data/part-0003-from-0002-000000.parquet",
    ]


def test_a_shard_of_which_everything_was_replaced_has_no_file_left(store: Store) -> None:
    increment(store, 2, [8, 9], replaced=(8, 9))
    assert verify(store).problems == []
    manifest = read_manifest(store)
    assert manifest is not None
    assert [commit.data is None for commit in shards_of(manifest)] == [False, False, True, False]


def test_readers_see_the_snapshot_before_until_the_next_is_whole(store: Store) -> None:
    the_job = replace(job(8, 4), snapshot=2, catalog="next")
    claim(store, the_job)
    commit_shard(store, the_job, 0, as_rows([10, 11, 12, 13]))
    assert current_snapshot(store) == 1
    report = verify(store)
    assert (report.problems, report.snapshot) == ([], 1)
    assert read_job(store) == the_job
    now = status(store)
    assert (now.state, now.snapshot, now.rows, now.done, now.to_do) == ("stopped", 2, 8, 4, 4)
    assert sources_in(store) == [0, 1, 2, 3, 4, 5, 7, 8, 9]


def test_files_that_no_snapshot_has_are_found_beside_one_that_is_being_made(store: Store) -> None:
    claim(store, replace(job(8, 4), snapshot=2, catalog="next"))
    store.write("data/part-0002-000000-of-000002.parquet", b"half of a snapshot")
    assert verify(store).problems == []
    store.write("data/part-0003-000000-of-000002.parquet", b"of no snapshot")
    store.write("data/part-0001-000007-of-000003.parquet", b"of no snapshot")
    assert verify(store).problems == ["2 files lie in the tree that no manifest names"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("key_id", "other"),
        ("resolution", "256"),
        ("encoding", "jpeg-xl"),
        ("columns", ["modality"]),
        ("source", "other"),
    ],
)
def test_a_snapshot_of_another_kind_is_refused(store: Store, name: str, value: object) -> None:
    other = replace(job(4, 4), snapshot=2, catalog="next", **{name: value})
    with pytest.raises(UsageError, match=rf"holds earlier snapshots of another kind \(differing: {name}\)"):
        claim(store, other)
    assert current_snapshot(store) == 1
    assert not Path(store.root, "_snapshots", "0002").exists()


def test_another_model_may_make_the_next_snapshot(store: Store) -> None:
    the_job = replace(job(1, 4), snapshot=2, catalog="next", model={**job().model, "version": "2"})
    claim(store, the_job)
    table = as_rows([10])
    version = table.column_names.index("model_version")
    commit_shard(store, the_job, 0, table.set_column(version, "model_version", pa.array(["m/2"])))
    finish(store, the_job)
    report = verify(store)
    assert (report.problems, report.model) == ([], "m/1, m/2")


def _alter(text: bytes) -> bytes:
    return text.replace(b'"published": 9', b'"published": 8')


@pytest.mark.parametrize("change", [_alter, lambda text: b"", lambda text: b"[]"])
def test_an_earlier_manifest_that_was_altered_is_not_believed(store: Store, change: Callable[[bytes], bytes]) -> None:
    increment(store, 2, [10])
    manifest = Path(store.root, "_snapshots/0001/_MANIFEST.json")
    manifest.write_bytes(change(manifest.read_bytes()))
    assert read_manifest(store, 1) is None
    with pytest.raises(PrichexyError, match=r"snapshot 1 in .* is not finished"):
        verify(store, snapshot=1)
    assert verify(store).problems == ["the manifest of snapshot 1 is missing or altered"]


def test_quarantine_is_that_of_the_newest_job(store: Store) -> None:
    assert [row["row_id"] for row in quarantined_rows(store)] == [6]
    the_job = replace(job(2, 4), snapshot=2, catalog="next")
    claim(store, the_job)
    commit_shard(store, the_job, 0, as_rows([10, 11], bad=(11,)))
    assert [row["row_id"] for row in quarantined_rows(store)] == [1]
    finish(store, the_job)
    assert [row["row_id"] for row in quarantined_rows(store)] == [1]


def test_success_names_the_manifest_and_its_hash(store: Store) -> None:
    switch = json.loads(Path(store.root, "_SUCCESS").read_text())
    assert (switch["snapshot"], switch["manifest"]) == (1, "_snapshots/0001/_MANIFEST.json")
    Path(store.root, "_SUCCESS").write_text(json.dumps({**switch, "sha256": "0" * 64}))
    assert read_manifest(store) is None
