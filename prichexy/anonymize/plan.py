"""What a job is, before anything starts: which audit allows its model, its frozen catalog, what its workers know."""

import logging
from pathlib import Path

from prichexy.anonymize.work import SMALL, Work
from prichexy.cohort.catalog import Catalog, build_catalog, open_catalog
from prichexy.config import AnonymizeConfig, CatalogConfig
from prichexy.deid import LinkRecipient, Pseudonyms
from prichexy.errors import UsageError
from prichexy.imaging import DecodeLimits
from prichexy.lake.job import Job, current_snapshot, read_job
from prichexy.lake.shards import UNAUDITED
from prichexy.lake.storage import Store
from prichexy.lake.withdrawal import withdrawn_marks
from prichexy.obfuscation import load
from prichexy.registry import ModelVersion, Registry, passing_audit
from prichexy.verdict import VerdictError, audit_id

log = logging.getLogger("prichexy.anonymize")


def begun(config: AnonymizeConfig, pseudonyms: Pseudonyms) -> Job | None:
    """The job with which this run goes on, be it finished or not; None where the run begins a snapshot.

    Raises:
        UsageError: the destination holds something else, or was written with another secret.
        StorageFault: the destination, or a catalog given as source, can't be read.
    """
    destination = Store(config.destination, config.storage)
    there = read_job(destination)
    if there is not None and there.key_id != pseudonyms.key_id:
        raise UsageError(
            f"{config.destination} was written with another project secret (its key_id differs): name that one as "
            "secret_file, or choose another destination"
        )
    if there is None or there.snapshot > current_snapshot(destination):
        return there
    given = open_catalog(config.source, config.storage)
    if given is None:
        return None if config.increment else there
    follows = bool(given.follows) and there.catalog == pseudonyms.fingerprint("catalog", given.follows)
    return None if follows else there


def allowed_by(
    registry: Registry, model: ModelVersion, config: AnonymizeConfig, secret: bytes, there: Job | None
) -> str:
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


def check_resolution(model: ModelVersion, config: AnonymizeConfig) -> None:
    """Refuse a model that can't publish at the wished resolution.

    Raises:
        UsageError: it can't.
    """
    native = load(model.folder).native
    if config.resolution == "native" and not native:
        raise UsageError(f"a model of kind {model.settings.kind} can't publish at native size: use --resolution 256")
    if not native and model.settings.image_size != SMALL:
        raise UsageError(
            f"a model of kind {model.settings.kind} and size {model.settings.image_size} can't publish at 256"
        )


def existing_catalog(config: AnonymizeConfig, pseudonyms: Pseudonyms, going_on: Job | None) -> Catalog | None:
    """The catalog that SOURCE is, or that an earlier run froze; None where the lake has to be listed.

    Raises:
        UsageError: a setting is missing or does not fit, or a catalog that is needed is gone.
        StorageFault: a store failed.
    """
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
    if going_on is not None:
        place = _catalog_place(config, pseudonyms, going_on.snapshot)
        frozen = open_catalog(place, config.storage)
        if frozen is None:
            raise UsageError(f"the catalog of the job in {config.destination} is gone from {place}: restore it")
        return frozen
    last = _last_listed(destination)
    since = _catalog_place(config, pseudonyms, last)
    if last and open_catalog(since, config.storage) is None:
        raise UsageError(
            f"the catalog of snapshot {last} in {config.destination} is gone from {since}: restore it (or, where that "
            "job had a catalog as SOURCE, make the next with `prichexy catalog --since`)"
        )
    return None


def frozen_catalog(config: AnonymizeConfig, pseudonyms: Pseudonyms, going_on: Job | None) -> Catalog:
    """The job's frozen catalog: the one that SOURCE is, the one that an earlier run froze, or a new one.

    A new one of a destination that has snapshots holds what is new or changed since the last, which may be nothing.
    Errors are those of `existing_catalog`.
    """
    existing = existing_catalog(config, pseudonyms, going_on)
    if existing is not None:
        return existing
    destination = Store(config.destination, config.storage)
    last, current = _last_listed(destination), current_snapshot(destination)
    since, place = (_catalog_place(config, pseudonyms, number) for number in (last, current + 1))
    if config.work_dir is None:
        Path(place).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        Path(place).parent.chmod(0o700)
    log.info("catalog: listing the lake")
    return build_catalog(
        CatalogConfig(
            source=config.source,
            out=place,
            labels=config.labels,
            exclude=config.exclude,
            since=since if last else None,
            storage=config.storage,
        ),
        salt=bytes.fromhex(pseudonyms.fingerprint("catalog-salt")),
    )


def _last_listed(destination: Store) -> int:
    """The newest snapshot that a job made, which has a catalog; a withdrawal has none. 0 for the first job."""
    there = read_job(destination)
    return there.snapshot if there else 0


def _catalog_place(config: AnonymizeConfig, pseudonyms: Pseudonyms, snapshot: int) -> str:
    """Where the catalog of a snapshot's job lies; private."""
    destination = Store(config.destination, config.storage)
    place = f"{destination.root}.private/catalog"
    if config.work_dir is not None:  # which several jobs may share
        place = f"{config.work_dir}/catalog-{pseudonyms.fingerprint('destination', destination.place)[:12]}"
    return place if snapshot == 1 else f"{place}-{snapshot:04d}"


def job_of(
    config: AnonymizeConfig,
    catalog: Catalog,
    model: ModelVersion,
    audit: str,
    pseudonyms: Pseudonyms,
    snapshot: int,
) -> Job:
    """The job as the destination remembers it: places and catalog as keyed fingerprints only."""
    # A catalog's snapshots go on with catalogs that lie elsewhere, a lake's with the same lake.
    lake = catalog.root if catalog.uri == config.source else Store(config.source).place
    return Job(
        rows=catalog.rows,
        rows_per_shard=config.shard_rows,
        resolution=config.resolution,
        chunk=config.chunk_of(catalog.rows),
        limits=config.limits.model_dump(),
        source=pseudonyms.fingerprint("source", lake, config.labels or "", *config.exclude),
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
        encoding=config.encoding,
        snapshot=snapshot,
    )


def _link(config: AnonymizeConfig, pseudonyms: Pseudonyms) -> str:
    """Fingerprint of the link table's place, so that a job that goes on can't leave a part of it elsewhere."""
    return "" if config.link_table is None else pseudonyms.fingerprint("link", Store(config.link_table).place)


def work_of(config: AnonymizeConfig, catalog: Catalog, job: Job, secret: Path, recipient: LinkRecipient | None) -> Work:
    """What the workers of a job are told."""
    return Work(
        catalog=catalog,
        storage=config.storage,
        secret_file=secret,
        limits=DecodeLimits(
            **config.limits.model_dump(exclude={"memory", "seconds"}),  # which hold for more than decoding
            accept_declared_text=config.deid.burned_in_text == "redact",
        ),
        allow_missing=config.allow_missing,
        network_size=int(job.model["settings"]["image_size"]),
        destination=Store(config.destination, config.storage).place,
        job=job,
        deid=config.deid,
        transfer_syntax=config.transfer_syntax,
        link_table=Store(config.link_table, config.storage).place if config.link_table else None,
        link_recipient=recipient,
        withdrawn=withdrawn_marks(Store(config.destination, config.storage)),
    )
