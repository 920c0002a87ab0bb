"""What a destination is for: the job that makes its newest snapshot."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from prichexy.errors import StorageFault, UsageError
from prichexy.lake import layout
from prichexy.lake.lease import is_lease
from prichexy.lake.shards import UNAUDITED, published_schema
from prichexy.lake.storage import Store

FORMAT_VERSION = 4

MAY_DIFFER = ("snapshot", "rows", "rows_per_shard", "chunk", "catalog", "limits", "model", "audited", "audit_id")
"""In what a later snapshot's job may differ from those before: all that is published stays of one kind."""


@dataclass(frozen=True)
class Job:
    """Two runs with the same job make the same shards, and no other may write to its snapshot.

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
        encoding: of the images, a key of `prichexy.imaging.ENCODINGS`; jobs that don't name it are older, and of PNG.
        snapshot: which snapshot it makes; 1 for the first of a destination.
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
    encoding: str = "png"
    snapshot: int = 1
    format_version: int = FORMAT_VERSION

    @property
    def shards(self) -> int:
        """How many shards the job has."""
        return -(-self.rows // self.rows_per_shard)

    @property
    def model_version(self) -> str:
        """As each published row names it: name/version."""
        return f"{self.model['name']}/{self.model['version']}"

    @property
    def schema(self) -> pa.Schema:
        """The columns of its data shards."""
        return published_schema(self.columns, bool(self.transfer_syntax))

    def span(self, shard: int) -> tuple[int, int]:
        """The rows [start, stop) of a shard."""
        start = shard * self.rows_per_shard
        return start, min(start + self.rows_per_shard, self.rows)


def current_snapshot(store: Store) -> int:
    """The newest finished snapshot, which readers see; 0 where there is none.

    Raises:
        StorageFault: the destination failed, or its `_SUCCESS` is none.
    """
    try:
        return int(json.loads(store.read(layout.SUCCESS))["snapshot"])
    except FileNotFoundError:
        return 0
    except (ValueError, KeyError, TypeError):
        raise StorageFault(f"{layout.SUCCESS} in {store.uri} is damaged, or of another version of prichexy") from None


def read_job(store: Store) -> Job | None:
    """The newest job, be it finished or not; None when the destination is empty.

    A snapshot that a withdrawal made has none: the newest is then that of a snapshot before.

    Raises:
        UsageError: the destination holds something else, or another version's job.
    """
    facts = _newest_facts(store)
    if facts is not None:
        if facts.get("format_version") != FORMAT_VERSION:
            raise UsageError(f"{store.uri} was written by another version of prichexy: choose another destination")
        return Job(**facts)
    if any(not is_lease(item.path) for item in store.list()):
        raise UsageError(f"{store.uri} holds files that no job of prichexy wrote: choose an empty destination")
    return None


def claim(store: Store, job: Job) -> None:
    """Make the job's snapshot its own, or go on with it.

    Raises:
        UsageError: another job's shards are there, or earlier snapshots are of another kind; the message names what
            differs. Or a withdrawal was cut off there.
    """
    if check_claim(store, job):
        store.write(layout.job_path(job.snapshot), (json.dumps(asdict(job), indent=2) + "\n").encode())


def check_claim(store: Store, job: Job) -> bool:
    """Whether the job's snapshot has still to be claimed; errors are those of `claim`, and nothing is written."""
    there, current = read_job(store), current_snapshot(store)
    if there is None:
        return True
    if any(_exists(store, layout.withdrawal_path(number)) for number in (current, current + 1)):
        raise UsageError(f"a withdrawal from {store.uri} was cut off: run the same `prichexy withdraw` again first")
    begins = there.snapshot <= current < job.snapshot
    if begins:
        _refuse(store, _differing(job, there, except_for=MAY_DIFFER), "holds earlier snapshots of another kind")
    else:
        _refuse(store, _differing(job, there), "holds another job's shards")
    return begins


def expected_rows(store: Store) -> int:
    """How many catalog rows the newest job has; 0 when there is no job."""
    facts = _newest_facts(store)
    return int(facts["rows"]) if facts else 0


def _newest_facts(store: Store) -> dict[str, Any] | None:
    for number in range(current_snapshot(store) + 1, 0, -1):
        try:
            facts: dict[str, Any] = json.loads(store.read(layout.job_path(number)))
        except FileNotFoundError:
            continue
        return facts
    return None


def _exists(store: Store, path: str) -> bool:
    try:
        store.read(path)
    except FileNotFoundError:
        return False
    return True


def _differing(ours: Job, theirs: Job, except_for: tuple[str, ...] = ()) -> list[str]:
    one, other = asdict(ours), asdict(theirs)
    return sorted(name for name in one if one[name] != other[name] and name not in except_for)


def _refuse(store: Store, differing: list[str], what: str) -> None:
    if differing:
        raise UsageError(
            f"{store.uri} {what} (differing: {', '.join(differing)}): choose another destination, or repeat that job"
        )
