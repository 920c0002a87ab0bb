"""How each snapshot of a destination was made."""

from dataclasses import dataclass
from typing import Literal

from prichexy.errors import PrichexyError
from prichexy.lake.job import Job
from prichexy.lake.snapshots import jobs_of, read_manifest, shards_of
from prichexy.lake.storage import Store


@dataclass(frozen=True)
class Making:
    """How a snapshot was made.

    Attributes:
        snapshot: which one.
        by: a job of `prichexy anonymize`, or a withdrawal, which uses no model.
        finished: when, ISO 8601, UTC.
        code: version of prichexy and its commit; "" where an earlier version did not say.
        key_id: which project secret.
        model: ``models:/NAME/VERSION`` for a registered one, ``local/...`` for a folder; "" of a withdrawal.
        fingerprint: of its weights and settings.
        audit_id: the audit that allowed it; ``unaudited`` without one.
        audited: whether it had a passing audit.
        images: of the newest snapshot that this job made.
    """

    snapshot: int
    by: Literal["job", "withdrawal"]
    finished: str
    code: str
    key_id: str
    model: str = ""
    fingerprint: str = ""
    audit_id: str = ""
    audited: bool = False
    images: int = 0


def lineage(store: Store) -> list[Making]:
    """How all snapshots of a destination were made, oldest first; reads manifests only.

    Raises:
        PrichexyError: none is finished, or a manifest was altered.
        StorageFault: the destination can't be read.
    """
    store.check_readable()
    newest = read_manifest(store)
    if newest is None:
        raise PrichexyError(f"{store.uri} has no finished snapshot, or its manifest was altered")
    jobs, shards = {job.snapshot: job for job in jobs_of(newest)}, shards_of(newest)
    makings = []
    for number in range(1, newest["snapshot"] + 1):
        manifest = newest if number == newest["snapshot"] else read_manifest(store, number)
        if manifest is None:
            raise PrichexyError(f"the manifest of snapshot {number} in {store.uri} is missing or altered")
        finished, code = str(manifest["finished"]), str(manifest.get("code", ""))
        job = jobs.get(number)
        if job is None:
            makings.append(Making(number, "withdrawal", finished, code, jobs_of(manifest)[-1].key_id))
            continue
        images = sum(shard.published for shard in shards if shard.snapshot == number)
        makings.append(
            Making(
                number,
                "job",
                finished,
                code,
                job.key_id,
                _named(job),
                str(job.model["fingerprint"]),
                job.audit_id,
                job.audited,
                images,
            )
        )
    return makings


def _named(job: Job) -> str:
    return job.model_version if job.model["name"] == "local" else f"models:/{job.model_version}"
