"""How far a publication is, from its destination alone: while it runs, after it was stopped, when it is done."""

from dataclasses import dataclass, field
from typing import Any

from prichexy.errors import PrichexyError
from prichexy.lake import lease
from prichexy.lake.commit import Job, committed_shards, read_commits, read_job, read_manifest
from prichexy.lake.storage import Store


@dataclass(frozen=True)
class Status:
    """What a destination tells.

    Attributes:
        state: ``finished``; ``running``: somebody holds the lease, and whether they live is told by `writer`;
            ``stopped``: the same command would go on.
        rows: of the catalog.
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
    manifest = read_manifest(store)
    if manifest is not None:
        counts = manifest["counts"]
        return Status(
            "finished",
            **_cut(job, job.rows, job.shards),
            published=counts["published"],
            bytes=counts["bytes"],
            quarantined=manifest["quarantined"],
        )
    commits = read_commits(store, committed_shards(store))
    reasons: dict[str, int] = {}
    for commit in commits:
        for reason, count in commit.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    return Status(
        "stopped" if holder is None else "running",
        **_cut(job, sum(commit.row_stop - commit.row_start for commit in commits), len(commits)),
        published=sum(commit.published for commit in commits),
        bytes=sum(commit.data.bytes for commit in commits if commit.data),
        quarantined=dict(sorted(reasons.items())),
        writer={} if holder is None else {"beat": holder.beat, **holder.state},
    )


def _cut(job: Job, done: int, shards: int) -> dict[str, Any]:
    return {
        "rows": job.rows,
        "done": done,
        "to_do": job.rows - done,
        "shards": shards,
        "shards_to_do": job.shards - shards,
        "model": f"{job.model['name']}/{job.model['version']}",
        "audit_id": job.audit_id,
    }
