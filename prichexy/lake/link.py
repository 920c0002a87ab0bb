"""The link table's files: sealed rows that only the custodian can open, one Parquet file a shard.

Nothing stands in clear but how many rows a shard has. Rows are sorted by their sealed bytes, which are random, so that
their order tells nothing. A shard made again replaces its file by other bytes of the same rows.
"""

import io
import re
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from prichexy.errors import StorageFault, UsageError
from prichexy.lake.layout import shard_name
from prichexy.lake.storage import Store

_SCHEMA = pa.schema([pa.field("sealed", pa.binary(), nullable=False)])
_NAME = re.compile(r"link-\d{4,}-\d{6,}\.parquet")


def link_path(snapshot: int, shard: int) -> str:
    """Name of a shard's file below the link table's place."""
    return f"link-{shard_name(snapshot, shard)}.parquet"


def write_links(store: Store, snapshot: int, shard: int, sealed: Sequence[bytes]) -> None:
    """Write a shard's sealed rows, replacing those of an earlier attempt.

    Args:
        store: the link table's place.
        snapshot: whose job makes the shard.
        shard: which shard of the job.
        sealed: one sealed row a source file, in any order.

    Raises:
        StorageFault: the store failed.
    """
    store.write(link_path(snapshot, shard), _file(sealed))


def read_links(store: Store) -> Iterator[bytes]:
    """The sealed rows of all shards, one file in memory at a time.

    Raises:
        UsageError: no link table is there.
        StorageFault: the place can't be read, or a file is damaged.
    """
    for name in _names(store):
        yield from _sealed_rows(store, name)


def drop_links(store: Store, goes: Callable[[bytes], bool]) -> int:
    """Remove rows; the others stay as they are, sealed.

    Args:
        store: the link table's place.
        goes: whether a sealed row goes; who can tell holds the custodian's key.

    Returns:
        How many rows were removed. Cut off, the same call goes on.

    Raises:
        UsageError: no link table is there.
        StorageFault: the place can't be read or written, or a file is damaged.
    """
    dropped = 0
    for name in _names(store):
        rows = _sealed_rows(store, name)
        rest = [row for row in rows if not goes(row)]
        if len(rest) < len(rows):
            store.write(name, _file(rest))
            dropped += len(rows) - len(rest)
    store.remove_temporaries()
    return dropped


def _names(store: Store) -> list[str]:
    store.check_readable()
    names = [item.path for item in store.list() if _NAME.fullmatch(item.path)]
    if not names:
        raise UsageError(f"{store.uri} holds no link table: name the place that the job had as link_table")
    return sorted(names, key=lambda name: (len(name), name))


def _file(sealed: Sequence[bytes]) -> bytes:
    table = pa.Table.from_arrays([pa.array(sorted(sealed), pa.binary())], schema=_SCHEMA)
    buffer = io.BytesIO()
    # Sealed bytes are random: neither compression nor a dictionary makes them smaller.
    pq.write_table(table, buffer, compression="none", use_dictionary=False, write_statistics=False, store_schema=False)
    return buffer.getvalue()


def _sealed_rows(store: Store, name: str) -> list[bytes]:
    try:
        data = store.read(name)
    except FileNotFoundError:
        raise StorageFault(f"{name} vanished from {store.uri} while it was read") from None
    try:
        table = pq.read_table(io.BytesIO(data))
        if table.schema.equals(_SCHEMA):
            rows: list[bytes] = table["sealed"].to_pylist()
            return rows
    except Exception:
        pass
    raise StorageFault(f"{name} in {store.uri} is damaged, or no file of a link table")
