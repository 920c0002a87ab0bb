"""A shard's files, and last the record with which it counts.

See the docstring of `prichexy.lake` for why each point at which a job can die is safe.
"""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from prichexy.errors import PrichexyError
from prichexy.lake import layout
from prichexy.lake.dicom_files import digest_of_all
from prichexy.lake.job import Job
from prichexy.lake.shards import digest, published_bytes, quarantine_bytes
from prichexy.lake.storage import Store


@dataclass(frozen=True)
class FileFacts:
    """Path below the destination, rows, bytes and SHA-256 of one file."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Commit:
    """A shard's commit record: its rows of the catalog and the files they went to (None: no such rows).

    Attributes:
        snapshot: whose job made the shard.
        shard: which of that job's shards.
        row_start: first row of that job's catalog.
        row_stop: row behind the last.
        data: the published rows.
        quarantine: the others.
        reasons: quarantined rows by reason.
        dicom: sums up all DICOM files of the shard's folder, with the hash of `digest_of_all`.
        covered: images in which burned-in text was covered, of those that were published at first.
        replaced: rows published at first that a later snapshot has anew, from a source file that changed.
        withdrawn: rows published at first that were removed since, as their patients asked.
    """

    snapshot: int
    shard: int
    row_start: int
    row_stop: int
    data: FileFacts | None
    quarantine: FileFacts | None
    reasons: dict[str, int] = field(default_factory=dict)
    dicom: FileFacts | None = None
    covered: int = 0
    replaced: int = 0
    withdrawn: int = 0

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Self:
        """A record from its JSON object."""
        files = {name: FileFacts(**facts[name]) if facts[name] else None for name in ("data", "quarantine", "dicom")}
        return cls(**{**facts, **files})

    @property
    def name(self) -> str:
        """The shard's name, among those of all snapshots."""
        return layout.shard_name(self.snapshot, self.shard)

    @property
    def published(self) -> int:
        """Rows in the data file."""
        return self.data.rows if self.data else 0

    @property
    def quarantined(self) -> int:
        """Rows in the quarantine file."""
        return self.quarantine.rows if self.quarantine else 0


def commit_shard(store: Store, job: Job, shard: int, rows: pa.Table) -> Commit:
    """Write a shard's files, then its commit record.

    Args:
        store: the destination.
        job: its job.
        shard: which shard.
        rows: exactly the shard's rows; those with a `reason` go to quarantine, the others are published. Beside the
            published columns: `covered`, whether text was covered, and with `also_dicom` size and SHA-256 of the DICOM
            files, which are in place.

    Raises:
        PrichexyError: `rows` are not the shard's rows; nothing was written.
        StorageFault: the destination failed; the shard is not committed.
    """
    start, stop = job.span(shard)
    if sorted(rows["row_id"].to_pylist()) != list(range(start, stop)):
        raise PrichexyError(f"shard {shard} did not get exactly its rows; nothing was committed")
    is_published = pc.is_null(rows["reason"])
    bad, good = rows.filter(pc.invert(is_published)), rows.filter(is_published)
    quarantine = data = None
    if len(bad):
        quarantine = put(store, layout.quarantine_path(job.snapshot, shard), len(bad), quarantine_bytes(bad))
    if len(good):
        path = layout.data_path(job.snapshot, shard, job.shards)
        data = put(store, path, len(good), published_bytes(good, job.schema, job.audit_id))
    reasons = {pair["values"]: pair["counts"] for pair in pc.value_counts(bad["reason"]).to_pylist()}
    commit = Commit(
        snapshot=job.snapshot,
        shard=shard,
        row_start=start,
        row_stop=stop,
        data=data,
        quarantine=quarantine,
        reasons=dict(sorted(reasons.items())),
        dicom=_dicom_facts(job, shard, good),
        covered=pc.sum(good["covered"]).as_py() or 0,
    )
    store.write(layout.commit_path(job.snapshot, shard), record_of(commit))
    return commit


def record_of(commit: Commit) -> bytes:
    """A commit record's file."""
    return (json.dumps(asdict(commit), indent=2) + "\n").encode()


def put(store: Store, path: str, rows: int, data: bytes) -> FileFacts:
    """Write a file; what the records say of it."""
    store.write(path, data)
    return FileFacts(path, rows, len(data), digest(data))


def committed_shards(store: Store, snapshot: int = 1) -> set[int]:
    """Which shards of a snapshot's job are committed."""
    folder = layout.commits_folder(snapshot)
    return {int(item.path.rpartition("/")[2].removesuffix(".json")) for item in store.list(folder)}


def read_commits(store: Store, snapshot: int, shards: Iterable[int]) -> list[Commit]:
    """The commit records of some shards of a snapshot's job, in order."""
    with ThreadPoolExecutor(store.options.connections) as pool:
        paths = [layout.commit_path(snapshot, shard) for shard in sorted(shards)]
        return list(pool.map(lambda path: Commit.from_facts(json.loads(store.read(path))), paths))


def added(reasons: Iterable[dict[str, int]]) -> dict[str, int]:
    """Counts by reason, added up and sorted."""
    sums: dict[str, int] = {}
    for counts in reasons:
        for reason, count in counts.items():
            sums[reason] = sums.get(reason, 0) + count
    return dict(sorted(sums.items()))


def _dicom_facts(job: Job, shard: int, good: pa.Table) -> FileFacts | None:
    if not job.transfer_syntax:
        return None
    files = good.filter(pc.is_valid(good["dicom"])).select(["dicom", "dicom_sha256", "dicom_bytes"]).to_pylist()
    if not files:
        return None
    of_all = digest_of_all((file["dicom"], file["dicom_sha256"]) for file in files)
    folder = layout.dicom_folder(job.snapshot, shard)
    return FileFacts(folder, len(files), sum(file["dicom_bytes"] for file in files), of_all)
