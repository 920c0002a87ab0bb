"""The catalog of a lake: one Parquet row a source file, frozen, private.

A catalog names source files, so it belongs in a private place, never beside what is published. Its rows stand in the
order of a salted hash of their paths: a shard is a range of rows, and a range of a *listing* would tell which
hospital folder, patient or month an image came from. The salt is random and stays in the catalog.

Each row holds what tells the file's next change (its etag; in a folder, time and size), and whoever reads the file
compares it: an image that was replaced after the listing is never taken for the one that was listed.
"""

import csv
import io
import json
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from hashlib import blake2b
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prichexy.config import CatalogConfig, StorageConfig
from prichexy.errors import UsageError
from prichexy.findings import FINDINGS, NO_FINDING
from prichexy.lake.storage import Store, StoredObject

CATALOG_FILE = "_catalog.json"
FORMAT_VERSION = 1
ROWS_PER_PART = 1_000_000
ROWS_PER_GROUP = 4_096
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".dcm": "dicom", ".dicom": "dicom", ".ima": "dicom"}

SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),  # below the catalog's root
        pa.field("size", pa.int64(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),  # `StoredObject.etag`; '' (older catalogs of folders): unknown
        pa.field("format", pa.string()),  # guessed from the name; decoding goes by content
        pa.field("patient_id", pa.string()),
        pa.field("findings", pa.list_(pa.string())),
        pa.field("follow_up", pa.int32()),
    ]
)


@dataclass(frozen=True, slots=True)
class Label:
    """What a labels file says of one image."""

    patient_id: str | None
    findings: tuple[str, ...] | None
    follow_up: int | None


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
        content: fingerprint of all rows (paths, sizes, etags); it depends on the salt.
    """

    uri: str
    root: str
    rows: int
    bytes: int
    labelled: int
    labels_unused: int
    skipped: int
    content: str


def build_catalog(config: CatalogConfig, salt: bytes | None = None) -> Catalog:
    """List a lake into a new catalog.

    Args:
        config: the lake, the catalog's place, labels.
        salt: secret that decides the order of rows; random by default. With the same salt and an unchanged lake two
            builds write the same files, so a build that is repeated or runs twice at once harms nobody.

    Raises:
        UsageError: the lake is empty, a file name is not text, or labels are unusable.
        StorageFault: the lake or the catalog's place failed.
    """
    source, out = Store(config.source, config.storage), Store(config.out, config.storage)
    source.check_readable()
    if out.is_local:  # it names source files: for its owner only
        Path(out.root).mkdir(mode=0o700, parents=True, exist_ok=True)
        Path(out.root).chmod(0o700)
    labels = _read_labels(config) if config.labels else {}
    salt = salt or secrets.token_bytes(16)
    listed, skipped = _listed(source, config, salt)
    content = blake2b(digest_size=16, key=salt)
    for item in listed:
        label = labels.get(PurePosixPath(item.path).name)
        content.update(f"{item.path}\n{item.size}\n{item.etag}\n{label}\n".encode())
    labelled, used = 0, Counter[str]()
    for part, first in enumerate(range(0, len(listed), ROWS_PER_PART)):
        table = _table(listed[first : first + ROWS_PER_PART], first, labels)
        names = [PurePosixPath(path).name for path in table["uri"].to_pylist()]
        labelled += sum(name in labels for name in names)
        used.update(name for name in names if name in labels)
        out.write(_part(content.hexdigest(), part), _parquet(table))
    double = sum(count > 1 for count in used.values())
    if double:
        raise UsageError(f"setting labels: {double} names fit several files of the lake: exclude all but one of each")
    catalog = Catalog(
        uri=out.place,
        root=source.place,
        rows=len(listed),
        bytes=sum(item.size for item in listed),
        labelled=labelled,
        labels_unused=len(labels) - len(used),
        skipped=skipped,
        content=content.hexdigest(),
    )
    # The facts come last: a catalog without them is unfinished and is made anew.
    facts = {"format_version": FORMAT_VERSION, "salt": salt.hex(), **asdict(catalog)}
    out.write(CATALOG_FILE, json.dumps(facts, indent=2).encode())
    return catalog


def _listed(source: Store, config: CatalogConfig, salt: bytes) -> tuple[list[StoredObject], int]:
    """The lake's files in the order of their salted hashes, and how many were left out."""
    every = list(source.list())
    listed = [item for item in every if _is_wanted(item.path, config)]
    if not listed:
        raise UsageError(f"no files found at {config.source}: nothing to do")
    garbled = sum(any("\udc80" <= letter <= "\udcff" for letter in item.path) for item in listed)
    if garbled:
        raise UsageError(f"{garbled} file names in the lake are not valid UTF-8: rename these files, or exclude them")
    listed.sort(key=lambda item: blake2b(item.path.encode(), digest_size=16, key=salt).digest())
    return listed, len(every) - len(listed)


def _part(content: str, part: int) -> str:
    """A part is named for its catalog's content: another catalog at the same place can't be read for it."""
    return f"part-{content[:16]}-{part:05d}.parquet"


def open_catalog(uri: str, storage: StorageConfig) -> Catalog | None:
    """The catalog at a place, or None when there is no (finished) catalog.

    Raises:
        UsageError: a catalog of another format version.
    """
    try:
        facts = json.loads(Store(uri, storage).read(CATALOG_FILE))
    except FileNotFoundError:
        return None
    if facts.pop("format_version") != FORMAT_VERSION:
        raise UsageError(f"the catalog {uri} was made by another version of prichexy: make it anew")
    facts.pop("salt")
    return Catalog(**{**facts, "uri": uri})


def read_rows(catalog: Catalog, storage: StorageConfig, start: int, stop: int) -> pa.Table:
    """Rows [start, stop) of a catalog, as `SCHEMA`; reads only the row groups that hold them."""
    store = Store(catalog.uri, storage)
    return store.retried("read from", lambda: _read_rows(catalog, store, start, stop))


def _read_rows(catalog: Catalog, store: Store, start: int, stop: int) -> pa.Table:
    file_system, root = store.arrow()
    tables = []
    for part in range(start // ROWS_PER_PART, (stop - 1) // ROWS_PER_PART + 1):
        first = part * ROWS_PER_PART
        with pq.ParquetFile(f"{root}/{_part(catalog.content, part)}", filesystem=file_system) as file:
            low, high = max(start - first, 0), min(stop - first, file.metadata.num_rows)
            groups = range(low // ROWS_PER_GROUP, (high - 1) // ROWS_PER_GROUP + 1)
            table = file.read_row_groups(list(groups))
            offset = groups.start * ROWS_PER_GROUP
            tables.append(table.slice(low - offset, high - low))
    return pa.concat_tables(tables)


def iterate_rows(catalog: Catalog, storage: StorageConfig) -> Iterator[pa.Table]:
    """All rows of a catalog in order, a row group at a time."""
    for start in range(0, catalog.rows, ROWS_PER_GROUP):
        yield read_rows(catalog, storage, start, min(start + ROWS_PER_GROUP, catalog.rows))


def source_of(catalog: Catalog, storage: StorageConfig, row_ids: list[int]) -> dict[int, str]:
    """The source file of some rows; private."""
    wanted, found = set(row_ids), dict[int, str]()
    for table in iterate_rows(catalog, storage):
        first = table["row_id"][0].as_py()
        for row in sorted(row for row in wanted if first <= row < first + len(table)):
            found[row] = f"{catalog.root.rstrip('/')}/{table['uri'][row - first].as_py()}"
    return found


def _is_wanted(path: str, config: CatalogConfig) -> bool:
    hidden = any(part.startswith(".") for part in path.split("/"))
    is_labels = bool(config.labels) and f"{config.source.rstrip('/')}/{path}" == config.labels
    return not hidden and not is_labels and not any(fnmatch(path, pattern) for pattern in config.exclude)


def _table(items: list[StoredObject], first: int, labels: dict[str, Label]) -> pa.Table:
    unlabelled = Label(None, None, None)
    found = [labels.get(PurePosixPath(item.path).name, unlabelled) for item in items]
    return pa.table(
        {
            "row_id": range(first, first + len(items)),
            "uri": [item.path for item in items],
            "size": [item.size for item in items],
            "etag": [item.etag for item in items],
            "format": [FORMATS.get(PurePosixPath(item.path).suffix.lower()) for item in items],
            "patient_id": [label.patient_id for label in found],
            "findings": [label.findings for label in found],
            "follow_up": [label.follow_up for label in found],
        },
        schema=SCHEMA,
    )


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=ROWS_PER_GROUP, compression="zstd")
    return buffer.getvalue()


def _read_labels(config: CatalogConfig) -> dict[str, Label]:
    """Labels by file name, from a CSV with NIH's columns."""
    folder, _, name = (config.labels or "").rpartition("/")
    try:
        text = Store(folder or ".", config.storage).read(name).decode("utf-8-sig")
    except FileNotFoundError:
        raise UsageError("setting labels: there is no such file") from None
    except UnicodeDecodeError:
        raise UsageError("setting labels: the file is not UTF-8 text") from None
    reader = csv.DictReader(io.StringIO(text))
    if "Image Index" not in (reader.fieldnames or ()):
        raise UsageError("setting labels: the file has no column 'Image Index' (NIH's columns are expected)")
    labels: dict[str, Label] = {}
    for line in reader:
        image = line["Image Index"]
        if image in labels:
            raise UsageError(
                f"setting labels: line {reader.line_num} names an image that an earlier line named already"
            )
        labels[image] = _label(line, reader.line_num)
    return labels


def _label(line: dict[str, str], number: int) -> Label:
    findings: tuple[str, ...] | None = None
    if line.get("Finding Labels"):
        named = {name.strip() for name in line["Finding Labels"].split("|")} - {NO_FINDING}
        if named - set(FINDINGS):
            raise UsageError(f"setting labels: line {number} has a finding that is none of the 14 of ChestX-ray14")
        findings = tuple(finding for finding in FINDINGS if finding in named)
    follow_up = (line.get("Follow-up #") or "").strip()
    return Label(
        patient_id=(line.get("Patient ID") or "").strip() or None,
        findings=findings,
        follow_up=int(follow_up) if follow_up.isdecimal() else None,
    )


def count_formats(catalog: Catalog, storage: StorageConfig) -> dict[str, int]:
    """How many files of each format, by name."""
    counts: dict[str, int] = {}
    for table in iterate_rows(catalog, storage):
        for pair in pc.value_counts(table["format"]).to_pylist():
            name = pair["values"] or "other"
            counts[name] = counts.get(name, 0) + pair["counts"]
    return counts
