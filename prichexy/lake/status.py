"""How far a publication is, from its destination alone: while it runs, after it was stopped, when it is done."""

from dataclasses import dataclass, field
from typing import Any

from prichexy.errors import PrichexyError
from prichexy.lake import lease
from prichexy.lake.commit import added, committed_shards, read_commits
from prichexy.lake.job import Job, read_job
from prichexy.lake.snapshots import read_manifest, shards_of
from prichexy.lake.storage import Store


@dataclass(frozen=True)
class Status:
    """What a destination tells.

    Attributes:
        state: ``finished``; ``running``: somebody holds the lease, and whether they live is told by `writer`;
            ``stopped``: the same command would go on.
        snapshot: which one the newest job makes; all figures are of that job.
        rows: of its catalog.
        done: rows in committed shards.
        to_do: the others.
        published: of those done.
        quarantined: of those done, by reason.
        shards: committed.
        shards_to_do: the others.
        bytes: of the committed data shards.
        model: name/version.
        audit_id: which audit allowed it.
        writer: what the running job last told: images that came through so far, images a second, seconds left,
            and when (the writer's clock); empty where none runs.
    """

    state: str
    snapshot: int
    rows: int
    done: int
    to_do: int
    published: int
    shards: int
    shards_to_do: int
    bytes: int
    model: str
    audit_id: str
    quarantined: dict[str, int] = field(default_factory=dict)
    writer: dict[str, Any] = field(default_factory=dict)


def status(store: Store) -> Status:
    """Look at a destination; reads commit records only, never a shard.

    Raises:
        PrichexyError: no job writes there.
        StorageFault: the destination can't be read.
    """
    store.check_readable()
    job = read_job(store)
    if job is None:
        raise PrichexyError(f"no job has written to {store.uri} yet")
    # The lease first: a job that ends between the two looks is then seen as finished, not as stopped.
    holder = lease.current(store)
    manifest = read_manifest(store, job.snapshot)
    if manifest is not None:
        commits, state = [commit for commit in shards_of(manifest) if commit.snapshot == job.snapshot], "finished"
    else:
        commits = read_commits(store, job.snapshot, committed_shards(store, job.snapshot))
        state = "stopped" if holder is None else "running"
    return Status(
        state,
        snapshot=job.snapshot,
        **_cut(job, sum(commit.row_stop - commit.row_start for commit in commits), len(commits)),
        published=sum(commit.published for commit in commits),
        bytes=sum(commit.data.bytes for commit in commits if commit.data),
        quarantined=added(commit.reasons for commit in commits),
        writer={} if holder is None or manifest else {"beat": holder.beat, **holder.state},
    )


def _cut(job: Job, done: int, shards: int) -> dict[str, Any]:
    return {
        "rows": job.rows,
        "done": done,
        "to_do": job.rows - done,
        "shards": shards,
        "shards_to_do": job.shards - shards,
        "model": job.model_version,
        "audit_id": job.audit_id,
    }
