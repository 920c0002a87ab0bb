"""The job around the stages: plan what is not committed yet, stream it through, finish, and tell the figures."""

import logging
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from prichexy.anonymize.following import Tally, following
from prichexy.anonymize.ingest import ingest
from prichexy.anonymize.plan import allowed_by, begun, check_resolution, frozen_catalog, job_of, work_of
from prichexy.anonymize.report import report_of
from prichexy.anonymize.spent import Spent, added_up
from prichexy.anonymize.stages import FromPixelsToFile, Obfuscate, encode, publish
from prichexy.anonymize.stopping import Stop, stoppable
from prichexy.anonymize.summary import Summary, summed_up
from prichexy.anonymize.work import Work, pseudonyms
from prichexy.anonymize.workers import Workers, workers_for
from prichexy.cluster import Capacity, connected
from prichexy.cohort.catalog import Catalog, replacing
from prichexy.config import AnonymizeConfig, secret_file
from prichexy.deid import LinkRecipient, Pseudonyms, read_secret_file
from prichexy.deid.burned_in import require_networks
from prichexy.errors import PrichexyError, StorageFault, UsageError
from prichexy.lake.commit import committed_shards
from prichexy.lake.job import Job, claim, current_snapshot
from prichexy.lake.lease import Lease, held
from prichexy.lake.snapshots import finish, jobs_of, read_manifest
from prichexy.lake.storage import Store
from prichexy.obfuscation import to_bytes
from prichexy.progress import Progress
from prichexy.registry import ModelVersion, Registry, note_publication

log = logging.getLogger("prichexy.anonymize")

MOST_SPANS = 20_000
"""Ray Data plans a block for each span; a larger lake is streamed in rounds of whole shards."""


@dataclass(frozen=True)
class Streamed:
    """How the stages ran over the shards that were to do.

    Attributes:
        seconds: from Ray's first plan to the last commit.
        start_seconds: of them, before the first image was begun.
        spent: what the stages took.
        workers: among which they shared the cluster.
    """

    seconds: float
    start_seconds: float
    spent: list[Spent]
    workers: Workers


def anonymize(config: AnonymizeConfig) -> Summary:
    """Publish a lake: each file ends in exactly one shard row or one quarantine row.

    Killed at any moment and called again with the same configuration, it goes on behind the last committed shard.

    Raises:
        UsageError: a setting can't work (secret, model, source, destination); nothing was started.
        VerdictError: no audit allows the model; nothing was started.
        StorageFault: a store failed; what was committed stays, and the same command goes on.
        PrichexyError: another run is writing to the destination, or this one was asked to stop.
    """
    began = time.monotonic()
    secret = secret_file(config.secret_file)
    keys = Pseudonyms.from_file(secret)
    assert secret is not None
    destination = Store(config.destination, config.storage)
    if config.deid.burned_in_text != "off":
        require_networks()
    recipient = None
    if config.link_table is not None:
        recipient = LinkRecipient.from_file(config.link_recipient)
        Store(config.link_table, config.storage).check_writable()
    with tempfile.TemporaryDirectory(prefix="prichexy-model-") as folder:
        registry = Registry(config.tracking_uri)
        model = registry.fetch(config.model, Path(folder))
        audit = allowed_by(registry, model, config, read_secret_file(secret), begun(config, keys))
        check_resolution(model, config)
        weights = to_bytes(model.folder)
    destination.check_writable()
    with held(destination, lambda machine: keys.fingerprint("machine", machine)) as lease, stoppable() as stop:
        going_on = begun(config, keys)
        catalog = frozen_catalog(config, keys, going_on)
        pa.default_memory_pool().release_unused()  # what listing took; else the driver keeps it to the end
        if not catalog.rows:
            _note(registry, model, destination)
            return _nothing_new(destination, catalog, began)
        snapshot = going_on.snapshot if going_on else current_snapshot(destination) + 1
        job = job_of(config, catalog, model, audit, keys, snapshot)
        claim(destination, job)
        work = work_of(config, catalog, job, secret.absolute(), recipient)
        summary = _published(config, work, weights, (lease, stop), began)
        _note(registry, model, destination)
        return summary


def _published(
    config: AnonymizeConfig, work: Work, weights: bytes, guards: tuple[Lease, Stop], began: float
) -> Summary:
    """Publish what is not committed yet, and tell what the destination holds then."""
    destination, job = Store(config.destination, config.storage), work.job
    committed = committed_shards(destination, job.snapshot)
    todo = [shard for shard in range(job.shards) if shard not in committed]
    log.info(
        "plan: snapshot %d, %d images in %d shards, %d shards committed before",
        job.snapshot,
        job.rows,
        job.shards,
        len(committed),
    )
    streamed = None
    if todo:
        with connected(config.ray) as capacity:
            guards[1].hear()
            streamed = _stream(work, todo, ray.put(weights), capacity, *guards)
    for guard in guards:
        guard.check()
    manifest = read_manifest(destination) if not todo and current_snapshot(destination) >= job.snapshot else None
    if manifest is None:
        keys = pseudonyms(work.secret_file)
        manifest = finish(destination, job, {keys.image_id(uri) for uri in replacing(work.catalog, work.storage)})
    done = sum(stop - start for start, stop in map(job.span, todo))
    rate, report = 0.0, None
    if streamed is not None:
        rate = round(done / streamed.seconds, 2)
        report = report_of(
            streamed.spent, streamed.workers, done, streamed.seconds, streamed.start_seconds, config.price_per_hour
        )
        log.info("report: %(bottleneck)s holds the run up, busy for a share of %(bottleneck_busy)s", asdict(report))
    return summed_up(
        destination.uri,
        manifest,
        work.catalog,
        began,
        new=job.rows,
        resumed=len(committed),
        rate=rate,
        report=report,
    )


def _note(registry: Registry, model: ModelVersion, destination: Store) -> None:
    """Tell the registry what was published with the model; that it can't be told fails no job that is done."""
    manifest = read_manifest(destination)
    jobs = jobs_of(manifest) if manifest else []
    made = [job.snapshot for job in jobs if job.model_version == f"{model.name}/{model.version}"]
    try:
        note_publication(registry, model, destination.place, made)
    except PrichexyError as error:
        log.warning("registry: it is not noted with the model what was published with it: %s", error)


def _nothing_new(destination: Store, catalog: Catalog, began: float) -> Summary:
    """Of an increment to which the lake adds nothing."""
    manifest = read_manifest(destination)
    if manifest is None:
        raise StorageFault(f"{destination.uri} has no whole snapshot: run `prichexy verify`")
    log.info("catalog: nothing is new or changed since snapshot %d", manifest["snapshot"])
    return summed_up(destination.uri, manifest, catalog, began, new=0, resumed=0, rate=0.0)


def _stream(
    work: Work, todo: list[int], weights: "ray.ObjectRef[bytes]", capacity: Capacity, lease: Lease, stop: Stop
) -> Streamed:
    """Run the stages over the shards that are to do."""
    context = ray.data.DataContext.get_current()
    # Order is what keeps a shard's rows together: with it, every `rows_per_shard` rows that arrive are one whole shard.
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # so that a stage's own sentence reaches the user
    done = work.job.rows - sum(stop - start for start, stop in map(work.job.span, todo))
    tally = Tally.remote()  # type: ignore[attr-defined]
    spent: list[Spent] = []
    log.info(
        "start: %d shards, %d actors on %d GPUs and %d cores", len(todo), capacity.actors, capacity.gpus, capacity.cpus
    )
    began = time.monotonic()
    with Progress("anonymize", work.job.rows, done) as progress, following(tally, progress, done, lease) as told:
        try:
            for row in stop.listening(lambda: _commits(work, todo, weights, capacity, tally, spent)):
                lease.check()
                log.info("commit: shard %(shard)d, %(published)d published, %(quarantined)d quarantined", row)
        except Exception as error:
            raise _told(error) from None
    ended = time.monotonic()
    started = ended if told.began is None else min(max(told.began, began), ended)
    return Streamed(
        ended - began, started - began, spent, workers_for(capacity, work.job, _count(work.job, todo), spent)
    )


def _commits(
    work: Work,
    todo: list[int],
    weights: "ray.ObjectRef[bytes]",
    capacity: Capacity,
    tally: Any,
    spent: list[Spent],
) -> Iterator[dict[str, Any]]:
    """The figures of each shard as it is committed; what the stages took is added to `spent`."""
    for shards in _rounds(work.job, todo):
        workers = workers_for(capacity, work.job, _count(work.job, shards), spent)
        for row in _images(work, shards, weights, capacity, workers, tally).iter_rows():
            spent[:] = added_up([*spent, *(Spent(**part) for part in row.pop("spent"))])
            yield row


def _images(
    work: Work,
    shards: list[int],
    weights: "ray.ObjectRef[bytes]",
    capacity: Capacity,
    workers: Workers,
    tally: Any,
) -> ray.data.Dataset:
    """The stages over some shards; a row of figures for each.

    A block is a span and stays one from ingest to encode, so what the network sees as one batch depends on the job
    alone. The model goes as a reference: actors that Ray replaces fetch it again.
    """
    spans = np.array([span for shard in shards for span in _spans(work.job, shard)], dtype=np.int64)
    few = ray.data.TaskPoolStrategy(size=workers.encoders)
    of_chunks: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow"}
    # Calls come one at a time, here in the process's main thread: what a network's layers free is kept in that thread's
    # part of malloc only (`keep_memory`). In a thread of Ray's an image had 12,000 page faults, a tenth of its time.
    in_main_thread = {} if capacity.gpus else {"enable_true_multi_threading": True}
    actors = of_chunks | {
        "compute": ray.data.ActorPoolStrategy(size=workers.actors, **in_main_thread),
        "num_cpus": capacity.actor_cpus,
        "num_gpus": capacity.actor_gpus or None,
    }
    # Blocks that are there. `ray.data.range` makes each by a task, of a whole core unless it is joined to ingest: on
    # few cores no shard was published before the last of them.
    numbers = ray.data.from_items([{"id": number} for number in range(len(spans))], override_num_blocks=len(spans))
    ingested = numbers.map_batches(ingest, fn_args=(spans, work), num_cpus=capacity.task_cpus, **of_chunks)
    if capacity.gpus:
        # With GPUs Ray asks for a batch size; one that divides each span keeps spans apart.
        actors["batch_size"] = math.gcd(work.job.chunk, work.job.rows_per_shard)
        encoded = ingested.map_batches(Obfuscate, fn_constructor_args=([weights], work), **actors).map_batches(
            encode, fn_args=(work, tally), compute=few, num_cpus=workers.encoder_cpus, **of_chunks
        )
    else:  # Ray joins ingest to the actors, where a batch is one of its span numbers
        whole = (Obfuscate, encode, [weights], work, tally)
        encoded = ingested.map_batches(FromPixelsToFile, fn_constructor_args=whole, **actors)
    return encoded.map_batches(
        publish,
        fn_args=(work,),
        batch_size=work.job.rows_per_shard,
        batch_format="pyarrow",
        compute=few,
        num_cpus=0.1,
    )


def _rounds(job: Job, todo: list[int]) -> Iterator[list[int]]:
    """The shards in rounds of at most `MOST_SPANS` spans (or one shard)."""
    size = max(1, MOST_SPANS // -(-job.rows_per_shard // job.chunk))
    for first in range(0, len(todo), size):
        yield todo[first : first + size]


def _spans(job: Job, shard: int) -> Iterator[tuple[int, int]]:
    """The rows [start, stop) that travel together: `chunk` of them, never across a shard's border."""
    start, stop = job.span(shard)
    return ((first, min(first + job.chunk, stop)) for first in range(start, stop, job.chunk))


def _count(job: Job, shards: list[int]) -> int:
    """How many spans these shards are."""
    return sum(-(-(stop - start) // job.chunk) for start, stop in map(job.span, shards))


def _told(error: BaseException) -> PrichexyError:
    """The stage's own error within what Ray raised around it."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, PrichexyError):
        kind = next(kind for kind in (StorageFault, UsageError, PrichexyError) if isinstance(cause, kind))
        return kind(str(cause.args[0]).partition("\n")[0])  # Ray adds lines of its own
    return PrichexyError(f"Ray stopped the job: {type(error).__name__}; run the same command again to go on")
