"""The job around the stages: plan what is not committed yet, stream it through, finish, and tell the figures."""

import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data

from prichexy.anonymize.ingest import ingest
from prichexy.anonymize.stages import Obfuscate, encode, publish
from prichexy.anonymize.work import SMALL, Work
from prichexy.cluster import Capacity, connected
from prichexy.cohort.catalog import Catalog, build_catalog, open_catalog
from prichexy.config import AnonymizeConfig, CatalogConfig, secret_file
from prichexy.deid import LinkRecipient, Pseudonyms, read_secret_file
from prichexy.deid.burned_in import require_networks
from prichexy.errors import PrichexyError, StorageFault, UsageError
from prichexy.imaging import DecodeLimits
from prichexy.lake.commit import Job, claim, committed_shards, finish, read_job, read_manifest
from prichexy.lake.shards import UNAUDITED
from prichexy.lake.storage import Store
from prichexy.obfuscation import load, to_bytes
from prichexy.progress import Progress
from prichexy.registry import ModelVersion, Registry, passing_audit
from prichexy.verdict import VerdictError, audit_id

log = logging.getLogger("prichexy.anonymize")

MOST_SPANS = 20_000
"""Ray Data plans a block for each span; a larger lake is streamed in rounds of whole shards."""


@dataclass(frozen=True)
class Summary:
    """What a run of the job did, and what the destination holds.

    Attributes:
        destination: where the shards are.
        model: name/version.
        audited: whether the model had a passing audit.
        audit_id: which; ``unaudited`` where there is none.
        rows: source files in the catalog.
        published: of them in shards.
        quarantined: of them in quarantine.
        reasons: quarantined, by reason.
        shards: shards in the destination.
        resumed: shards that earlier runs had committed.
        seconds: of this run, planning and Ray's start included.
        images_per_second: of this run's images, from the first fetch to the last commit.
        bytes: of all data shards.
        text_covered: published images in which burned-in text was covered.
        dicom_files: written beside the shards.
        skipped: files of the lake that the catalog leaves out.
        catalog: the private catalog, which `prichexy quarantine` takes.
    """

    destination: str
    model: str
    audited: bool
    audit_id: str
    rows: int
    published: int
    quarantined: int
    shards: int
    resumed: int
    seconds: float
    images_per_second: float
    bytes: int
    text_covered: int
    dicom_files: int
    skipped: int
    catalog: str
    reasons: dict[str, int] = field(default_factory=dict)


def anonymize(config: AnonymizeConfig) -> Summary:
    """Publish a lake: each file ends in exactly one shard row or one quarantine row.

    Killed at any moment and called again with the same configuration, it goes on behind the last committed shard.

    Raises:
        UsageError: a setting can't work (secret, model, source, destination); nothing was started.
        VerdictError: no audit allows the model; nothing was started.
        StorageFault: a store failed; what was committed stays, and the same command goes on.
    """
    began = time.monotonic()
    secret = secret_file(config.secret_file)
    pseudonyms = Pseudonyms.from_file(secret)
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
        there = read_job(destination)
        audit = _audit(registry, model, config, read_secret_file(secret), there)
        _check_resolution(model, config)
        weights = to_bytes(model.folder)
    resume = there is not None
    destination.check_writable()
    catalog = _catalog(config, pseudonyms, resume)
    job = _job(config, catalog, model, audit, pseudonyms)
    claim(destination, job)
    committed = committed_shards(destination)
    todo = [shard for shard in range(job.shards) if shard not in committed]
    work = Work(
        catalog=catalog,
        storage=config.storage,
        secret_file=secret.absolute(),
        limits=DecodeLimits(**config.limits.model_dump(), accept_declared_text=config.deid.burned_in_text == "redact"),
        allow_missing=config.allow_missing,
        network_size=model.settings.image_size,
        destination=destination.place,
        job=job,
        deid=config.deid,
        transfer_syntax=config.transfer_syntax,
        link_table=Store(config.link_table, config.storage).place if config.link_table else None,
        link_recipient=recipient,
    )
    log.info("plan: %d images in %d shards, %d shards committed before", job.rows, job.shards, len(committed))
    streaming = 0.0
    if todo:
        with connected(config.ray) as capacity:
            streaming = _stream(work, todo, ray.put(weights), capacity)
    manifest = read_manifest(destination) if not todo else None
    manifest = manifest or finish(destination, job)
    done = sum(stop - start for start, stop in map(job.span, todo))
    return Summary(
        destination=config.destination,
        model=work.model_version,
        audited=job.audited,
        audit_id=job.audit_id,
        rows=job.rows,
        published=manifest["counts"]["published"],
        quarantined=manifest["counts"]["quarantined"],
        reasons=manifest["quarantined"],
        shards=job.shards,
        resumed=len(committed),
        seconds=round(time.monotonic() - began, 2),
        images_per_second=round(done / streaming, 2) if streaming else 0.0,
        bytes=manifest["counts"]["bytes"],
        text_covered=manifest["counts"]["text_covered"],
        dicom_files=manifest["counts"]["dicom_files"],
        skipped=catalog.skipped,
        catalog=catalog.uri,
    )


def _audit(registry: Registry, model: ModelVersion, config: AnonymizeConfig, secret: bytes, there: Job | None) -> str:
    """Id of the audit that allows the model, its seal, model and verdict proven; or `UNAUDITED`, as the user asked for.

    A job that goes on keeps the audit that it began with, so that its shards stay the same byte for byte, as long as
    the latest one passed too.

    Raises:
        VerdictError: no audit allows the model.
    """
    if config.allow_unaudited:
        return UNAUDITED
    try:
        latest = passing_audit(registry, model, secret)
        identifier = audit_id(latest)
        ours = (model.name, model.version)
        if there is not None and there.audited and (there.model["name"], there.model["version"]) == ours:
            identifier = audit_id(passing_audit(registry, model, secret, there.audit_id))
    except VerdictError as error:
        raise VerdictError(
            error.kind, f"{error}, or say --allow-unaudited (which is stamped into every shard and the manifest)"
        ) from None
    if latest.resolution != config.resolution:
        log.warning("the audit %s looked at resolution %s, not at %s", identifier, latest.resolution, config.resolution)
    return identifier


def _check_resolution(model: ModelVersion, config: AnonymizeConfig) -> None:
    native = load(model.folder).native
    if config.resolution == "native" and not native:
        raise UsageError(f"a model of kind {model.settings.kind} can't publish at native size: use --resolution 256")
    if not native and model.settings.image_size != SMALL:
        raise UsageError(
            f"a model of kind {model.settings.kind} and size {model.settings.image_size} can't publish at 256"
        )


def _catalog(config: AnonymizeConfig, pseudonyms: Pseudonyms, resume: bool) -> Catalog:
    """The job's frozen catalog: the one that SOURCE is, the one that an earlier run froze, or a new one."""
    given = open_catalog(config.source, config.storage)
    if given is not None:
        if config.labels or config.exclude:
            raise UsageError("settings labels and exclude belong to `prichexy catalog` when SOURCE is a catalog")
        return given
    destination = Store(config.destination, config.storage)
    if config.work_dir is None and not destination.is_local:
        raise UsageError(
            "setting work_dir is missing: name a private place for the catalog, since it names source files "
            "(or make one with `prichexy catalog` and give it as SOURCE)"
        )
    place = f"{destination.root}.private/catalog"
    if config.work_dir is not None:  # which several jobs may share
        place = f"{config.work_dir}/catalog-{pseudonyms.fingerprint('destination', destination.place)[:12]}"
    frozen = open_catalog(place, config.storage) if resume else None
    if frozen is not None:
        return frozen
    if resume:
        raise UsageError(f"the catalog of the job in {config.destination} is gone from {place}: restore it")
    if config.work_dir is None:
        Path(place).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        Path(place).parent.chmod(0o700)
    log.info("catalog: listing the lake")
    return build_catalog(
        CatalogConfig(
            source=config.source, out=place, labels=config.labels, exclude=config.exclude, storage=config.storage
        ),
        salt=bytes.fromhex(pseudonyms.fingerprint("catalog-salt")),
    )


def _job(config: AnonymizeConfig, catalog: Catalog, model: ModelVersion, audit: str, pseudonyms: Pseudonyms) -> Job:
    return Job(
        rows=catalog.rows,
        rows_per_shard=config.shard_rows,
        resolution=config.resolution,
        chunk=config.chunk,
        limits=config.limits.model_dump(),
        source=pseudonyms.fingerprint("source", Store(config.source).place, config.labels or "", *config.exclude),
        catalog=pseudonyms.fingerprint("catalog", catalog.content),
        key_id=pseudonyms.key_id,
        model={
            "name": model.name,
            "version": model.version,
            "fingerprint": model.fingerprint,
            "settings": model.settings.recorded(),
        },
        audited=audit != UNAUDITED,
        audit_id=audit,
        deid=config.deid.model_dump(mode="json", exclude={"columns"}),
        columns=list(config.deid.columns),
        transfer_syntax=config.transfer_syntax if config.also_dicom else "",
        link=_link(config, pseudonyms),
    )


def _link(config: AnonymizeConfig, pseudonyms: Pseudonyms) -> str:
    """Fingerprint of the link table's place, so that a job that goes on can't leave a part of it elsewhere."""
    return "" if config.link_table is None else pseudonyms.fingerprint("link", Store(config.link_table).place)


def _stream(work: Work, todo: list[int], weights: "ray.ObjectRef[bytes]", capacity: Capacity) -> float:
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
    with Progress("anonymize", work.job.rows, done) as progress, _following(tally, progress, done):
        try:
            for shards in _rounds(work.job, todo):
                for row in _images(work, shards, weights, capacity, tally).iter_rows():
                    log.info("commit: shard %(shard)d, %(published)d published, %(quarantined)d quarantined", row)
        except Exception as error:
            raise _told(error) from None
    return time.monotonic() - began


def _images(
    work: Work, shards: list[int], weights: "ray.ObjectRef[bytes]", capacity: Capacity, tally: Any
) -> ray.data.Dataset:
    """The stages over some shards; a row of figures for each.

    A block is a span and stays one from ingest to encode (batch_size=None), so what the network sees as one batch
    depends on the job alone. The model goes as a reference: actors that Ray replaces fetch it again.
    """
    spans = np.array([span for shard in shards for span in _spans(work.job, shard)], dtype=np.int64)
    tasks = {"num_cpus": capacity.task_cpus}
    return (
        ray.data.range(len(spans), override_num_blocks=len(spans))
        .map_batches(ingest, fn_args=(spans, work), batch_size=1, batch_format="pyarrow", **tasks)
        .map_batches(
            Obfuscate,
            fn_constructor_args=([weights], work),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(capacity.actors, len(spans))),
            num_cpus=capacity.actor_cpus,
            num_gpus=capacity.actor_gpus or None,
        )
        .map_batches(encode, fn_args=(work, tally), batch_size=None, batch_format="pyarrow", **tasks)
        .map_batches(publish, fn_args=(work,), batch_size=work.job.rows_per_shard, batch_format="pyarrow", num_cpus=0.1)
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
def _following(tally: Any, progress: Progress, before: int) -> Iterator[None]:
    """Let the progress follow the tally while the stages run."""
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(0.5):
            try:
                progress.reach(min(progress.total, before + ray.get(tally.add.remote(0), timeout=5)))
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
