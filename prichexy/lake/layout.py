"""Where things lie in a destination: the paths of a snapshot's state, shards and files.

_SUCCESS                                     which snapshot readers see, and the hash of its manifest
_snapshots/0001/_job.json                    what the snapshot's job is
_snapshots/0001/_commits/000000.json         a record for each of its shards
_snapshots/0001/_MANIFEST.json               all shards that are live in it, of this and of earlier jobs
_snapshots/0003/_withdrawal.json             what a withdrawal that is under way still has to remove
_snapshots/0003/_MANIFEST-0001.json          snapshot 1's manifest as withdrawal 3 left it, instead of its own
data/part-0001-000000-of-000003.parquet      what is published
data/part-0002-from-0001-000000.parquet      the same shard from snapshot 2 on, without rows that were replaced
data/part-0003-from-0001-000000-of-0001.parquet  as withdrawal 3 left it for snapshot 1, which 3 has otherwise
dicom/0001-000000/ID.dcm                     its DICOM files
_quarantine/part-0001-000000.parquet         what is not published, and why
_lease/000001.json                           who writes now
README.md, SHA256SUMS, ...                   what `prichexy publish` says of the current snapshot
"""

import re

SUCCESS = "_SUCCESS"
SNAPSHOTS = "_snapshots"
DATA = "data"
DICOM = "dicom"
QUARANTINE = "_quarantine"

CARD_FILES = ("README.md", "croissant.json", "LICENSE", "splits.parquet", "index.html", "SHA256SUMS")
"""What `prichexy publish` may write at the root, in that order; it describes the current snapshot."""

_OF_SNAPSHOT = re.compile(rf"(?:{SNAPSHOTS}/|{DATA}/part-|{DICOM}/|{QUARANTINE}/part-)(\d{{4,}})[-/]")


def job_path(snapshot: int) -> str:
    """A snapshot's job."""
    return f"{SNAPSHOTS}/{snapshot:04d}/_job.json"


def manifest_path(snapshot: int) -> str:
    """A snapshot's manifest."""
    return f"{SNAPSHOTS}/{snapshot:04d}/_MANIFEST.json"


def earlier_manifest_path(made_in: int, snapshot: int) -> str:
    """An earlier snapshot's manifest, as a withdrawal left it."""
    return f"{SNAPSHOTS}/{made_in:04d}/_MANIFEST-{snapshot:04d}.json"


def withdrawal_path(snapshot: int) -> str:
    """What the withdrawal that makes a snapshot still has to remove; there only while it is under way."""
    return f"{SNAPSHOTS}/{snapshot:04d}/_withdrawal.json"


def commits_folder(snapshot: int) -> str:
    """The folder of a snapshot's commit records."""
    return f"{SNAPSHOTS}/{snapshot:04d}/_commits"


def commit_path(snapshot: int, shard: int) -> str:
    """A shard's commit record."""
    return f"{commits_folder(snapshot)}/{shard:06d}.json"


def shard_name(snapshot: int, shard: int) -> str:
    """A shard's name, among those of all snapshots."""
    return f"{snapshot:04d}-{shard:06d}"


def data_path(snapshot: int, shard: int, shards: int) -> str:
    """A shard's data file."""
    return f"{DATA}/part-{shard_name(snapshot, shard)}-of-{shards:06d}.parquet"


def rewritten_path(snapshot: int, made_in: int, shard: int, seen_from: int | None = None) -> str:
    """An earlier snapshot's shard as a later one has it: without rows that were replaced or withdrawn since.

    Args:
        snapshot: the later one.
        made_in: the earlier one.
        shard: which of its shards.
        seen_from: the first snapshot that has it so, where the later one has the shard otherwise.
    """
    only = "" if seen_from is None else f"-of-{seen_from:04d}"
    return f"{DATA}/part-{snapshot:04d}-from-{shard_name(made_in, shard)}{only}.parquet"


def quarantine_path(snapshot: int, shard: int) -> str:
    """A shard's quarantine file."""
    return f"{QUARANTINE}/part-{shard_name(snapshot, shard)}.parquet"


def dicom_folder(snapshot: int, shard: int) -> str:
    """The folder of a shard's DICOM files."""
    return f"{DICOM}/{shard_name(snapshot, shard)}"


def dicom_path(snapshot: int, shard: int, image_id: str) -> str:
    """An image's DICOM file."""
    return f"{dicom_folder(snapshot, shard)}/{image_id}.dcm"


def snapshot_of(path: str) -> int | None:
    """Which snapshot's job wrote a file; None for a path that none writes."""
    found = _OF_SNAPSHOT.match(path)
    return int(found[1]) if found else None
