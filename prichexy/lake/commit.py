"""What a destination remembers: the job, one commit record a shard, the manifest, and success last.

See the docstring of `prichexy.lake` for why each point at which a job can die is safe.
"""

import io
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prichexy.errors import PrichexyError, StorageFault, UsageError
from prichexy.lake.dicom_files import dicom_folder, digest_of_all
from prichexy.lake.lease import is_lease
from prichexy.lake.shards import UNAUDITED, digest, published_bytes, published_schema, quarantine_bytes
from prichexy.lake.storage import Store

FORMAT_VERSION = 3
JOB = "_job.json"
MANIFEST = "_MANIFEST.json"
SUCCESS = "_SUCCESS"
COMMITS = "_commits"
DATA = "data"
QUARANTINE = "_quarantine"


@dataclass(frozen=True)
class Job:
    """What a destination is for; two runs with the same job make the same shards, and no other may write there.

    Attributes:
        rows: source files in the job's catalog.
        rows_per_shard: how they are cut.
        resolution: ``native`` or ``256``.
        chunk: how many images the network sees as one batch.
        limits: what is refused before it is decoded.
        source: keyed fingerprint of where the images come from: lake or catalog, labels, exclusions.
        catalog: keyed fingerprint of the catalog.
        key_id: which project secret.
        model: name, version, fingerprint of the weights and obfuscation settings.
        audited: whether the model had a passing audit; False means ``--allow-unaudited`` was given.
        audit_id: which audit, stamped into each shard; ``unaudited`` where there is none.
        deid: how headers and burned-in text are treated.
        columns: what shards publish of headers.
        transfer_syntax: of the DICOM files beside the shards; "" where there are none.
        link: keyed fingerprint of the link table's place; "" where there is none.
    """

    rows: int
    rows_per_shard: int
    resolution: str
    chunk: int
    limits: dict[str, int]
    source: str
    catalog: str
    key_id: str
    model: dict[str, Any]
    audited: bool
    audit_id: str = UNAUDITED
    deid: dict[str, Any] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)
    transfer_syntax: str = ""
    link: str = ""
    format_version: int = FORMAT_VERSION

    @property
    def shards(self) -> int:
        """How many shards the job has."""
        return -(-self.rows // self.rows_per_shard)

    @property
    def schema(self) -> pa.Schema:
        """The columns of its data shards."""
        return published_schema(self.columns, bool(self.transfer_syntax))

    def span(self, shard: int) -> tuple[int, int]:
        """The rows [start, stop) of a shard."""
        start = shard * self.rows_per_shard
        return start, min(start + self.rows_per_shard, self.rows)

    def data_path(self, shard: int) -> str:
        """Path of a shard's data file below the destination."""
        return f"{DATA}/part-{shard:06d}-of-{self.shards:06d}.parquet"

    def quarantine_path(self, shard: int) -> str:
        """Path of a shard's quarantine file below the destination."""
        return f"{QUARANTINE}/part-{shard:06d}.parquet"


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

    `dicom` sums up all DICOM files of the shard's folder, with the hash of `digest_of_all`; `covered` counts published
    images in which burned-in text was covered.
    """

    shard: int
    row_start: int
    row_stop: int
    data: FileFacts | None
    quarantine: FileFacts | None
    reasons: dict[str, int] = field(default_factory=dict)
    dicom: FileFacts | None = None
    covered: int = 0

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Self:
        """A record from its JSON object."""
        files = {name: FileFacts(**facts[name]) if facts[name] else None for name in ("data", "quarantine", "dicom")}
        return cls(**{**facts, **files})

    @property
    def published(self) -> int:
        """Rows in the data file."""
        return self.data.rows if self.data else 0

    @property
    def quarantined(self) -> int:
        """Rows in the quarantine file."""
        return self.quarantine.rows if self.quarantine else 0


def read_job(store: Store) -> Job | None:
    """The job that a destination belongs to, or None when it is empty.

    Raises:
        UsageError: the destination holds something else, or another version's job.
    """
    try:
        facts = json.loads(store.read(JOB))
    except FileNotFoundError:
        if any(not is_lease(item.path) for item in store.list()):
            raise UsageError(
                f"{store.uri} holds files that no job of prichexy wrote: choose an empty destination"
            ) from None
        return None
    if facts.get("format_version") != FORMAT_VERSION:
        raise UsageError(f"{store.uri} was written by another version of prichexy: choose another destination")
    return Job(**facts)


def claim(store: Store, job: Job) -> None:
    """Make the destination this job's, or go on with it.

    Raises:
        UsageError: another job's shards are there; the message names what differs.
    """
    there = read_job(store)
    if there is None:
        store.write(JOB, _json(asdict(job)))
    elif there != job:
        ours, theirs = asdict(job), asdict(there)
        differing = ", ".join(sorted(name for name in ours if ours[name] != theirs[name]))
        raise UsageError(
            f"{store.uri} holds another job's shards (differing: {differing}): "
            "choose another destination, or repeat that job"
        )


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
    bad = rows.filter(pc.invert(is_published))
    quarantine = _put(store, job.quarantine_path(shard), len(bad), quarantine_bytes(bad)) if len(bad) else None
    good = rows.filter(is_published)
    data = (
        _put(store, job.data_path(shard), len(good), published_bytes(good, job.schema, job.audit_id))
        if len(good)
        else None
    )
    reasons = {pair["values"]: pair["counts"] for pair in pc.value_counts(bad["reason"]).to_pylist()}
    covered = pc.sum(good["covered"]).as_py() or 0
    commit = Commit(
        shard, start, stop, data, quarantine, dict(sorted(reasons.items())), _dicom_facts(job, shard, good), covered
    )
    store.write(commit_path(shard), _json(asdict(commit)))
    return commit


def committed_shards(store: Store) -> set[int]:
    """Which shards are committed."""
    return {int(item.path.rpartition("/")[2].removesuffix(".json")) for item in store.list(COMMITS)}


def read_commits(store: Store, shards: Iterable[int]) -> list[Commit]:
    """The commit records of some shards, in order."""
    with ThreadPoolExecutor(store.options.connections) as pool:
        return list(
            pool.map(lambda shard: Commit.from_facts(json.loads(store.read(commit_path(shard)))), sorted(shards))
        )


def finish(store: Store, job: Job) -> dict[str, Any]:
    """Write the manifest and `_SUCCESS`, after proving that the commits cover the catalog exactly once.

    Raises:
        StorageFault: a commit record is missing or does not fit; nothing is declared finished.
    """
    commits = read_commits(store, committed_shards(store))
    spans = [(commit.row_start, commit.row_stop) for commit in commits]
    if spans != [job.span(shard) for shard in range(job.shards)]:
        raise StorageFault(f"{store.uri} lost or gained commit records while the job ran: run the same command again")
    reasons: dict[str, int] = {}
    for commit in commits:
        if commit.published + commit.quarantined != commit.row_stop - commit.row_start:
            raise StorageFault(f"commit record {commit.shard} in {store.uri} does not add up: run `prichexy verify`")
        for reason, count in commit.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    manifest = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "job": asdict(job),
        "counts": {
            "rows": job.rows,
            "published": sum(commit.published for commit in commits),
            "quarantined": sum(commit.quarantined for commit in commits),
            "bytes": sum(commit.data.bytes for commit in commits if commit.data),
            "text_covered": sum(commit.covered for commit in commits),
            "dicom_files": sum(commit.dicom.rows for commit in commits if commit.dicom),
        },
        "quarantined": dict(sorted(reasons.items())),
        "shards": [asdict(commit) for commit in commits],
    }
    store.remove_temporaries()
    text = _json(manifest)
    store.write(MANIFEST, text)
    store.write(SUCCESS, digest(text).encode())
    return manifest


def read_manifest(store: Store) -> dict[str, Any] | None:
    """The manifest of a finished publication; None while `_SUCCESS` is not there or names another manifest."""
    try:
        text, success = store.read(MANIFEST), store.read(SUCCESS)
    except FileNotFoundError:
        return None
    if digest(text).encode() != success.strip():
        return None
    manifest: dict[str, Any] = json.loads(text)
    return manifest


def expected_rows(store: Store) -> int:
    """How many catalog rows the destination's job has; 0 when there is no job."""
    try:
        return int(json.loads(store.read(JOB))["rows"])
    except FileNotFoundError:
        return 0


def quarantined_rows(store: Store) -> list[dict[str, Any]]:
    """All rows of the committed quarantine files, by row_id.

    Raises:
        StorageFault: a file can't be read.
    """
    store.check_readable()
    rows: list[dict[str, Any]] = []
    for commit in read_commits(store, committed_shards(store)):
        if commit.quarantine:
            rows += pq.read_table(io.BytesIO(store.read(commit.quarantine.path))).to_pylist()
    return rows


def commit_path(shard: int) -> str:
    """Path of a shard's commit record below the destination."""
    return f"{COMMITS}/{shard:06d}.json"


def _dicom_facts(job: Job, shard: int, good: pa.Table) -> FileFacts | None:
    if not job.transfer_syntax:
        return None
    files = good.filter(pc.is_valid(good["dicom"])).select(["dicom", "dicom_sha256", "dicom_bytes"]).to_pylist()
    if not files:
        return None
    of_all = digest_of_all((file["dicom"], file["dicom_sha256"]) for file in files)
    return FileFacts(dicom_folder(shard), len(files), sum(file["dicom_bytes"] for file in files), of_all)


def _put(store: Store, path: str, rows: int, data: bytes) -> FileFacts:
    store.write(path, data)
    return FileFacts(path, rows, len(data), digest(data))


def _json(facts: dict[str, Any]) -> bytes:
    return (json.dumps(facts, indent=2) + "\n").encode()
