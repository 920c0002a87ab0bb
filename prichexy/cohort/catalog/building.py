"""The second half of a catalog: the pieces of a listing become parts, a range of hashes at a time.

A piece is sorted by hash and its row groups know their ranges, so a part reads its share of each piece and no more.
Parts are named for their content and the facts come last: a catalog without them is unfinished, and two builds with one
salt over an unchanged lake write the same files.
"""

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from prichexy.cohort.catalog import reading
from prichexy.cohort.catalog.labels import Labels
from prichexy.cohort.catalog.listing import LISTED, Listing, clear, list_lake
from prichexy.cohort.catalog.reading import CATALOG_FILE, FORMAT_VERSION, SCHEMA, Catalog, Part, open_with_salt
from prichexy.config import CatalogConfig
from prichexy.errors import StorageFault, UsageError
from prichexy.lake.storage import Store

log = logging.getLogger("prichexy.catalog")

ROWS_PER_PART = 500_000
FORMATS = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "dcm": "dicom", "dicom": "dicom", "ima": "dicom"}
_ORDERS = 1 << 64


@dataclass(slots=True)
class _Sums:
    """What adds up over the parts."""

    parts: list[Part] = field(default_factory=list)
    listed: int = 0
    rows: int = 0
    bytes: int = 0
    labelled: int = 0
    replaces: int = 0
    known: int = 0
    still_there: int = 0


def build_catalog(config: CatalogConfig, salt: bytes | None = None) -> Catalog:
    """List a lake into a new catalog; killed and called again, it goes on.

    Args:
        config: the lake, the catalog's place, labels, the catalog that it follows.
        salt: secret that decides the order of rows; random by default, and that of the followed catalog where there is
            one. With the same salt and an unchanged lake two builds write the same files, so a build that is repeated
            harms nobody.

    Raises:
        UsageError: the lake is empty, a file name is not text, labels are unusable, or there is no catalog to follow.
        StorageFault: the lake or the catalog's place failed.
    """
    source, out = Store(config.source, config.storage), Store(config.out, config.storage)
    source.check_readable()
    if out.is_local:  # it names source files: for its owner only
        Path(out.root).mkdir(mode=0o700, parents=True, exist_ok=True)
        Path(out.root).chmod(0o700)
    labels = Labels.read(config)
    earlier, salt = _earlier(config, source, salt)
    listing = list_lake(source, out, config, salt)
    if not listing.files:
        clear(out)
        raise UsageError(f"no files found at {config.source}: nothing to do")
    sums, used = _Sums(), np.zeros(len(labels.table), np.int64)
    for low, high in _ranges(max(listing.files, sum(catalog.rows for catalog in earlier))):
        listed = _in_range(out, listing.pieces, LISTED, low, high)
        sums.listed += len(listed)
        used += labels.counted(labels.numbers(listed["uri"]))
        new = _new(listed, _known(earlier, config, low, high), sums)
        if len(new):
            _write_part(out, new, labels, sums)
    if sums.listed != listing.files:
        raise StorageFault(f"the listing in {config.out} changed while it was read: does another build run there?")
    double = int(np.count_nonzero(used > 1))
    if double:
        clear(out)
        raise UsageError(f"setting labels: {double} names fit several files of the lake: exclude all but one of each")
    catalog = _finished(out, source, listing, earlier, sums, int(np.count_nonzero(used == 0)))
    clear(out)
    return catalog


def _earlier(config: CatalogConfig, source: Store, salt: bytes | None) -> tuple[list[Catalog], bytes | None]:
    """The catalogs that the new one follows, oldest first, and the salt that all of them share."""
    if config.since is None:
        return [], salt
    opened = open_with_salt(config.since, config.storage)
    if opened is None:
        raise UsageError(f"setting since: there is no catalog at {config.since}")
    last, salt = opened
    if last.root != source.place:
        raise UsageError("setting since: that is the catalog of another lake")
    chain = []
    for uri in last.since:
        before = reading.open_catalog(uri, config.storage)
        if before is None:
            raise UsageError("setting since: a catalog that it follows itself is gone from its place: restore it")
        chain.append(before)
    return [*chain, last], salt


def _ranges(rows: int) -> Iterator[tuple[int, int]]:
    """Ranges [low, high) of hashes with about `ROWS_PER_PART` rows each."""
    parts = -(-rows // ROWS_PER_PART)
    return ((_ORDERS * part // parts, _ORDERS * (part + 1) // parts) for part in range(parts))


def _in_range(store: Store, files: list[str], schema: pa.Schema, low: int, high: int) -> pa.Table:
    """The rows of some files whose hashes are in a range, sorted."""
    if not files:
        return schema.empty_table()
    order = ds.field("order")
    # The last range ends where 64 bits do.
    within = (order >= pa.scalar(low, pa.uint64())) & (order <= pa.scalar(high - 1, pa.uint64()))

    def read() -> pa.Table:
        file_system, root = store.arrow()
        dataset = ds.dataset([f"{root}/{file}" for file in files], schema, "parquet", file_system)
        return dataset.to_table(filter=within)

    return store.retried("read from", read).sort_by([("order", "ascending"), ("uri", "ascending")])


def _known(earlier: list[Catalog], config: CatalogConfig, low: int, high: int) -> pa.Table:
    """Files in a range of hashes as the newest catalog that holds them has them: columns uri, size, etag."""
    columns = ["uri", "size", "etag"]
    known = SCHEMA.empty_table().select(columns)
    for catalog in reversed(earlier):
        store = Store(catalog.uri, config.storage)
        older = _in_range(store, [part.name for part in catalog.parts], SCHEMA, low, high).select(columns)
        unseen = pc.invert(pc.is_in(older["uri"], value_set=known["uri"]))
        known = pa.concat_tables([known, older.filter(unseen)])
    return known


def _new(listed: pa.Table, known: pa.Table, sums: _Sums) -> pa.Table:
    """The listed files that are not known, or known otherwise; `replaces` tells the latter."""
    numbers = pc.index_in(listed["uri"], value_set=known["uri"])
    is_known = pc.is_valid(numbers)
    sums.known += len(known)
    sums.still_there += pc.sum(is_known).as_py() or 0
    sizes, etags = known["size"].take(numbers), known["etag"].take(numbers)
    # An unknown etag says nothing: sizes decide.
    told = pc.and_(pc.not_equal(etags, ""), pc.not_equal(listed["etag"], ""))
    differs = pc.or_(pc.not_equal(sizes, listed["size"]), pc.and_(told, pc.not_equal(etags, listed["etag"])))
    replaces = pc.fill_null(differs, False)
    return listed.append_column("replaces", replaces).filter(pc.or_(pc.invert(is_known), replaces))


def _write_part(out: Store, new: pa.Table, labels: Labels, sums: _Sums) -> None:
    numbers = labels.numbers(new["uri"])
    first = sums.rows
    facts = {
        "row_id": pa.array(np.arange(first, first + len(new)), pa.int64()),
        "format": _formats(new["uri"]),
        **{name: new[name] for name in ("order", "uri", "size", "etag", "replaces")},
    }
    labelled = labels.at(numbers)
    table = pa.table(facts | {name: labelled[name] for name in labelled.column_names}).select(SCHEMA.names)
    data = _parquet(table.cast(SCHEMA))
    part = Part(f"part-{len(sums.parts):05d}-{blake2b(data, digest_size=8).hexdigest()}.parquet", len(new))
    out.write(part.name, data)
    sums.parts.append(part)
    sums.rows += len(new)
    sums.bytes += pc.sum(new["size"]).as_py()
    sums.labelled += len(numbers) - numbers.null_count
    sums.replaces += pc.sum(new["replaces"]).as_py()
    log.info("catalog: %d files in %d parts", sums.rows, len(sums.parts))


def _formats(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """What the names' endings say; null where they say nothing."""
    endings = pc.utf8_lower(pc.replace_substring_regex(paths, r"(?s)^.*\.", ""))
    numbers = pc.index_in(endings, value_set=pa.array(list(FORMATS)))
    return pa.chunked_array([pa.array(list(FORMATS.values()), pa.string())]).take(numbers)


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=reading.ROWS_PER_GROUP, compression="zstd")
    return buffer.getvalue()


def _finished(
    out: Store, source: Store, listing: Listing, earlier: list[Catalog], sums: _Sums, labels_unused: int
) -> Catalog:
    follows = earlier[-1].content if earlier else ""
    content = blake2b(follows.encode(), digest_size=16, key=listing.salt)
    for part in sums.parts:
        content.update(f"{part.name} {part.rows}\n".encode())
    catalog = Catalog(
        uri=out.place,
        root=source.place,
        rows=sums.rows,
        bytes=sums.bytes,
        labelled=sums.labelled,
        labels_unused=labels_unused,
        skipped=listing.skipped,
        content=content.hexdigest(),
        parts=tuple(sums.parts),
        since=tuple(catalog.uri for catalog in earlier),
        follows=follows,
        replaces=sums.replaces,
        gone=sums.known - sums.still_there,
    )
    facts = {"format_version": FORMAT_VERSION, "salt": listing.salt.hex(), **asdict(catalog)}
    out.write(CATALOG_FILE, json.dumps(facts, indent=2).encode())
    return catalog
