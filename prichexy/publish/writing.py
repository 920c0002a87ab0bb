"""`prichexy publish`: what is written beside the shards, in which order."""

import logging
from dataclasses import dataclass

from prichexy.config.publication import PublishConfig
from prichexy.config.shared import secret_file
from prichexy.errors import UsageError
from prichexy.lake.storage import Store
from prichexy.publish.card import card
from prichexy.publish.checksums import sha256sums
from prichexy.publish.counting import count
from prichexy.publish.croissant import croissant
from prichexy.publish.evidence import gather
from prichexy.publish.facts import Facts
from prichexy.publish.page import page
from prichexy.publish.source import CARD_FILES, CROISSANT, LICENSE, PAGE, README, SHA256SUMS, SPLITS, read_publication
from prichexy.publish.splits import split

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """What `publish` wrote.

    Attributes:
        destination: where.
        snapshot: of which snapshot it speaks.
        version: of the data set.
        images: how many; None where they are of too few patients.
        patients: how many; None where they are too few or unknown.
        audited: whether every image was made by a model whose passing audit is proven.
        audits: a sentence for each model version.
        files: what was written, the checksums last.
    """

    destination: str
    snapshot: int
    version: str
    images: int | None
    patients: int | None
    audited: bool
    audits: dict[str, str]
    files: tuple[str, ...]


def publish(config: PublishConfig) -> Published:
    """Write card, metadata, page, licence, splits and checksums beside the shards of the newest snapshot.

    Everything is made before anything is written; the checksums are written last, so that `publish --check` sees a run
    that was cut short. Files of an earlier run that this one does not make are removed.

    Raises:
        UsageError: a setting can't be met.
        PrichexyError: there is no finished publication, or its shards are not as the manifest says.
        StorageFault: the destination failed.
    """
    store = Store(config.destination, config.storage)
    made = documents(config)
    facts, files = made.facts, made.files
    for path in CARD_FILES:
        if path in files:
            store.write(path, files[path])
        else:
            store.delete(path)
    if not facts.audited:
        log.warning("publish: no passing audit is proven, and the card says so")
    return Published(
        destination=config.destination,
        snapshot=facts.publication.snapshot,
        version=facts.version,
        images=facts.census.images,
        patients=facts.census.patients if facts.census.known_patients else None,
        audited=facts.audited,
        audits={found.making.model: found.sentence for found in facts.evidence},
        files=tuple(path for path in CARD_FILES if path in files),
    )


@dataclass(frozen=True)
class Documents:
    """All that is written: the facts, and path and bytes of each file."""

    facts: Facts
    files: dict[str, bytes]


def documents(config: PublishConfig) -> Documents:
    """Make every file, without writing any. Errors are those of `publish`."""
    licence = _licence_text(config)
    publication = read_publication(Store(config.destination, config.storage))
    census = count(publication, config.small_cell, config.splits, config.show)
    evidence = gather(publication, secret_file(config.secret_file), config.tracking_uri)
    splits = split(census, config.shares, config.small_cell) if config.splits else None
    facts = Facts(publication, config, census, evidence, splits)
    files: dict[str, bytes] = {README: card(facts).encode(), PAGE: page(facts).encode()}
    if splits is not None:
        files[SPLITS] = splits.parquet()
    files[CROISSANT] = croissant(facts, files.get(SPLITS)).encode()
    if licence is not None:
        files[LICENSE] = licence
    files[SHA256SUMS] = sha256sums(publication, files).encode()
    return Documents(facts, files)


def _licence_text(config: PublishConfig) -> bytes | None:
    if config.license_file is None:
        return None
    try:
        text = config.license_file.read_bytes()
        text.decode("utf-8")
    except OSError as error:
        raise UsageError(f"setting license_file: {config.license_file} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"setting license_file: {config.license_file} is not UTF-8 text") from None
    return text
