"""A finished catalog: its facts, its rows in ranges."""

import json
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prichexy.config import StorageConfig
from prichexy.errors import UsageError
from prichexy.lake.storage import Store

CATALOG_FILE = "_catalog.json"
FORMAT_VERSION = 2
ROWS_PER_GROUP = 4_096

SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("order", pa.uint64(), nullable=False),  # salted hash of `uri`; rows stand in this order
        pa.field("uri", pa.string(), nullable=False),  # below the catalog's root
        pa.field("size", pa.int64(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),  # `StoredObject.etag`; '': unknown
        pa.field("format", pa.string()),  # guessed from the name; decoding goes by content
        pa.field("patient_id", pa.string()),
        pa.field("findings", pa.list_(pa.string())),
        pa.field("follow_up", pa.int32()),
        pa.field("replaces", pa.bool_(), nullable=False),  # an earlier catalog holds the file as it was before
    ]
)


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file of a catalog: its name, which tells its content, and how many rows it holds."""

    name: str
    rows: int


@dataclass(frozen=True, slots=True)
class Catalog:
    """A catalog's facts, as `_catalog.json` holds them; the rows are read in ranges by `read_rows`.

    Attributes:
        uri: where the catalog lies.
        root: the lake; `uri` of each row lies below it.
        rows: how many source files.
        bytes: their sizes added up.
        labelled: how many rows have a label.
        labels_unused: how many labels name a file that the lake does not hold.
        skipped: how many files were left out (dot files, excluded patterns).
        content: fingerprint of all rows (paths, sizes, etags, labels); it depends on the salt.
        parts: its files, in order.
        since: the catalogs that it follows, oldest first; none for the first of a lake.
        follows: `content` of the last of them; "" for the first of a lake.
        replaces: how many rows are files that an earlier catalog holds as they were before.
        gone: how many files of earlier catalogs the lake does not hold any more.
    """

    uri: str
    root: str
    rows: int
    bytes: int
    labelled: int
    labels_unused: int
    skipped: int
    content: str
    parts: tuple[Part, ...]
    since: tuple[str, ...] = ()
    follows: str = ""
    replaces: int = 0
    gone: int = 0


def open_catalog(uri: str, storage: StorageConfig) -> Catalog | None:
    """The catalog at a place, or None when there is no (finished) catalog.

    Raises:
        UsageError: a catalog of another format version.
    """
    opened = open_with_salt(uri, storage)
    return opened[0] if opened else None


def open_with_salt(uri: str, storage: StorageConfig) -> tuple[Catalog, bytes] | None:
    """As `open_catalog`, with the secret that decides the order of rows."""
    try:
        facts = json.loads(Store(uri, storage).read(CATALOG_FILE))
    except FileNotFoundError:
        return None
    if facts.pop("format_version") != FORMAT_VERSION:
        raise UsageError(f"the catalog {uri} was made by another version of prichexy: make it anew")
    salt = bytes.fromhex(facts.pop("salt"))
    parts = tuple(Part(**part) for part in facts["parts"])
    return Catalog(**{**facts, "uri": uri, "parts": parts, "since": tuple(facts["since"])}), salt


def read_rows(catalog: Catalog, storage: StorageConfig, start: int, stop: int) -> pa.Table:
    """Rows [start, stop) of a catalog, as `SCHEMA`; reads only the row groups that hold them."""
    ends = list(accumulate(part.rows for part in catalog.parts))
    tables, row = [], start
    while row < stop:
        number = bisect_right(ends, row)
        first = ends[number] - catalog.parts[number].rows
        group, offset = divmod(row - first, ROWS_PER_GROUP)
        table = _row_group(catalog.uri, storage, catalog.parts[number].name, group)
        tables.append(table.slice(offset, stop - row))
        row += len(tables[-1])
    return pa.concat_tables(tables) if tables else SCHEMA.empty_table()


@lru_cache(maxsize=8)
def _row_group(uri: str, storage: StorageConfig, part: str, group: int) -> pa.Table:
    """One row group. Kept, since spans of a few rows are asked for one after the other."""
    store = Store(uri, storage)

    def read() -> pa.Table:
        file_system, root = store.arrow()
        with pq.ParquetFile(f"{root}/{part}", filesystem=file_system) as file:
            return file.read_row_group(group)

    return store.retried("read from", read)


def iterate_rows(catalog: Catalog, storage: StorageConfig) -> Iterator[pa.Table]:
    """All rows of a catalog in order, a row group at a time."""
    for part in catalog.parts:
        for group in range(-(-part.rows // ROWS_PER_GROUP)):
            yield _row_group(catalog.uri, storage, part.name, group)


def replacing(catalog: Catalog, storage: StorageConfig) -> Iterator[str]:
    """The paths below the lake's root of files that an earlier catalog holds as they were before; private."""
    if catalog.replaces:
        for table in iterate_rows(catalog, storage):
            yield from table.filter(table["replaces"])["uri"].to_pylist()


def source_of(catalog: Catalog, storage: StorageConfig, row_ids: list[int]) -> dict[int, str]:
    """The source file of some rows; private."""
    wanted, found = sorted(set(row_ids)), dict[int, str]()
    for row in wanted:
        uri = read_rows(catalog, storage, row, row + 1)["uri"][0].as_py()
        found[row] = f"{catalog.root.rstrip('/')}/{uri}"
    return found


def count_formats(catalog: Catalog, storage: StorageConfig) -> dict[str, int]:
    """How many files of each format, by name."""
    counts: dict[str, int] = {}
    for table in iterate_rows(catalog, storage):
        for pair in pc.value_counts(table["format"]).to_pylist():
            name = pair["values"] or "other"
            counts[name] = counts.get(name, 0) + pair["counts"]
    return counts
