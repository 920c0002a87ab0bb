"""Shards and commits on a local store; `tests/e2e` repeats the essentials on S3."""

import io
import json
import zlib
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from prichexy.errors import PrichexyError, StorageFault, UsageError
from prichexy.lake.commit import commit_shard, committed_shards
from prichexy.lake.job import Job, claim
from prichexy.lake.shards import PUBLISHED
from prichexy.lake.snapshots import finish, read_manifest
from prichexy.lake.storage import Store
from prichexy.lake.verify import verify

MODEL = {"name": "m", "version": "1", "fingerprint": "f", "settings": {"kind": "identity"}}


def job(rows: int = 10, rows_per_shard: int = 4) -> Job:
    return Job(rows, rows_per_shard, "native", 4, {}, "source", "catalog", "key", MODEL, audited=False)


def png(value: int, size: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def rows(start: int, stop: int, bad: tuple[int, ...] = ()) -> pa.Table:
    made: list[dict[str, Any]] = []
    for row in range(start, stop):
        image_id = f"{zlib.crc32(str(row).encode()):032x}"
        if row in bad:
            fault = {"stage": "decode", "reason": "Truncated", "message": "cut short"}
            made.append({"row_id": row, "image_id": image_id, **fault})
        else:
            image = {"bytes": png(row), "path": f"{image_id}.png"}
            made.append(
                {"row_id": row, "image_id": image_id, "image": image, "width": 64, "height": 64, "bit_depth": 8}
            )
        made[-1]["model_version"] = "m/1"
    facts = [pa.field("row_id", pa.int64())] + [pa.field(name, pa.string()) for name in ("stage", "reason", "message")]
    facts.append(pa.field("covered", pa.bool_()))
    schema = pa.schema([field.with_nullable(True) for field in PUBLISHED] + facts)
    return pa.Table.from_pylist(made, schema)


def publish(store: Store, the_job: Job, bad: tuple[int, ...] = ()) -> None:
    claim(store, the_job)
    for shard in range(the_job.shards):
        commit_shard(store, the_job, shard, rows(*the_job.span(shard), bad))
    finish(store, the_job)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"))


def test_published_shards_are_whole_and_sorted_by_pseudonym(store: Store) -> None:
    publish(store, job(), bad=(1, 6))
    report = verify(store)
    assert report.problems == []
    assert (report.published, report.quarantined, report.rows, report.shards) == (8, 2, 10, 3)
    shards = sorted(Path(store.root).glob("data/*.parquet"))
    assert [path.name for path in shards] == [f"part-0001-00000{n}-of-000003.parquet" for n in range(3)]
    ids = pq.read_table(shards[0])["image_id"].to_pylist()
    assert ids == sorted(ids)
    counted = duckdb.sql(f"select count(*), count(distinct image_id) from '{store.root}/data/*.parquet'").fetchall()
    assert counted == [(8, 8)]


def test_a_quarantine_row_says_why_and_carries_nothing_else(store: Store) -> None:
    publish(store, job(), bad=(1, 6))
    table = pq.read_table(f"{store.root}/_quarantine/part-0001-000000.parquet")
    assert table.to_pylist() == [{"row_id": 1, "stage": "decode", "reason": "Truncated", "message": "cut short"}]
    manifest = read_manifest(store)
    assert manifest is not None
    assert manifest["quarantined"] == {"Truncated": 2}


def test_a_shard_made_twice_has_the_same_bytes(store: Store, tmp_path: Path) -> None:
    publish(store, job())
    again = Store(str(tmp_path / "again"))
    publish(again, job())
    commit_shard(again, job(), 1, rows(4, 8))
    for path in sorted(Path(store.root).glob("data/*")):
        assert path.read_bytes() == (Path(again.root) / "data" / path.name).read_bytes()
    assert verify(again).whole


def test_only_the_shards_own_rows_are_committed(store: Store) -> None:
    claim(store, job())
    for wrong in (rows(0, 3), rows(1, 5), pa.concat_tables([rows(0, 4), rows(3, 4)])):
        with pytest.raises(PrichexyError, match="did not get exactly its rows"):
            commit_shard(store, job(), 0, wrong)
    assert committed_shards(store) == set()
    assert [item.path for item in store.list()] == ["_snapshots/0001/_job.json"]


def test_unfinished_work_is_not_declared_finished(store: Store) -> None:
    claim(store, job())
    commit_shard(store, job(), 0, rows(0, 4))
    with pytest.raises(StorageFault, match="lost or gained commit records"):
        finish(store, job())
    assert read_manifest(store) is None
    with pytest.raises(PrichexyError, match="not finished"):
        verify(store)


def test_another_job_is_refused_and_the_difference_named(store: Store) -> None:
    claim(store, job())
    claim(store, job())
    with pytest.raises(UsageError, match=r"another job's shards \(differing: rows_per_shard\)"):
        claim(store, job(rows_per_shard=5))


def test_a_folder_with_foreign_files_is_refused(store: Store) -> None:
    store.write("thesis.txt", b"mine")
    with pytest.raises(UsageError, match="holds files that no job of prichexy wrote"):
        claim(store, job())


def alter(path: Path, change: Any) -> None:
    path.write_bytes(change(path.read_bytes()))


def rewrite(path: Path, change: Any) -> None:
    """A shard with other rows whose hash the manifest confirms: only its content can give it away."""
    table = pq.read_table(path)
    pq.write_table(change(table), path)
    root = path.parent.parent
    manifest = json.loads((root / "_snapshots/0001/_MANIFEST.json").read_text())
    from prichexy.lake.shards import digest

    for shard in manifest["shards"]:
        if shard["data"]["path"].endswith(path.name):
            shard["data"] |= {"bytes": path.stat().st_size, "sha256": digest(path.read_bytes())}
    text = json.dumps(manifest).encode()
    (root / "_snapshots/0001/_MANIFEST.json").write_bytes(text)
    switch = {"snapshot": 1, "manifest": "_snapshots/0001/_MANIFEST.json", "sha256": digest(text)}
    (root / "_SUCCESS").write_text(json.dumps(switch))


def with_image(table: pa.Table, change: Any) -> pa.Table:
    listed = table.to_pylist()
    listed[0]["image"]["bytes"] = change(listed[0]["image"]["bytes"])
    return pa.Table.from_pylist(listed, table.schema)


def with_text_chunk(data: bytes) -> bytes:
    body = b"tEXtAuthor\0Jane Roe"
    return data[:33] + (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big") + data[33:]


def test_verify_notices_every_kind_of_damage(store: Store) -> None:
    first = Path("data/part-0001-000000-of-000003.parquet")
    cases: list[tuple[str, Any]] = [
        ("was altered", lambda root: alter(root / first, lambda data: data[:99] + b"x" + data[100:])),
        ("is missing", lambda root: (root / first).unlink()),
        ("that no manifest names", lambda root: (root / "data/extra.parquet").write_bytes(b"x")),
        ("carry more than pixels", lambda root: rewrite(root / first, lambda t: with_image(t, with_text_chunk))),
        (
            "images are damaged",
            lambda root: rewrite(root / first, lambda t: with_image(t, lambda b: b[:-30] + b[-12:])),
        ),
        ("appear more than once", lambda root: rewrite(root / first, lambda t: pa.concat_tables([t[:3], t[:1]]))),
        ("are not its share", lambda root: rewrite(root / first, lambda t: t[:2])),
        (
            "are no pseudonyms",
            lambda root: rewrite(
                root / first, lambda t: t.set_column(1, PUBLISHED.field("patient_id"), pa.array(["MRN 4711"] * len(t)))
            ),
        ),
        (
            "not published",
            lambda root: rewrite(root / first, lambda t: t.append_column("path", pa.array(["/x"] * len(t)))),
        ),
    ]
    for number, (sentence, damage) in enumerate(cases):
        damaged = Store(f"{store.root}-{number}")
        publish(damaged, job())
        damage(Path(damaged.root))
        report = verify(damaged)
        assert any(sentence in problem for problem in report.problems), (sentence, report.problems)


def test_verify_takes_nothing_on_trust(store: Store) -> None:
    first = Path("data/part-0001-000000-of-000003.parquet")
    nothing = pa.array([None] * 4, PUBLISHED.field("image").type)
    cases = [
        ("images are damaged", lambda t: t.set_column(2, PUBLISHED.field("image"), nothing)),
        ("images are damaged", lambda t: with_image(t, lambda data: data[:20])),
        ("values of view", lambda t: t.set_column(6, PUBLISHED.field("view"), pa.array(["Roe^Jane"] * 4))),
        ("none of the 14", lambda t: t.set_column(8, PUBLISHED.field("findings"), pa.array([["Jane"]] * 4))),
        ("columns or types", lambda t: t.replace_schema_metadata({**t.schema.metadata, "comment": "Roe^Jane"})),
    ]
    for number, (sentence, change) in enumerate(cases):
        damaged = Store(f"{store.root}-{number}")
        publish(damaged, job())
        rewrite(Path(damaged.root) / first, change)
        assert any(sentence in problem for problem in verify(damaged).problems), sentence


def test_a_killed_write_leaves_nothing_in_a_finished_tree(store: Store) -> None:
    claim(store, job())
    (Path(store.root) / "data").mkdir()
    (Path(store.root) / "data" / ".tmp-0123").write_bytes(b"half a shard")
    publish(store, job())
    assert not list(Path(store.root).rglob(".tmp-*"))


def test_a_shard_is_written_a_row_group_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # An Arrow binary array ends at 2 GiB: a shard of large images must never be joined into one.
    from prichexy.lake import shards

    monkeypatch.setattr(shards, "ROWS_PER_GROUP", 2)
    many = pa.concat_tables([rows(start, start + 1) for start in range(7)])
    table = pq.read_table(io.BytesIO(shards.published_bytes(many)))
    assert table["image_id"].to_pylist() == sorted(many["image_id"].to_pylist())
    assert pq.ParquetFile(io.BytesIO(shards.published_bytes(many))).num_row_groups == 4


def test_an_altered_manifest_is_not_believed(store: Store) -> None:
    publish(store, job())
    alter(
        Path(store.root) / "_snapshots/0001/_MANIFEST.json",
        lambda text: text.replace(b'"published": 10', b'"published": 11'),
    )
    with pytest.raises(PrichexyError, match="missing or altered"):
        verify(store)


def test_huggingface_reads_the_shards_as_images(store: Store, tmp_path: Path) -> None:
    import datasets

    publish(store, job())
    loaded = datasets.load_dataset(
        "parquet", data_files=f"{store.root}/data/*.parquet", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.features["image"] == datasets.Image()
    row = next(row for row in loaded if row["image_id"] == f"{zlib.crc32(b'7'):032x}")
    assert np.asarray(row["image"]).tolist() == [[7] * 64] * 64
