"""What `anonymize` would do."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prichexy.anonymize.plan import allowed_by, begun, check_resolution, existing_catalog, job_of
from prichexy.cohort.catalog import Catalog
from prichexy.config import AnonymizeConfig, secret_file
from prichexy.deid import LinkRecipient, Pseudonyms, read_secret_file
from prichexy.deid.burned_in import require_networks
from prichexy.dry_run.plan import Estimate, Plan, Rates, asked_registry, estimated, expected_capacity
from prichexy.errors import UsageError
from prichexy.lake import lease
from prichexy.lake.commit import committed_shards
from prichexy.lake.job import Job, check_claim, current_snapshot
from prichexy.lake.shards import UNAUDITED
from prichexy.lake.storage import Store
from prichexy.registry import ModelVersion, Registry
from prichexy.registry.models import without_password
from prichexy.verdict import VerdictError

MOST_COUNTED = 1_000_000
"""Files of a lake that are counted, where no catalog says how many there are: about 1,000 requests to S3."""


@dataclass(frozen=True)
class _ToDo:
    """What is left of a job.

    Attributes:
        snapshot: that the job makes or goes on with.
        state: ``new``, ``goes on``, ``finished``, ``nothing new`` or ``to be listed``.
        images: to do; None where only a listing can tell.
        shards: to do; None likewise.
        committed: shards committed before.
        counted: whether `images` is a count of the lake's files, before the listing leaves any out.
    """

    snapshot: int
    state: str
    images: int | None
    shards: int | None
    committed: int = 0
    counted: bool = False


def plan_anonymize(config: AnonymizeConfig, rates: Rates) -> Plan:
    """The job's plan: catalog, snapshot, shards to do, whether an audit allows the model, resources, estimate.

    Raises:
        UsageError: what the job would refuse; see `prichexy.anonymize.anonymize`.
        PrichexyError: a store, the registry or the cluster can't be reached.
    """
    secret = secret_file(config.secret_file)
    keys = Pseudonyms.from_file(secret)
    assert secret is not None
    if config.deid.burned_in_text != "off":
        require_networks()
    if config.link_table is not None:
        LinkRecipient.from_file(config.link_recipient)
    destination = Store(config.destination, config.storage)
    registry, going_on = asked_registry(config.tracking_uri, config.model), begun(config, keys)
    with tempfile.TemporaryDirectory(prefix="prichexy-model-") as folder:
        model = registry.fetch(config.model, Path(folder))
        audit, refusal = _audit(registry, model, config, read_secret_file(secret), going_on)
        check_resolution(model, config)
    catalog = existing_catalog(config, keys, going_on)
    # Without an audit there is no telling which one a finished job is compared by; what is committed counts anyway.
    job = job_of(config, catalog, model, audit, keys, _snapshot(destination, going_on)) if catalog else None
    todo = _to_do(config, destination, job, catalog, refused=bool(refusal))
    running = lease.current(destination)
    where, capacity = expected_capacity(config.ray)
    facts = {
        "model": f"{model.name}/{model.version}",
        "audit": "refused" if refusal else audit,
        "catalog_rows": None if catalog is None else catalog.rows,
        "snapshot": todo.snapshot,
        "state": todo.state,
        "images_to_do": todo.images,
        "shards_committed": todo.committed,
        "shards_to_do": todo.shards,
        "lease": "free" if running is None else "held: that run is watched for 45 s, and a living one is left alone",
    }
    resources = {
        "where": where,
        "cores": capacity.cpus,
        "gpus": capacity.gpus,
        "actors": capacity.actors,
        "cores_an_actor": capacity.actor_cpus,
        "gpus_an_actor": capacity.actor_gpus,
        "cores_a_task": capacity.task_cpus,
    }
    last = running.state.get("images_per_second") if running else None
    return Plan(
        "anonymize", _does(todo), _places(config, registry), facts, resources, _estimate(todo, rates, last), refusal
    )


def _audit(
    registry: Registry, model: ModelVersion, config: AnonymizeConfig, secret: bytes, going_on: Job | None
) -> tuple[str, str]:
    """The audit that allows the model, or why none does."""
    try:
        return allowed_by(registry, model, config, secret, going_on), ""
    except VerdictError as error:
        return UNAUDITED, str(error)


def _snapshot(destination: Store, going_on: Job | None) -> int:
    return going_on.snapshot if going_on else current_snapshot(destination) + 1


def _to_do(
    config: AnonymizeConfig, destination: Store, job: Job | None, catalog: Catalog | None, refused: bool
) -> _ToDo:
    if job is None or catalog is None:
        snapshot = current_snapshot(destination) + 1
        images = _files(config) if snapshot == 1 else None
        shards = None if images is None else -(-images // config.shard_rows)
        return _ToDo(snapshot, "to be listed", images, shards, counted=True)
    if not catalog.rows:
        return _ToDo(job.snapshot, "nothing new", 0, 0)
    new = job.snapshot > current_snapshot(destination) if refused else check_claim(destination, job)
    committed = committed_shards(destination, job.snapshot)
    left = [shard for shard in range(job.shards) if shard not in committed]
    images = sum(stop - start for start, stop in map(job.span, left))
    finished = job.snapshot <= current_snapshot(destination)
    state = "finished" if finished else "new" if new and not committed else "goes on"
    return _ToDo(job.snapshot, state, images, len(left), len(committed))


def _files(config: AnonymizeConfig) -> int | None:
    """Files of the lake, whatever they are; None for a lake of more than `MOST_COUNTED`."""
    source, files = Store(config.source, config.storage), 0
    source.check_readable()
    for page in source.pages():
        files += len(page.objects)
        if files > MOST_COUNTED:
            return None
    if not files:
        raise UsageError(f"no files found at {config.source}: nothing to do")
    return files


def _does(todo: _ToDo) -> str:
    if todo.state == "to be listed":
        count = f"{todo.images:,} files, before exclusions" if todo.images else "a number of files not counted here"
        return f"lists the lake ({count}) into a catalog, and publishes what is in it as snapshot {todo.snapshot}"
    if todo.state in ("finished", "nothing new"):
        return (
            f"nothing: snapshot {todo.snapshot} is finished" if todo.state == "finished" else "nothing: nothing is new"
        )
    verb = "publishes" if todo.state == "new" else "goes on and publishes"
    return f"{verb} {todo.images:,} images in {todo.shards:,} shards as snapshot {todo.snapshot}"


def _places(config: AnonymizeConfig, registry: Registry) -> dict[str, Any]:
    places = {
        "source": config.source,
        "destination": config.destination,
        "work_dir": config.work_dir,
        "link_table": config.link_table,
        "registry": without_password(registry.uri),
    }
    return {name: place for name, place in places.items() if place is not None}


def _estimate(todo: _ToDo, rates: Rates, last: float | None) -> Estimate:
    rate, source = rates.images_per_second, "the rate given"
    if rate is None and last:
        rate, source = last, "the rate that the run at the destination last told"
    if todo.images is None:
        return estimated(None, rates, "how many images there are is not known: make a catalog with `prichexy catalog`")
    if not todo.images:
        return estimated(0.0, rates, "nothing is to do")
    if not rate:
        hint = "no rate is known: give --images-per-second, as `prichexy status` tells it of a run on this cluster"
        return estimated(None, rates, hint)
    return estimated(
        todo.images / rate, rates, f"{todo.images:,} images at {rate:g} a second, {source}; start not counted"
    )
