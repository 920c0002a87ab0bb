"""Reads everything that was published and proves it whole.

Nothing in the destination is believed: hashes and counts are taken anew, ids are collected, every image is walked part
by part and decoded, and whatever lies in the tree without being named by the manifest is a finding.
"""

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prichexy.deid.scan import Canaries
from prichexy.deid.scan.patterns import PSEUDONYM
from prichexy.errors import PrichexyError
from prichexy.findings import FINDINGS
from prichexy.imaging import LATERALITIES, VIEWS
from prichexy.lake import layout
from prichexy.lake.commit import Commit, FileFacts
from prichexy.lake.dicom_files import digest_of_all
from prichexy.lake.identifiers import IdentifierScan
from prichexy.lake.images import image_is_sound
from prichexy.lake.job import Job
from prichexy.lake.lease import is_lease
from prichexy.lake.shards import QUARANTINE, digest, stamped
from prichexy.lake.snapshots import jobs_of, path_of, read_manifest, shards_of
from prichexy.lake.storage import Store

VOCABULARIES = {"view": set(VIEWS), "laterality": set(LATERALITIES)}
"""The only words that these columns may hold."""


@dataclass
class Report:
    """What `verify` found.

    Attributes:
        snapshot: which one was checked.
        rows: rows of its catalog, and of those before.
        published: rows in the data shards.
        quarantined: rows in the quarantine files.
        bytes: of the data shards.
        shards: how many were read.
        model: name and version, as the manifest has them; several where snapshots were made with several.
        audited: whether the job's model had a passing audit.
        audit_id: which; ``unaudited`` where there is none.
        dicom_files: beside the shards; each was checked against the header profile.
        canaries: how many identifiers were looked for in all bytes.
        images_looked_at: by the text detector.
        problems: one sentence each; empty means whole.
    """

    snapshot: int
    rows: int
    model: str
    audited: bool
    audit_id: str
    published: int = 0
    quarantined: int = 0
    bytes: int = 0
    shards: int = 0
    dicom_files: int = 0
    canaries: int = 0
    images_looked_at: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether nothing is missing, double, altered, foreign or identifying."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class _ShardFindings:
    published: int
    quarantined: int
    bytes: int
    image_ids: np.ndarray[Any, np.dtype[np.bytes_]]
    dicom_paths: list[str]
    problems: list[str]


def verify(
    store: Store,
    advance: Callable[[int], None] = lambda rows: None,
    canaries: Canaries | None = None,
    images: int = 0,
    snapshot: int | None = None,
) -> Report:
    """Check a finished snapshot.

    Args:
        store: the destination.
        advance: called with the number of catalog rows each time that a shard has been checked.
        canaries: identifiers that must not occur in any byte.
        images: how many of the published images the text detector looks at.
        snapshot: which one; the current one by default.

    Raises:
        PrichexyError: there is no such finished snapshot.
        StorageFault: the destination can't be read.
        UsageError: images are to be looked at, and the text networks are not installed.
    """
    store.check_readable()
    manifest = read_manifest(store, snapshot)
    if manifest is None:
        what = store.uri if snapshot is None else f"snapshot {snapshot} in {store.uri}"
        raise PrichexyError(f"{what} is not finished: {layout.SUCCESS} or a manifest is missing or altered")
    jobs, commits = jobs_of(manifest), shards_of(manifest)
    report = Report(
        snapshot=manifest["snapshot"],
        rows=sum(job.rows for job in jobs),
        model=", ".join(dict.fromkeys(job.model_version for job in jobs)),
        audited=all(job.audited for job in jobs),
        audit_id=", ".join(dict.fromkeys(job.audit_id for job in jobs)),
    )
    for job in jobs:
        spans = [(commit.row_start, commit.row_stop) for commit in commits if commit.snapshot == job.snapshot]
        if spans != [job.span(shard) for shard in range(job.shards)]:
            report.problems.append("the shards' row ranges do not cover the catalog exactly once")
    scan = IdentifierScan.of_job(jobs[-1], commits, canaries, images)
    report.canaries = len(canaries) if canaries is not None else 0
    report.images_looked_at = sum(map(len, scan.images.values()))
    read = _check_shards(store, jobs, commits, scan, report, advance)
    counts = manifest["counts"]
    if (counts["published"], counts["quarantined"]) != (report.published, report.quarantined):
        report.problems.append("the manifest's totals differ from what the shards hold")
    removed = counts["replaced"] + counts.get("withdrawn", 0)
    if report.published + report.quarantined + removed != report.rows:
        report.problems.append(
            f"{report.published} published, {removed} replaced or withdrawn and {report.quarantined} quarantined rows "
            f"are not the catalog's {report.rows}"
        )
    others = sorted(item.path for item in store.list() if item.path not in read)
    report.problems += _foreign_files(store, others)
    if canaries is not None:  # also in jobs, manifests and commit records, which no shard's check has read
        report.problems += [problem for path in others for problem in scan.in_file(path, store.read(path))]
    return report


def _check_shards(
    store: Store,
    jobs: list[Job],
    commits: list[Commit],
    scan: IdentifierScan,
    report: Report,
    advance: Callable[[int], None],
) -> set[str]:
    """Add what the shards hold to the report; the paths of all files that were read."""
    made_by = {job.snapshot: job for job in jobs}
    ids, read = [], {facts.path for commit in commits for facts in (commit.data, commit.quarantine) if facts}
    with ThreadPoolExecutor(max_workers=4) as pool:
        checks = pool.map(lambda commit: _check_shard(store, made_by[commit.snapshot], commit, scan), commits)
        for commit, findings in zip(commits, checks, strict=True):
            report.shards += 1
            report.published += findings.published
            report.quarantined += findings.quarantined
            report.bytes += findings.bytes
            report.problems += findings.problems
            report.dicom_files += len(findings.dicom_paths)
            ids.append(findings.image_ids)
            read.update(findings.dicom_paths)
            advance(commit.row_stop - commit.row_start)
    every = np.sort(np.concatenate(ids)) if ids else np.empty(0, "S32")
    double = int(np.count_nonzero(every[1:] == every[:-1]))
    if double:
        report.problems.append(f"{double} image ids appear more than once")
    return read


def _check_shard(store: Store, job: Job, commit: Commit, scan: IdentifierScan) -> _ShardFindings:
    problems: list[str] = []
    data = _read_table(store, commit.data, stamped(job.schema, job.audit_id), scan, problems)
    quarantine = _read_table(store, commit.quarantine, QUARANTINE, scan, problems)
    problems += scan.in_shard(commit.name, data, quarantine)
    image_ids = data["image_id"].to_pylist()
    for column, may_be_null in (("image_id", False), ("patient_id", True)):
        wrong = sum(
            not may_be_null if value is None else not PSEUDONYM.fullmatch(value) for value in data[column].to_pylist()
        )
        if wrong:
            problems.append(f"shard {commit.name}: {wrong} values of {column} are no pseudonyms")
    if set(data["model_version"].to_pylist()) - {job.model_version}:
        problems.append(f"shard {commit.name}: rows of another model than {job.model_version}")
    for column, words in VOCABULARIES.items():
        if set(data[column].to_pylist()) - words - {None}:
            problems.append(f"shard {commit.name}: values of {column} that are not published")
    if {name for named in data["findings"].to_pylist() for name in named or ()} - set(FINDINGS):
        problems.append(f"shard {commit.name}: findings that are none of the 14")
    bad_images = sum(not image_is_sound(row, job.encoding) for row in _rows(data))
    if bad_images:
        problems.append(f"shard {commit.name}: {bad_images} images are damaged or carry more than pixels")
    outside = [row for row in quarantine["row_id"].to_pylist() if not commit.row_start <= row < commit.row_stop]
    if outside or len(set(quarantine["row_id"].to_pylist())) != len(quarantine):
        problems.append(f"shard {commit.name}: quarantine rows are double or of another shard")
    removed = commit.replaced + commit.withdrawn
    if len(data) + len(quarantine) + removed != commit.row_stop - commit.row_start:
        problems.append(f"shard {commit.name}: {len(data)} + {len(quarantine)} rows are not its share of the catalog")
    return _ShardFindings(
        len(data),
        len(quarantine),
        commit.data.bytes if commit.data else 0,
        np.array([value or "" for value in image_ids], dtype="S32"),
        _check_dicom(store, commit, data, scan, problems),
        problems,
    )


def _check_dicom(store: Store, commit: Commit, data: pa.Table, scan: IdentifierScan, problems: list[str]) -> list[str]:
    """The paths of the shard's DICOM files, each read, hashed and checked against the profile anew."""
    rows = data.select(["image_id", "dicom"]).to_pylist() if "dicom" in data.column_names else []
    named = [row for row in rows if row["dicom"] is not None]
    if any(row["dicom"] != layout.dicom_path(commit.snapshot, commit.shard, row["image_id"]) for row in named):
        problems.append(f"shard {commit.name}: rows name DICOM files that are not theirs")
        return []
    paths, hashes, size = [row["dicom"] for row in named], [], 0
    for path in paths:
        try:
            content = store.read(path)
        except FileNotFoundError:
            problems.append(f"{path} is missing")
            continue
        hashes.append((path, digest(content)))
        problems += scan.in_dicom(path, content)
        size += len(content)
    expected = commit.dicom or FileFacts("", 0, 0, digest_of_all([]))
    if (len(paths), size, digest_of_all(hashes)) != (expected.rows, expected.bytes, expected.sha256):
        problems.append(f"shard {commit.name}: its DICOM files are not those that were committed")
    return paths


def _read_table(
    store: Store, facts: FileFacts | None, schema: pa.Schema, scan: IdentifierScan, problems: list[str]
) -> pa.Table:
    if facts is None:
        return schema.empty_table()
    try:
        data = store.read(facts.path)
    except FileNotFoundError:
        problems.append(f"{facts.path} is missing")
        return schema.empty_table()
    problems += scan.in_file(facts.path, data, compressed=True)
    if len(data) != facts.bytes or digest(data) != facts.sha256:
        problems.append(f"{facts.path} was altered: its bytes are not those that were committed")
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError):
        problems.append(f"{facts.path} is not readable Parquet")
        return schema.empty_table()
    if not table.schema.equals(schema) or table.schema.metadata != schema.metadata:
        problems.append(f"{facts.path} has columns or types that are not published")
        return schema.empty_table()
    if len(table) != facts.rows:
        problems.append(f"{facts.path} holds {len(table)} rows instead of {facts.rows}")
    return table


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.select(["image_id", "image", "width", "height", "bit_depth"]).to_batches(max_chunksize=16):
        yield from batch.to_pylist()


def _foreign_files(store: Store, others: list[str]) -> list[str]:
    """What lies in the tree though no snapshot has it. Files of a snapshot that is being made are none's business."""
    current = read_manifest(store)
    known, newest = {layout.SUCCESS, *layout.CARD_FILES}, current["snapshot"] if current else 0
    places = {entry["snapshot"]: path_of(entry) for entry in current["earlier"]} if current else {}
    places[newest] = layout.manifest_path(newest)
    if layout.withdrawal_path(newest) in others:
        return ["a withdrawal was cut off before it had removed all: run `prichexy withdraw` again"]
    for number in range(1, newest + 1):
        manifest = read_manifest(store, number)
        if manifest is None:
            return [f"the manifest of snapshot {number} is missing or altered"]
        known |= {layout.job_path(number), places[number]}
        for commit in shards_of(manifest):
            known.add(layout.commit_path(commit.snapshot, commit.shard))
            known |= {facts.path for facts in (commit.data, commit.quarantine) if facts}
    is_made = {layout.job_path(newest + 1), layout.withdrawal_path(newest + 1)} & set(others)
    making = newest + 1 if is_made else None
    foreign = [path for path in others if path not in known and not is_lease(path)]
    foreign = [path for path in foreign if making is None or layout.snapshot_of(path) != making]
    if any(path.startswith(layout.DICOM) for path in foreign):
        named = _named_dicom(store, [path for path in known if path.startswith(layout.DATA) and path in others])
        foreign = [path for path in foreign if path not in named]
    return [f"{len(foreign)} files lie in the tree that no manifest names"] if foreign else []


def _named_dicom(store: Store, shards: list[str]) -> set[str]:
    """The DICOM files that some shards name."""
    tables = [pq.read_table(io.BytesIO(store.read(path)), columns=["dicom"]) for path in shards]
    return {path for table in tables for path in table["dicom"].to_pylist() if path is not None}
