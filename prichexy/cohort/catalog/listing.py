"""The first half of a catalog: the lake's files, listed side by side, in pieces that outlive a crash.

The lake is cut into units: folders near its root (and what lies beside them), a bounded number however many there are.
Units are listed at the same time, each into pieces of `PIECE_ROWS` files; a unit's record, written after each piece,
says how far it is. A build that was killed goes on behind the last pieces on S3, and in a folder with the units that
are not done.

All of it lies in `_listing/` in the catalog's place, which is private, and is removed when the catalog is finished.
"""

import io
import json
import logging
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from fnmatch import translate
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prichexy.config import CatalogConfig
from prichexy.errors import UsageError
from prichexy.lake.listing import StoredObject
from prichexy.lake.storage import Store

log = logging.getLogger("prichexy.catalog")

FOLDER = "_listing"
PLAN = f"{FOLDER}/plan.json"
PIECE_ROWS = 100_000
MOST_UNITS = 256
FEW_FOLDERS = 16
"""With fewer folders at one depth, the next depth is looked at, so that listing has something to do side by side."""
DEEPEST = 3
PAGES_LOOKED_AT = 5
"""Pages without a folder after which a bucket's folder is listed as a whole."""

LISTED = pa.schema(
    [
        pa.field("order", pa.uint64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Unit:
    """Folders that are listed one after the other; `deep` ones with all below them."""

    folders: list[tuple[str, bool]]


@dataclass(frozen=True, slots=True)
class Record:
    """How far a unit is.

    Attributes:
        pieces: written.
        folder: number of the folder that is being listed.
        token: where in it the next page begins; "": at its begin.
        done: whether all is listed.
        files: in the pieces.
        bytes: of these files.
        skipped: files left out.
        garbled: files whose names are no text.
    """

    pieces: int = 0
    folder: int = 0
    token: str = ""
    done: bool = False
    files: int = 0
    bytes: int = 0
    skipped: int = 0
    garbled: int = 0


@dataclass(frozen=True, slots=True)
class Listing:
    """A lake's listing: the secret that orders it, its pieces below the catalog's place, and sums over all files."""

    salt: bytes
    pieces: list[str]
    files: int
    bytes: int
    skipped: int


def list_lake(source: Store, out: Store, config: CatalogConfig, salt: bytes | None) -> Listing:
    """List a lake, or go on with a listing that was cut off.

    Args:
        source: the lake.
        out: the catalog's place.
        config: what is left out.
        salt: secret that decides the order of rows; random when None.

    Raises:
        UsageError: the lake is empty, or a file name is not text.
        StorageFault: the lake or the catalog's place failed; the same call goes on.
    """
    salt, units = _plan(source, out, config, salt)
    records = [_record(out, number) for number in range(len(units))]
    if any(record.pieces for record in records):
        log.info("listing: going on, %d of %d parts of the lake are done", sum(r.done for r in records), len(records))
    wanted, said = _wanted(config), _Said(sum(record.files for record in records))
    with ThreadPoolExecutor(4 if source.is_local else config.storage.connections) as pool:
        listings = [
            pool.submit(_UnitListing(source, out, number, salt, wanted, said).run, unit, record)
            for number, (unit, record) in enumerate(zip(units, records, strict=True))
        ]
        try:
            records = [listing.result() for listing in listings]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    garbled = sum(record.garbled for record in records)
    if garbled:
        clear(out)  # a renamed file changes what is listed
        raise UsageError(f"{garbled} file names in the lake are not valid UTF-8: rename these files, or exclude them")
    return Listing(
        salt,
        [_piece(number, piece) for number, record in enumerate(records) for piece in range(record.pieces)],
        sum(record.files for record in records),
        sum(record.bytes for record in records),
        sum(record.skipped for record in records),
    )


def clear(out: Store) -> None:
    """Remove the listing; its plan first, so that a half-removed one is not gone on with."""
    out.delete(PLAN)
    for item in list(out.list(FOLDER)):
        out.delete(item.path)
    if out.is_local:
        shutil.rmtree(Path(out.root) / FOLDER, ignore_errors=True)


def _plan(source: Store, out: Store, config: CatalogConfig, salt: bytes | None) -> tuple[bytes, list[Unit]]:
    """The salt and the units: of the listing that was begun here for the same lake, or new ones."""
    what = {"source": source.place, "exclude": list(config.exclude), "labels": config.labels}
    try:
        plan = json.loads(out.read(PLAN))
        if plan["what"] == what and salt in (None, bytes.fromhex(plan["salt"])):
            return bytes.fromhex(plan["salt"]), [
                Unit([(folder, deep) for folder, deep in unit]) for unit in plan["units"]
            ]
    except FileNotFoundError:
        pass
    clear(out)
    salt, units = salt or secrets.token_bytes(16), _units(source)
    plan = {"what": what, "salt": salt.hex(), "units": [unit.folders for unit in units]}
    out.write(PLAN, json.dumps(plan).encode())
    return salt, units


def _units(source: Store) -> list[Unit]:
    """The lake cut along its folders, into at most `MOST_UNITS` units of neighbouring ones, and one of what is beside
    them.
    """
    beside, deep = list[tuple[str, bool]](), [""]
    for _ in range(DEEPEST):
        if len(deep) >= FEW_FOLDERS:
            break
        below = list[str]()
        for folder in deep:
            found = _folders(source, folder)
            beside.append((folder, found is None))
            below += found or []
        deep = below
    deep.sort()
    size = -(-len(deep) // MOST_UNITS) or 1
    return [Unit(beside)] + [Unit([(name, True) for name in deep[n : n + size]]) for n in range(0, len(deep), size)]


def _folders(source: Store, below: str) -> list[str] | None:
    """The folders right below one; None where so many files lie beside them that asking would be listing twice."""
    folders, without = list[str](), 0
    for page in source.pages(below, deep=False):
        folders += page.folders
        without += not page.folders
        if without > PAGES_LOOKED_AT and page.token:
            return None
    return folders


class _Said:
    """Tells every few seconds how many files were listed."""

    def __init__(self, files: int) -> None:
        self._files, self._last, self._lock = files, time.monotonic(), threading.Lock()

    def add(self, files: int) -> None:
        with self._lock:
            self._files += files
            if time.monotonic() - self._last >= 5:
                self._last = time.monotonic()
                log.info("listing: %d files so far", self._files)


class _UnitListing:
    """Lists one unit into its pieces."""

    def __init__(
        self, source: Store, out: Store, number: int, salt: bytes, wanted: Callable[[str], bool], said: _Said
    ) -> None:
        self._source, self._out, self._number, self._salt = source, out, number, salt
        self._wanted, self._said = wanted, said
        self._batches: list[pa.RecordBatch] = []
        self._rows = 0

    def run(self, unit: Unit, record: Record) -> Record:
        """List what the record does not hold yet."""
        if record.done:
            return record
        kept = record.pieces
        for number in range(record.folder, len(unit.folders)):
            folder, deep = unit.folders[number]
            for page in self._source.pages(folder, deep, record.token):
                record = self._taken(page.objects, replace(record, token=page.token))
                if self._rows >= PIECE_ROWS:
                    record = self._written(record)
                    if page.token:  # only there does another process find the way back into the folder
                        kept = self._kept(record)
            record = replace(record, folder=number + 1, token="")
            if record.pieces > kept:
                record = self._written(record)
                kept = self._kept(record)
        record = self._written(replace(record, done=True))
        self._kept(record)
        return record

    def _taken(self, objects: list[StoredObject], record: Record) -> Record:
        files = [item for item in objects if self._wanted(item.path)]
        garbled = [item for item in files if any("\udc80" <= letter <= "\udcff" for letter in item.path)]
        if garbled:
            files = [item for item in files if item not in garbled]
        self._batches.append(_batch(files, self._salt))
        self._rows += len(files)
        self._said.add(len(files))
        return replace(
            record,
            files=record.files + len(files),
            bytes=record.bytes + sum(item.size for item in files),
            skipped=record.skipped + len(objects) - len(files) - len(garbled),
            garbled=record.garbled + len(garbled),
        )

    def _written(self, record: Record) -> Record:
        """The record with the rows at hand in one more piece."""
        if not self._rows:
            return record
        table = pa.Table.from_batches(self._batches, LISTED).sort_by("order")
        buffer = io.BytesIO()
        pq.write_table(table, buffer, row_group_size=8_192, compression="zstd", use_dictionary=False)
        self._out.write(_piece(self._number, record.pieces), buffer.getvalue())
        self._batches, self._rows = [], 0
        return replace(record, pieces=record.pieces + 1)

    def _kept(self, record: Record) -> int:
        """Write the record, all of whose files are in pieces; how many these are."""
        self._out.write(_record_path(self._number), json.dumps(asdict(record)).encode())
        return record.pieces


def _batch(files: list[StoredObject], salt: bytes) -> pa.RecordBatch:
    paths = [item.path for item in files]
    columns: list[Any] = [
        pa.array(_order(paths, salt), pa.uint64()),
        pa.array(paths, pa.string()),
        pa.array([item.size for item in files], pa.int64()),
        pa.array([item.etag for item in files], pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=LISTED)


def _order(paths: Iterable[str], salt: bytes) -> "np.ndarray[Any, np.dtype[np.uint64]]":
    digests = b"".join(blake2b(path.encode(), digest_size=8, key=salt).digest() for path in paths)
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def _wanted(config: CatalogConfig) -> Callable[[str], bool]:
    patterns = [re.compile(translate(pattern)).match for pattern in config.exclude]
    root, labels = f"{config.source.rstrip('/')}/", config.labels

    def wanted(path: str) -> bool:
        hidden = path.startswith(".") or "/." in path
        return not hidden and f"{root}{path}" != labels and not any(match(path) for match in patterns)

    return wanted


def _record(out: Store, number: int) -> Record:
    try:
        return Record(**json.loads(out.read(_record_path(number))))
    except FileNotFoundError:
        return Record()


def _record_path(number: int) -> str:
    return f"{FOLDER}/{number:04d}.json"


def _piece(number: int, piece: int) -> str:
    return f"{FOLDER}/{number:04d}-{piece:06d}.parquet"
