"""Withdrawal: nothing of the patient is left in any snapshot, all others stay byte for byte, whenever it is killed."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prichexy.deid import Pseudonyms
from prichexy.errors import PrichexyError, StorageFault, UsageError
from prichexy.lake import layout
from prichexy.lake.commit import commit_shard, read_commits
from prichexy.lake.job import claim, current_snapshot, read_job
from prichexy.lake.lineage import lineage
from prichexy.lake.snapshots import finish, quarantined_rows, read_manifest, shards_of
from prichexy.lake.status import status
from prichexy.lake.storage import Store
from prichexy.lake.verify import verify
from prichexy.lake.withdrawal import Named, is_withdrawn, withdraw, withdrawn_marks
from tests.lake.test_commit import job, rows

KEYS = Pseudonyms.from_secret(bytes(range(32)))


CARD = ("README.md", "SHA256SUMS", "index.html", "splits.parquet")
"""What was written of the snapshots; the page shows every image's id, as `publish --show` does."""


def patient(source: int) -> str:
    """Three radiographs a patient."""
    return KEYS.patient_id("", str(source // 3))


def image(source: int) -> str:
    return str(rows(source, source + 1)["image_id"][0])


def of(*sources: int) -> Named:
    return Named(patients=frozenset(map(patient, sources)))


def as_rows(sources: list[int], bad: tuple[int, ...]) -> pa.Table:
    table = pa.concat_tables([rows(source, source + 1, bad) for source in sources])
    table = table.set_column(
        table.column_names.index("patient_id"), "patient_id", pa.array([patient(source) for source in sources])
    )
    return table.set_column(table.column_names.index("row_id"), "row_id", pa.array(range(len(sources)), pa.int64()))


def snapshot(
    store: Store, number: int, sources: list[int], replaced: tuple[int, ...] = (), bad: tuple[int, ...] = ()
) -> None:
    the_job = replace(job(len(sources), 4), snapshot=number, catalog=f"catalog {number}", key_id=KEYS.key_id)
    claim(store, the_job)
    table = as_rows(sources, bad)
    for shard in range(the_job.shards):
        start, stop = the_job.span(shard)
        commit_shard(store, the_job, shard, table.slice(start, stop - start))
    finish(store, the_job, [image(source) for source in replaced])


def grown(place: Path | str) -> Store:
    """Snapshot 1: sources 0 to 11 in three shards, 6 in quarantine; 2: 12, 13, and 1 and 9 anew; 3: 14, 15, 9 anew."""
    store = Store(str(place))
    snapshot(store, 1, list(range(12)), bad=(6,))
    snapshot(store, 2, [12, 1, 13, 9], replaced=(1, 9))
    snapshot(store, 3, [14, 15, 9], replaced=(9,))
    for name in ("README.md", "SHA256SUMS", "splits.parquet"):
        store.write(name, b"figures and hashes")
    shown = "".join(f"<code>{image(source)}</code> of {patient(source)}" for source in range(16))
    store.write("index.html", f"<html>{shown}</html>".encode())
    return store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return grown(tmp_path / "out")


def files(store: Store) -> dict[str, bytes]:
    return {item.path: store.read(item.path) for item in store.list()}


def published(store: Store, number: int | None = None) -> dict[str, dict[str, Any]]:
    """Every row of a snapshot by its image, as it can be read."""
    manifest = read_manifest(store, number)
    assert manifest is not None
    paths = [commit.data.path for commit in shards_of(manifest) if commit.data]
    found = [row for path in paths for row in pq.read_table(io.BytesIO(store.read(path))).to_pylist()]
    assert len({row["image_id"] for row in found}) == len(found)
    return {row["image_id"]: row for row in found}


def without(found: dict[str, dict[str, Any]], *sources: int) -> dict[str, dict[str, Any]]:
    return {image_id: row for image_id, row in found.items() if row["patient_id"] not in map(patient, sources)}


def test_no_snapshot_holds_the_patient_and_all_other_rows_are_as_they_were(store: Store) -> None:
    before = {number: published(store, number) for number in (1, 2, 3)}
    done = withdraw(store, KEYS, of(0))
    assert (done.outcome, done.snapshot, done.images) == ("withdrawn", 4, 3)
    assert done.image_ids == tuple(sorted(image(source) for source in (0, 1, 2)))
    for number in (1, 2, 3):
        assert len(before[number]) > len(without(before[number], 0)) > 0
        assert published(store, number) == without(before[number], 0)
    assert published(store, 4) == published(store) == without(before[3], 0)
    for number in (1, 2, 3, 4):
        assert verify(store, snapshot=number).problems == []
    needles = [patient(0).encode(), *(image(source).encode() for source in (0, 1, 2))]
    assert [path for path, data in files(store).items() if any(needle in data for needle in needles)] == []
    # Parquet compresses: look into the columns, too.
    shards = [pq.read_table(io.BytesIO(data)) for path, data in files(store).items() if path.endswith(".parquet")]
    values = {
        value for table in shards for name in table.column_names if "_id" in name for value in table[name].to_pylist()
    }
    assert not values & {patient(0), *done.image_ids}
    assert patient(3) in values


def test_files_without_the_patient_are_not_touched(store: Store) -> None:
    before = files(store)
    done = withdraw(store, KEYS, of(9))
    after = files(store)
    gone = sorted(before.keys() - after.keys())
    # 9, 10 and 11 stand in shard 1-2 (as it was, and without 9), 9 also in 2-0 (as it was) and 3-0.
    assert gone == sorted(
        [*CARD]
        + [layout.manifest_path(number) for number in (1, 2, 3)]
        + ["data/part-0001-000002-of-000003.parquet", "data/part-0002-from-0001-000002.parquet"]
        + ["data/part-0002-000000-of-000001.parquet", "data/part-0003-000000-of-000001.parquet"]
    )
    assert (done.shards, done.files_removed, done.card_files) == (4, 11, CARD)
    same = {path for path in before if path in after and before[path] == after[path]}
    changed = before.keys() - same - set(gone)
    assert changed == {"_SUCCESS", *(layout.commit_path(*shard) for shard in ((1, 2), (2, 0), (3, 0)))}
    assert {path for path in after if path.startswith("data/")} - same == {
        "data/part-0004-from-0001-000002-of-0001.parquet",
        "data/part-0004-from-0001-000002.parquet",
        "data/part-0004-from-0002-000000-of-0002.parquet",
        "data/part-0004-from-0003-000000.parquet",
    }


def test_counts_add_up_and_say_what_was_withdrawn(store: Store) -> None:
    withdraw(store, KEYS, of(9))
    newest, first = read_manifest(store), read_manifest(store, 1)
    assert newest is not None
    assert first is not None
    counts = newest["counts"]
    assert (counts["rows"], counts["quarantined"], counts["replaced"], counts["withdrawn"]) == (19, 1, 3, 3)
    assert counts["published"] == 12
    assert (first["counts"]["published"], first["counts"]["withdrawn"], first["counts"]["replaced"]) == (8, 3, 0)
    record = read_commits(store, 1, [2])[0]
    assert (record.withdrawn, record.data.path if record.data else "") == (
        3,
        "data/part-0004-from-0001-000002-of-0001.parquet",
    )


def test_a_shard_of_which_all_is_withdrawn_has_no_file_left(store: Store) -> None:
    withdraw(store, KEYS, of(12, 1, 9))
    assert not [path for path in files(store) if path.startswith("data/part-0004-from-0002")]
    assert [verify(store, snapshot=number).problems for number in (1, 2, 3, 4)] == [[]] * 4


def test_an_image_that_changed_its_patient_goes_only_as_the_patients_own(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"))
    snapshot(store, 1, [0, 3, 6])
    the_job = replace(job(1, 4), snapshot=2, catalog="next", key_id=KEYS.key_id)
    claim(store, the_job)
    table = as_rows([0], ())
    other = table.set_column(table.column_names.index("patient_id"), "patient_id", pa.array([patient(3)]))
    commit_shard(store, the_job, 0, other)
    finish(store, the_job, [image(0)])
    withdraw(store, KEYS, of(0))
    assert published(store).keys() == {image(0), image(3), image(6)}
    assert published(store, 1).keys() == {image(3), image(6)}
    assert verify(store).problems == []


def test_single_images_can_go(store: Store) -> None:
    done = withdraw(store, KEYS, Named(images=frozenset([image(4), image(9)])))
    assert (done.images, done.image_ids) == (2, tuple(sorted([image(4), image(9)])))
    assert not published(store).keys() & {image(4), image(9)}
    assert image(5) in published(store)
    marks = withdrawn_marks(store)
    assert is_withdrawn(KEYS, marks, image(4), patient(4))
    assert not is_withdrawn(KEYS, marks, image(5), patient(5))


def test_marks_tell_the_holder_of_the_secret_only(store: Store) -> None:
    assert withdrawn_marks(store) == frozenset()
    withdraw(store, KEYS, of(0))
    withdraw(store, KEYS, of(3))
    marks = withdrawn_marks(store)
    assert len(marks) == 2
    assert is_withdrawn(KEYS, marks, "f" * 32, patient(2))
    assert not is_withdrawn(KEYS, marks, "f" * 32, patient(7))
    assert not is_withdrawn(KEYS, marks, "f" * 32, None)
    stranger = Pseudonyms.from_secret(b"o" * 32)
    assert not is_withdrawn(stranger, marks, image(0), patient(0))
    snapshot(store, 6, [16])
    assert withdrawn_marks(store) == marks, "the next job's snapshot keeps them"


def test_a_second_withdrawal_of_the_same_changes_nothing(store: Store) -> None:
    withdraw(store, KEYS, of(0))
    before = files(store)
    done = withdraw(store, KEYS, of(0))
    assert (done.outcome, done.snapshot, done.images, done.files_removed) == ("nothing to do", 4, 0, 0)
    assert files(store) == before


def test_a_stranger_is_refused_without_being_named(store: Store) -> None:
    before = files(store)
    with pytest.raises(PrichexyError, match=r"one of those that are named is not in") as caught:
        withdraw(store, KEYS, Named(frozenset([patient(0), "e" * 32])))
    assert "e" * 32 not in str(caught.value)
    assert caught.value.exit_code == 1
    assert files(store) == before


def test_a_dry_run_counts_and_writes_nothing(store: Store) -> None:
    before = files(store)
    done = withdraw(store, KEYS, of(9), dry_run=True)
    assert (done.outcome, done.images, done.shards, done.snapshot) == ("would be withdrawn", 3, 4, 3)
    assert files(store) == before


def test_another_secret_is_refused(store: Store) -> None:
    with pytest.raises(UsageError, match="written with another project secret"):
        withdraw(store, Pseudonyms.from_secret(b"o" * 32), of(0))


def test_jobs_go_on_behind_a_withdrawal(store: Store) -> None:
    withdraw(store, KEYS, of(0))
    there = read_job(store)
    assert there is not None
    assert there.snapshot == 3
    claim(store, there)  # the same command again: nothing to do, no refusal
    now = status(store)
    assert (now.state, now.snapshot, now.published) == ("finished", 3, 3)
    snapshot(store, 5, [16, 12], replaced=(12,), bad=(16,))
    assert [verify(store, snapshot=number).problems for number in range(1, 6)] == [[]] * 5
    assert [row["row_id"] for row in quarantined_rows(store)] == [0]
    withdraw(store, KEYS, of(12))
    assert [verify(store, snapshot=number).problems for number in range(1, 7)] == [[]] * 6
    assert [made.by for made in lineage(store)] == ["job", "job", "job", "withdrawal", "job", "withdrawal"]
    assert {made.model for made in lineage(store) if made.by == "job"} == {"models:/m/1"}
    assert {made.key_id for made in lineage(store)} == {KEYS.key_id}
    assert [made.images for made in lineage(store)] == [7, 0, 2, 0, 0, 0]


def test_quarantine_stays_that_of_the_newest_job(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"))
    snapshot(store, 1, list(range(8)), bad=(6,))
    withdraw(store, KEYS, of(0))
    assert [row["row_id"] for row in quarantined_rows(store)] == [6]


def test_an_unfinished_snapshot_is_finished_first_or_given_up(store: Store) -> None:
    the_job = replace(job(8, 4), snapshot=4, catalog="next", key_id=KEYS.key_id)
    claim(store, the_job)
    commit_shard(store, the_job, 0, as_rows([20, 21, 22, 23], ()))
    before = files(store)
    with pytest.raises(UsageError, match=r"snapshot 4 in .* is not finished: .* or give it up"):
        withdraw(store, KEYS, of(0))
    assert files(store) == before
    done = withdraw(store, KEYS, of(0), discard_unfinished=True)
    assert (done.outcome, done.snapshot) == ("withdrawn", 4)
    assert verify(store).problems == []
    there = read_job(store)
    assert there is not None
    assert there.snapshot == 3
    assert not [path for path in files(store) if path.startswith("data/part-0004-00000")]


def test_nothing_is_withdrawn_before_a_snapshot_is_finished(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"))
    claim(store, replace(job(8, 4), key_id=KEYS.key_id))
    with pytest.raises(PrichexyError, match="has no finished snapshot"):
        withdraw(store, KEYS, of(0))


def test_a_plan_that_was_tampered_with_removes_nothing_else(store: Store, tmp_path: Path) -> None:
    outside, inside = tmp_path / "data" / "part-0001-keep.txt", "notes.txt"
    outside.parent.mkdir()
    outside.write_text("kept")
    store.write(inside, b"kept")
    removes = ["../data/part-0001-keep.txt", "data/part-0001-/../../../data/part-0001-keep.txt", inside, "_SUCCESS"]
    store.write(layout.withdrawal_path(3), json.dumps({"removes": removes}).encode())
    withdraw(store, KEYS, of(0))
    assert outside.read_text() == "kept"
    assert store.read(inside) == b"kept"
    assert current_snapshot(store) == 4


class Killed(BaseException):
    """Not an error: nothing within the work may catch it."""


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many changes of the destination may still happen; what comes then, does not."""
    left = [10_000]
    write, delete = Store.write, Store.delete

    def count(path: str) -> None:
        if path.startswith(("_lease/", ".tmp-")):
            return
        if left[0] == 0:
            raise Killed
        left[0] -= 1

    def counted_write(self: Store, path: str, data: bytes) -> None:
        count(path)
        write(self, path, data)

    def counted_delete(self: Store, path: str) -> None:
        count(path)
        delete(self, path)

    monkeypatch.setattr("prichexy.lake.storage.os.fsync", lambda descriptor: None)  # no power cut is played here
    monkeypatch.setattr(Store, "write", counted_write)
    monkeypatch.setattr(Store, "delete", counted_delete)
    return left


def test_killed_at_any_moment_it_goes_on_and_readers_never_see_a_half(tmp_path: Path, kill: list[int]) -> None:
    fresh = grown(tmp_path / "fresh")
    before, whole = published(fresh), Store(str(tmp_path / "whole"))
    shutil.copytree(fresh.root, whole.root)
    kill[0] = 10_000
    withdraw(whole, KEYS, of(9))
    changes, expected = 10_000 - kill[0], files(whole)
    timed = {path for path in expected if "_MANIFEST" in path or path == "_SUCCESS"}
    assert changes > 20
    switched = 0
    for most in range(changes):
        store = Store(str(tmp_path / f"killed-{most}"))
        shutil.copytree(fresh.root, store.root)
        kill[0] = most
        with pytest.raises(Killed):
            withdraw(store, KEYS, of(9))
        kill[0] = 10_000
        assert published(store) in (before, without(before, 9))
        if current_snapshot(store) == 4:
            switched += 1
            assert verify(store).problems == [
                "a withdrawal was cut off before it had removed all: run `prichexy withdraw` again"
            ]
        else:
            assert verify(store).problems == []
            assert published(store) == before
        if most:
            with pytest.raises(UsageError, match=r"a withdrawal from .* was cut off"):
                claim(store, replace(job(1, 4), snapshot=current_snapshot(store) + 1, key_id=KEYS.key_id))
        withdraw(store, KEYS, of(9))
        after = files(store)
        assert after.keys() == expected.keys()
        assert [path for path in after.keys() - timed if after[path] != expected[path]] == []
        assert [verify(store, snapshot=number).problems for number in (1, 4)] == [[], []]
    assert 10 < switched < changes


def test_what_another_withdrawal_left_is_undone_or_ended_first(store: Store, kill: list[int]) -> None:
    kill[0] = 3
    with pytest.raises(Killed):
        withdraw(store, KEYS, of(9))
    kill[0] = 10_000
    withdraw(store, KEYS, of(0))
    assert verify(store).problems == []
    assert image(10) in published(store), "that one never happened"


def test_an_altered_manifest_stops_it(store: Store) -> None:
    path = Path(store.root, layout.manifest_path(2))
    path.write_bytes(path.read_bytes().replace(b'"published"', b'"Published"'))
    with pytest.raises(StorageFault, match="missing or altered"):
        withdraw(store, KEYS, of(0))
