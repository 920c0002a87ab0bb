"""Snapshots of a destination: what readers see after each finished job.

A snapshot's manifest names every shard that is live in it: those of its own job, and those of earlier ones. A shard of
which rows were replaced (their source files changed) is written again without them, under a new name, so that each
image is in a snapshot once and earlier snapshots stay as they are. `_SUCCESS` is the one switch: it names the snapshot
that counts and its manifest's hash, and is replaced whole. Only a withdrawal (`prichexy.lake.withdrawal`) changes
earlier snapshots.
"""

import io
import json
from collections.abc import Collection, Sequence
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
from prichexy.provenance import code_version


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
        held = commit.published + commit.quarantined + commit.withdrawn
        if held != commit.row_stop - commit.row_start:
            raise StorageFault(f"commit record {commit.name} in {store.uri} does not add up: run `prichexy verify`")
    before = read_manifest(store, job.snapshot - 1) if job.snapshot > 1 else None
    if (before is None and job.snapshot > 1) or current_snapshot(store) > job.snapshot:
        raise StorageFault(f"a manifest in {store.uri} is missing or altered: run `prichexy verify`")
    jobs, earlier = [*jobs_of(before), job] if before else [job], list[dict[str, Any]]()
    if before is not None:
        commits = [*_without(store, job, before, frozenset(replaced)), *commits]
        past = store.read(layout.manifest_path(job.snapshot - 1))
        earlier = [*before["earlier"], {"snapshot": job.snapshot - 1, "sha256": digest(past)}]
    facts = {
        "snapshot": job.snapshot,
        "earlier": earlier,
        "jobs": [asdict(each) for each in jobs],
        "withdrawn": withdrawn_in(before) if before else [],
    }
    store.remove_temporaries()
    return switched(store, with_shards(facts, commits))


def switched(store: Store, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write a new snapshot's manifest, then the `_SUCCESS` that names it; the manifest as it was written."""
    path = layout.manifest_path(manifest["snapshot"])
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = {**manifest, "finished": finished, "code": code_version()}
    text = manifest_bytes(manifest)
    store.write(path, text)
    switch = {"snapshot": manifest["snapshot"], "manifest": path, "sha256": digest(text)}
    store.write(layout.SUCCESS, (json.dumps(switch) + "\n").encode())
    return manifest


def manifest_bytes(manifest: dict[str, Any]) -> bytes:
    """A manifest's file."""
    return (json.dumps(manifest, indent=2) + "\n").encode()


def with_shards(manifest: dict[str, Any], commits: list[Commit]) -> dict[str, Any]:
    """A manifest of these live shards, with their counts."""
    return {
        **manifest,
        "counts": _counts(commits),
        "quarantined": added(commit.reasons for commit in commits),
        "shards": [asdict(commit) for commit in commits],
    }


def read_manifest(store: Store, snapshot: int | None = None) -> dict[str, Any] | None:
    """The manifest of a finished snapshot, of the current one by default.

    None where the snapshot is not finished, or a hash on the way to it from `_SUCCESS` is not that of what is there.
    """
    try:
        switch = json.loads(store.read(layout.SUCCESS))
        manifest = _proven(store, layout.manifest_path(switch["snapshot"]), switch["sha256"])
        if manifest is None or snapshot in (None, manifest["snapshot"]):
            return manifest
        entry = next((entry for entry in manifest["earlier"] if entry["snapshot"] == snapshot), None)
        return _proven(store, path_of(entry), entry["sha256"]) if entry else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def path_of(entry: dict[str, Any]) -> str:
    """Where the manifest of an earlier snapshot lies, of which a later manifest says this (in `earlier`)."""
    number, rewritten_in = int(entry["snapshot"]), entry.get("rewritten_in")
    if rewritten_in is None:
        return layout.manifest_path(number)
    return layout.earlier_manifest_path(int(rewritten_in), number)


def withdrawn_in(manifest: dict[str, Any]) -> list[str]:
    """Keyed marks of the patients and images that were withdrawn up to a snapshot."""
    return list(manifest.get("withdrawn", ()))


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
    rows: list[dict[str, Any]] = []
    for number in range(current_snapshot(store) + 1, 0, -1):
        commits = read_commits(store, number, committed_shards(store, number))
        for commit in commits:
            if commit.quarantine:
                rows += pq.read_table(io.BytesIO(store.read(commit.quarantine.path))).to_pylist()
        if commits:
            break
    return rows


def rewritten(
    store: Store, job: Job, commit: Commit, gone: frozenset[str], path: str, *, withdrawn: bool = False
) -> Commit:
    """A shard without some of its images, under another name.

    Args:
        store: the destination.
        job: that made the shard.
        commit: its record so far.
        gone: ids of images that go; those of other shards are ignored.
        path: of the new data file.
        withdrawn: whether these rows count as withdrawn, not as replaced.

    Returns:
        The record with the new file's facts, or the same record where the shard holds none of them.

    Raises:
        StorageFault: the destination failed.
    """
    if commit.data is None:
        return commit
    images = columns_of(store, commit.data.path, ["image_id"])["image_id"]
    goes = pc.is_in(images, value_set=pa.array(sorted(gone), pa.string()))
    count = pc.sum(goes).as_py() or 0
    if not count:
        return commit
    table = pq.read_table(io.BytesIO(store.read(commit.data.path)))
    rest = table.filter(pc.invert(goes))
    data = None
    if len(rest):
        data = put(store, path, len(rest), published_bytes(rest, job.schema, job.audit_id))
    dicom = _dicom_of(store, commit.dicom, rest) if commit.dicom else None
    if withdrawn:
        return replace(commit, data=data, dicom=dicom, withdrawn=commit.withdrawn + count)
    return replace(commit, data=data, dicom=dicom, replaced=commit.replaced + count)


def _without(store: Store, job: Job, before: dict[str, Any], replaced: frozenset[str]) -> list[Commit]:
    """The live shards of the snapshot before, without rows of images that the job has anew."""
    commits, jobs = shards_of(before), {each.snapshot: each for each in jobs_of(before)}
    if not replaced:
        return commits

    def again(commit: Commit) -> Commit:
        path = layout.rewritten_path(job.snapshot, commit.snapshot, commit.shard)
        return rewritten(store, jobs[commit.snapshot], commit, replaced, path)

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(again, commits))


def columns_of(store: Store, path: str, names: Sequence[str]) -> pa.Table:
    """Some columns of a shard, of those that it has; of the others, its images above all, no byte is asked for.

    Raises:
        StorageFault: the destination failed.
    """

    def read() -> pa.Table:
        with store.opened(path) as opened:
            file = pq.ParquetFile(opened, pre_buffer=True)
            return file.read([name for name in names if name in file.schema_arrow.names])

    return store.retried("read from", read)


def _dicom_of(store: Store, facts: FileFacts, rows: pa.Table) -> FileFacts | None:
    paths = [path for path in rows["dicom"].to_pylist() if path is not None]
    if not paths:
        return None
    with ThreadPoolExecutor(store.options.connections) as pool:
        files = list(pool.map(lambda path: (path, store.read(path)), paths))
    of_all = digest_of_all((path, digest(data)) for path, data in files)
    return FileFacts(facts.path, len(files), sum(len(data) for _, data in files), of_all)


def _proven(store: Store, path: str, sha256: str) -> dict[str, Any] | None:
    text = store.read(path)
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
        "withdrawn": sum(commit.withdrawn for commit in commits),
        "bytes": sum(commit.data.bytes for commit in commits if commit.data),
        "text_covered": sum(commit.covered for commit in commits),
        "dicom_files": sum(commit.dicom.rows for commit in commits if commit.dicom),
    }
