"""The job around the stages: plan what is not committed yet, stream it through, finish, and tell the figures."""

import logging
import math
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data

from prichexy.anonymize.ingest import ingest
from prichexy.anonymize.plan import allowed_by, begun, check_resolution, frozen_catalog, job_of, work_of
from prichexy.anonymize.stages import Obfuscate, encode, publish
from prichexy.anonymize.stopping import Stop, stoppable
from prichexy.anonymize.work import Work, pseudonyms
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
class Summary:
    """What a run of the job did, and what the destination holds.

    Attributes:
        destination: where the shards are.
        snapshot: which one readers see now; the figures below are of all that it holds.
        model: name/version, of its own job.
        audited: whether the model had a passing audit.
        audit_id: which; ``unaudited`` where there is none.
        new: source files of the snapshot's own catalog.
        rows: these, and those of earlier snapshots' catalogs.
        published: of them in shards.
        quarantined: of them in quarantine.
        replaced: of them published once and anew since, from a source file that changed.
        withdrawn: of them published once and taken out since.
        reasons: quarantined, by reason.
        shards: shards in the destination.
        resumed: shards that earlier runs had committed.
        seconds: of this run, planning and Ray's start included.
        images_per_second: of this run's images, from the first fetch to the last commit.
        bytes: of all data shards.
        text_covered: published images in which burned-in text was covered.
        dicom_files: written beside the shards.
        skipped: files of the lake that the catalog leaves out.
        gone: files published or quarantined earlier that the lake does not hold any more.
        catalog: the private catalog, which `prichexy quarantine` takes.
    """

    destination: str
    snapshot: int
    model: str
    audited: bool
    audit_id: str
    new: int
    rows: int
    published: int
    quarantined: int
    replaced: int
    withdrawn: int
    shards: int
    resumed: int
    seconds: float
    images_per_second: float
    bytes: int
    text_covered: int
    dicom_files: int
    skipped: int
    gone: int
    catalog: str
    reasons: dict[str, int] = field(default_factory=dict)


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
    streaming = 0.0
    if todo:
        with connected(config.ray) as capacity:
            guards[1].hear()
            streaming = _stream(work, todo, ray.put(weights), capacity, *guards)
    for guard in guards:
        guard.check()
    manifest = read_manifest(destination) if not todo and current_snapshot(destination) >= job.snapshot else None
    if manifest is None:
        keys = pseudonyms(work.secret_file)
        manifest = finish(destination, job, {keys.image_id(uri) for uri in replacing(work.catalog, work.storage)})
    done = sum(stop - start for start, stop in map(job.span, todo))
    rate = round(done / streaming, 2) if streaming else 0.0
    return _summary(destination, manifest, work.catalog, began, new=job.rows, resumed=len(committed), rate=rate)


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
    return _summary(destination, manifest, catalog, began, new=0, resumed=0, rate=0.0)


def _summary(
    destination: Store,
    manifest: dict[str, Any],
    catalog: Catalog,
    began: float,
    *,
    new: int,
    resumed: int,
    rate: float,
) -> Summary:
    counts, job = manifest["counts"], jobs_of(manifest)[-1]
    return Summary(
        destination=destination.uri,
        snapshot=manifest["snapshot"],
        model=job.model_version,
        audited=job.audited,
        audit_id=job.audit_id,
        new=new,
        rows=counts["rows"],
        published=counts["published"],
        quarantined=counts["quarantined"],
        replaced=counts["replaced"],
        withdrawn=counts.get("withdrawn", 0),
        reasons=manifest["quarantined"],
        shards=len(manifest["shards"]),
        resumed=resumed,
        seconds=round(time.monotonic() - began, 2),
        images_per_second=rate,
        bytes=counts["bytes"],
        text_covered=counts["text_covered"],
        dicom_files=counts["dicom_files"],
        skipped=catalog.skipped,
        gone=catalog.gone,
        catalog=catalog.uri,
    )


def _stream(
    work: Work, todo: list[int], weights: "ray.ObjectRef[bytes]", capacity: Capacity, lease: Lease, stop: Stop
) -> float:
    """Run the stages over the shards that are to do; seconds from first to last."""
    context = ray.data.DataContext.get_current()
    # Order is what keeps a shard's rows together: with it, every `rows_per_shard` rows that arrive are one whole shard.
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # so that a stage's own sentence reaches the user
    done = work.job.rows - sum(stop - start for start, stop in map(work.job.span, todo))
    tally = _Tally.remote()  # type: ignore[attr-defined]
    log.info(
        "start: %d shards, %d actors on %d GPUs and %d cores", len(todo), capacity.actors, capacity.gpus, capacity.cpus
    )
    began = time.monotonic()
    with Progress("anonymize", work.job.rows, done) as progress, _following(tally, progress, done, lease):
        try:
            for row in stop.listening(lambda: _commits(work, todo, weights, capacity, tally)):
                lease.check()
                log.info("commit: shard %(shard)d, %(published)d published, %(quarantined)d quarantined", row)
        except Exception as error:
            raise _told(error) from None
    return time.monotonic() - began


def _commits(
    work: Work, todo: list[int], weights: "ray.ObjectRef[bytes]", capacity: Capacity, tally: Any
) -> Iterator[dict[str, Any]]:
    """The figures of each shard as it is committed."""
    for shards in _rounds(work.job, todo):
        yield from _images(work, shards, weights, capacity, tally).iter_rows()


def _images(
    work: Work, shards: list[int], weights: "ray.ObjectRef[bytes]", capacity: Capacity, tally: Any
) -> ray.data.Dataset:
    """The stages over some shards; a row of figures for each.

    A block is a span and stays one from ingest to encode, so what the network sees as one batch depends on the job
    alone. The model goes as a reference: actors that Ray replaces fetch it again.
    """
    spans = np.array([span for shard in shards for span in _spans(work.job, shard)], dtype=np.int64)
    tasks = {"num_cpus": capacity.task_cpus}
    # Ray Data sets cores aside for each operator, used or not: a bound on the lighter ones leaves ingest the rest.
    free = capacity.cpus - min(capacity.actors, len(spans)) * capacity.actor_cpus
    share = 2 if work.job.resolution == "native" else 4  # native images are much to encode, those of 256 px little
    few = ray.data.TaskPoolStrategy(size=max(1, int(free / capacity.task_cpus / share)))
    return (
        ray.data.range(len(spans), override_num_blocks=len(spans))
        .map_batches(ingest, fn_args=(spans, work), batch_size=None, batch_format="pyarrow", **tasks)
        .map_batches(
            Obfuscate,
            fn_constructor_args=([weights], work),
            # With GPUs Ray asks for a batch size; one that divides each span keeps spans apart. Without, this stage is
            # fused with ingest, whose batches are numbers of spans.
            batch_size=math.gcd(work.job.chunk, work.job.rows_per_shard) if capacity.actor_gpus else None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(capacity.actors, len(spans))),
            num_cpus=capacity.actor_cpus,
            num_gpus=capacity.actor_gpus or None,
        )
        .map_batches(encode, fn_args=(work, tally), batch_size=None, batch_format="pyarrow", compute=few, **tasks)
        .map_batches(
            publish,
            fn_args=(work,),
            batch_size=work.job.rows_per_shard,
            batch_format="pyarrow",
            compute=few,
            num_cpus=0.1,
        )
    )


def _rounds(job: Job, todo: list[int]) -> Iterator[list[int]]:
    """The shards in rounds of at most `MOST_SPANS` spans (or one shard)."""
    size = max(1, MOST_SPANS // -(-job.rows_per_shard // job.chunk))
    for first in range(0, len(todo), size):
        yield todo[first : first + size]


@ray.remote(num_cpus=0)
class _Tally:
    """How many images came through, for the progress bar only: what counts are the commits."""

    def __init__(self) -> None:
        self.images = 0

    def add(self, images: int) -> int:
        self.images += images
        return self.images


@contextmanager
def _following(tally: Any, progress: Progress, before: int, lease: Lease) -> Iterator[None]:
    """Let the progress follow the tally while the stages run, and the lease tell it to others."""
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(0.5):
            try:
                progress.reach(min(progress.total, before + ray.get(tally.add.remote(0), timeout=5)))
                lease.state = _told_to_others(progress)
            except ray.exceptions.GetTimeoutError:
                continue
            except ray.exceptions.RayError:
                return  # the cluster is going down; the job itself says why

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=6)


def _told_to_others(progress: Progress) -> dict[str, Any]:
    rate = progress.rate
    return {
        "images": progress.done,
        "images_per_second": round(rate, 2),
        "seconds_left": round((progress.total - progress.done) / rate) if rate else None,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _spans(job: Job, shard: int) -> Iterator[tuple[int, int]]:
    """The rows [start, stop) that travel together: `chunk` of them, never across a shard's border."""
    start, stop = job.span(shard)
    return ((first, min(first + job.chunk, stop)) for first in range(start, stop, job.chunk))


def _told(error: BaseException) -> PrichexyError:
    """The stage's own error within what Ray raised around it."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, PrichexyError):
        kind = next(kind for kind in (StorageFault, UsageError, PrichexyError) if isinstance(cause, kind))
        return kind(str(cause.args[0]).partition("\n")[0])  # Ray adds lines of its own
    return PrichexyError(f"Ray stopped the job: {type(error).__name__}; run the same command again to go on")
