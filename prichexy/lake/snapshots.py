"""Snapshots of a destination: what readers see after each finished job.

A snapshot's manifest names every shard that is live in it: those of its own job, and those of earlier ones. A shard of
which rows were replaced (their source files changed) is written again without them, under a new name, so that each
image is in a snapshot once and earlier snapshots stay as they are. `_SUCCESS` is the one switch: it names the snapshot
that counts and its manifest's hash, and is replaced whole.
"""

import io
import json
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prichexy.errors import StorageFault
from prichexy.lake import layout
from prichexy.lake.commit import Commit, FileFacts, added, committed_shards, put, read_commits
from prichexy.lake.dicom_files import digest_of_all
from prichexy.lake.job import Job, current_snapshot
from prichexy.lake.shards import digest, published_bytes
from prichexy.lake.storage import Store


def finish(store: Store, job: Job, replaced: Collection[str] = ()) -> dict[str, Any]:
    """Write the snapshot's manifest and `_SUCCESS`, after proving that the commits cover the catalog exactly once.

    Args:
        store: the destination.
        job: all of whose shards are committed.
        replaced: ids of the job's images that earlier snapshots may hold, made from what the source file was before.

    Returns:
        The manifest.

    Raises:
        StorageFault: a commit record is missing or does not fit; nothing is declared finished.
    """
    commits = read_commits(store, job.snapshot, committed_shards(store, job.snapshot))
    if [(commit.row_start, commit.row_stop) for commit in commits] != [job.span(shard) for shard in range(job.shards)]:
        raise StorageFault(f"{store.uri} lost or gained commit records while the job ran: run the same command again")
    for commit in commits:
        if commit.published + commit.quarantined != commit.row_stop - commit.row_start:
            raise StorageFault(f"commit record {commit.name} in {store.uri} does not add up: run `prichexy verify`")
    before = read_manifest(store, job.snapshot - 1) if job.snapshot > 1 else None
    if before is None and job.snapshot > 1:
        raise StorageFault(f"snapshot {job.snapshot - 1} in {store.uri} is missing or altered: run `prichexy verify`")
    jobs, earlier = [*jobs_of(before), job] if before else [job], list[dict[str, Any]]()
    if before is not None:
        commits = [*_without(store, job, before, frozenset(replaced)), *commits]
        past = store.read(layout.manifest_path(job.snapshot - 1))
        earlier = [*before["earlier"], {"snapshot": job.snapshot - 1, "sha256": digest(past)}]
    manifest = {
        "snapshot": job.snapshot,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "earlier": earlier,
        "jobs": [asdict(each) for each in jobs],
        "counts": _counts(commits),
        "quarantined": added(commit.reasons for commit in commits),
        "shards": [asdict(commit) for commit in commits],
    }
    store.remove_temporaries()
    text = (json.dumps(manifest, indent=2) + "\n").encode()
    store.write(layout.manifest_path(job.snapshot), text)
    switch = {"snapshot": job.snapshot, "manifest": layout.manifest_path(job.snapshot), "sha256": digest(text)}
    store.write(layout.SUCCESS, (json.dumps(switch) + "\n").encode())
    return manifest


def read_manifest(store: Store, snapshot: int | None = None) -> dict[str, Any] | None:
    """The manifest of a finished snapshot, of the current one by default.

    None where the snapshot is not finished, or a hash on the way to it from `_SUCCESS` is not that of what is there.
    """
    try:
        switch = json.loads(store.read(layout.SUCCESS))
        manifest = _proven(store, switch["snapshot"], switch["sha256"])
        if manifest is None or snapshot in (None, manifest["snapshot"]):
            return manifest
        hashes = {entry["snapshot"]: entry["sha256"] for entry in manifest["earlier"]}
        return _proven(store, snapshot, hashes[snapshot]) if snapshot in hashes else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def jobs_of(manifest: dict[str, Any]) -> list[Job]:
    """The jobs that made a snapshot's shards, oldest first."""
    return [Job(**facts) for facts in manifest["jobs"]]


def shards_of(manifest: dict[str, Any]) -> list[Commit]:
    """A snapshot's live shards, in the order of jobs and rows."""
    return [Commit.from_facts(facts) for facts in manifest["shards"]]


def quarantined_rows(store: Store) -> list[dict[str, Any]]:
    """All rows of the newest job's committed quarantine files, by row_id of its catalog.

    Raises:
        StorageFault: a file can't be read.
    """
    store.check_readable()
    snapshot = current_snapshot(store)
    rows: list[dict[str, Any]] = []
    for number in (snapshot + 1, snapshot):
        commits = read_commits(store, number, committed_shards(store, number))
        for commit in commits:
            if commit.quarantine:
                rows += pq.read_table(io.BytesIO(store.read(commit.quarantine.path))).to_pylist()
        if commits:
            break
    return rows


def rewritten(store: Store, job: Job, commit: Commit, gone: frozenset[str], snapshot: int) -> Commit:
    """A shard without some of its images, as a later snapshot has it.

    Args:
        store: the destination.
        job: that made the shard.
        commit: its record so far.
        gone: ids of images that go; those of other shards are ignored.
        snapshot: which snapshot has it so.

    Returns:
        The record with the new file's facts, or the same record where the shard holds none of them.

    Raises:
        StorageFault: the destination failed.
    """
    if commit.data is None:
        return commit
    goes = pc.is_in(_image_ids(store, commit.data.path), value_set=pa.array(sorted(gone), pa.string()))
    count = pc.sum(goes).as_py() or 0
    if not count:
        return commit
    table = pq.read_table(io.BytesIO(store.read(commit.data.path)))
    rest = table.filter(pc.invert(goes))
    data = None
    if len(rest):
        path = layout.rewritten_path(snapshot, commit.snapshot, commit.shard)
        data = put(store, path, len(rest), published_bytes(rest, job.schema, job.audit_id))
    dicom = _dicom_of(store, commit.dicom, rest) if commit.dicom else None
    return replace(commit, data=data, dicom=dicom, replaced=commit.replaced + count)


def _without(store: Store, job: Job, before: dict[str, Any], replaced: frozenset[str]) -> list[Commit]:
    """The live shards of the snapshot before, without rows of images that the job has anew."""
    commits, jobs = shards_of(before), {each.snapshot: each for each in jobs_of(before)}
    if not replaced:
        return commits
    with ThreadPoolExecutor(4) as pool:
        return list(
            pool.map(lambda commit: rewritten(store, jobs[commit.snapshot], commit, replaced, job.snapshot), commits)
        )


def _image_ids(store: Store, path: str) -> pa.ChunkedArray:
    """One column of a shard; its images are not read."""
    file_system, root = store.arrow()

    def read() -> pa.ChunkedArray:
        with pq.ParquetFile(f"{root}/{path}", filesystem=file_system) as file:
            return file.read(["image_id"])["image_id"]

    return store.retried("read from", read)


def _dicom_of(store: Store, facts: FileFacts, rows: pa.Table) -> FileFacts | None:
    paths = [path for path in rows["dicom"].to_pylist() if path is not None]
    if not paths:
        return None
    with ThreadPoolExecutor(store.options.connections) as pool:
        files = list(pool.map(lambda path: (path, store.read(path)), paths))
    of_all = digest_of_all((path, digest(data)) for path, data in files)
    return FileFacts(facts.path, len(files), sum(len(data) for _, data in files), of_all)


def _proven(store: Store, snapshot: int, sha256: str) -> dict[str, Any] | None:
    text = store.read(layout.manifest_path(snapshot))
    if digest(text) != sha256:
        return None
    manifest: dict[str, Any] = json.loads(text)
    return manifest


def _counts(commits: list[Commit]) -> dict[str, int]:
    return {
        "rows": sum(commit.row_stop - commit.row_start for commit in commits),
        "published": sum(commit.published for commit in commits),
        "quarantined": sum(commit.quarantined for commit in commits),
        "replaced": sum(commit.replaced for commit in commits),
        "bytes": sum(commit.data.bytes for commit in commits if commit.data),
        "text_covered": sum(commit.covered for commit in commits),
        "dicom_files": sum(commit.dicom.rows for commit in commits if commit.dicom),
    }
