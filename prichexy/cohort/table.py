"""The training table: Parquet parts of decoded images at one size, with patient, findings and split. Private.

It holds real radiographs, their file names and their patients' identifiers as the labels give them (keyed pseudonyms
only where `prepare` was given the project secret; its plan names source files even then), so it belongs where the
originals may be.

Any Parquet reader opens it, and ours reads the pixels without decoding: a part is one row group whose pixel column is
uncompressed, plainly encoded, without nulls, in one page, so that its images lie in the file as one (rows, size, size)
array of bytes. The part's record says where; the writer proved it. A table of 112,120 images at 256 x 256 (7.3 GB) is
thus memory-mapped: opening it reads the small columns only, and what is looked at is page cache that the kernel takes
back when memory is short. Rows of a split are in order of image name.

    _table.json                the facts, written last: a table without them is unfinished
    _plan.parquet, _prepare.json, _parts/    what `prepare` goes on from
    data/train-00000.parquet   one part: rows of one split
"""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from prichexy.cohort.pairs import same_patient_pairs
from prichexy.cohort.splits import SPLITS
from prichexy.config import StorageConfig
from prichexy.errors import PrichexyError, StorageFault, UsageError
from prichexy.findings import FINDINGS
from prichexy.lake.storage import Store

FACTS_FILE = "_table.json"
FORMAT_VERSION = 1
UNKNOWN_FOLLOW_UP = -1

Images = NDArray[np.uint8]


def table_schema(size: int) -> pa.Schema:
    """Columns of a table of `size` x `size` images: names, 14 boolean findings in the field's order, split, pixels."""
    return pa.schema(
        [
            pa.field("image_name", pa.string(), nullable=False),
            pa.field("patient_id", pa.string(), nullable=False),
            pa.field("follow_up", pa.int32()),
            *(pa.field(finding, pa.bool_(), nullable=False) for finding in FINDINGS),
            pa.field("split", pa.string(), nullable=False),
            pa.field("pixels", pa.binary(size * size), nullable=False),
        ]
    )


@dataclass(frozen=True, slots=True)
class PartFacts:
    """One part: its file below the table (rows 0: there is none) and where in it the pixels begin.

    Attributes:
        part: its number in the plan.
        split: the split that all its rows belong to.
        path: below the table's place.
        rows: images.
        bytes: of the file.
        pixels_offset: byte of the file at which the (rows, size, size) array begins.
        content: SHA-256 over names, patients, findings, split and pixels, whatever wrote the Parquet.
        quarantined: image_name, stage and reason of each image that could not be decoded.
    """

    part: int
    split: str
    path: str
    rows: int
    bytes: int
    pixels_offset: int
    content: str
    quarantined: tuple[dict[str, str], ...] = ()

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Self:
        """From a JSON object."""
        return cls(**{**facts, "quarantined": tuple(facts["quarantined"])})


@dataclass(frozen=True, slots=True)
class TableFacts:
    """What `_table.json` says.

    Attributes:
        size: edge of the images in pixels.
        rows: images in all.
        counts: images of each split.
        patients: patients of each split.
        fingerprint: SHA-256 over the parts' contents: the same data has the same, wherever it lies.
        seed: of the splits.
        splits: how they were made: ``fractions`` of patients, and whether official ``lists`` were given.
        pseudonyms: id of the key of names and patients, or None where they are the labels' own.
        quarantined: image_name, stage and reason of each image that could not be decoded.
        parts: in order of split and name.
        format_version: of this description.
    """

    size: int
    rows: int
    counts: dict[str, int]
    patients: dict[str, int]
    fingerprint: str
    seed: int
    splits: dict[str, Any]
    pseudonyms: str | None
    quarantined: tuple[dict[str, str], ...]
    parts: tuple[PartFacts, ...]
    format_version: int = FORMAT_VERSION

    def to_json(self) -> bytes:
        """The facts file."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """From the facts file."""
        facts = json.loads(text)
        if facts.get("format_version") != FORMAT_VERSION:
            raise UsageError("the training table was made by another version of prichexy: prepare it anew")
        parts = tuple(PartFacts.from_facts(part) for part in facts["parts"])
        return cls(**{**facts, "parts": parts, "quarantined": tuple(facts["quarantined"])})


def fingerprint(parts: Sequence[PartFacts]) -> str:
    """Fingerprint of a table's data, from its parts in order."""
    return sha256("".join(part.content for part in parts if part.rows).encode()).hexdigest()


def write_part(
    store: Store, number: int, split: str, path: str, rows: pa.Table, pixels_NHW: Images, quarantined: Sequence[Any]
) -> PartFacts:
    """Write one part's file.

    Args:
        store: the table's place.
        number: the part's number in the plan.
        split: the split of all rows.
        path: of the file, below the table's place.
        rows: N rows: image_name, patient_id, follow_up, findings (lists of names).
        pixels_NHW: (N, size, size) grey levels.
        quarantined: see `PartFacts`.

    Returns:
        Its facts; with no rows there is no file.

    Raises:
        PrichexyError: the Parquet library did not lay the pixels out as asked; nothing was written.
        StorageFault: the store failed.
    """
    if not len(rows):
        return PartFacts(number, split, path, 0, 0, 0, "", tuple(quarantined))
    count, size = pixels_NHW.shape[:2]
    pixels = np.ascontiguousarray(pixels_NHW)
    findings = [set(named) for named in rows["findings"].to_pylist()]
    columns: dict[str, Any] = {name: rows[name] for name in ("image_name", "patient_id", "follow_up")}
    columns |= {finding: pa.array([finding in named for named in findings]) for finding in FINDINGS}
    columns["split"] = pa.array([split] * count)
    columns["pixels"] = pa.Array.from_buffers(pa.binary(size * size), count, [None, pa.py_buffer(pixels)])
    content = sha256(pixels.data.cast("B"))
    for name in ("image_name", "patient_id", *FINDINGS, "split"):
        content.update("\n".join(map(str, columns[name].to_pylist())).encode("utf-8", "surrogatepass"))
    data, offset = _parquet(pa.table(columns, schema=table_schema(size)), pixels)
    store.write(path, data)
    return PartFacts(number, split, path, count, len(data), offset, content.hexdigest(), tuple(quarantined))


class SplitRows:
    """The images of one split, N rows; nothing of the pixels is read before it is asked for.

    Attributes:
        names: (N,) file names.
        patients: (N,) patients.
        findings: (N, 14) booleans, columns as `FINDINGS`.
        follow_ups: (N,) int32, -1 where unknown.
    """

    def __init__(self, size: int, files: Sequence[Path], parts: Sequence[PartFacts], rows: pa.Table) -> None:
        """Over local part files; `rows` holds every column but the pixels."""
        self.size = size
        self.names = np.asarray(rows["image_name"].to_pylist(), dtype=np.str_)
        self.patients = np.asarray(rows["patient_id"].to_pylist(), dtype=np.str_)
        self.follow_ups = rows["follow_up"].fill_null(UNKNOWN_FOLLOW_UP).to_numpy().astype(np.int32)
        self.findings = np.stack([rows[finding].to_numpy() for finding in FINDINGS], axis=1).astype(np.bool_)
        self._files, self._parts = list(files), list(parts)
        self._starts = np.cumsum([0, *(part.rows for part in parts)])
        self._maps: dict[int, Images] = {}

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # another process maps the files itself; a copy would be all pixels

    def image(self, row: int) -> Images:
        """One image, (size, size): a read-only view of the file."""
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        view: Images = self._mapped(part)[row - self._starts[part]]
        return view

    def images(self, rows: Sequence[int] | NDArray[Any] | slice) -> Images:
        """Some images, (n, size, size), in the order asked for: a copy of those rows only."""
        wanted = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError("a row is outside the split")
        out = np.empty((len(wanted), self.size, self.size), dtype=np.uint8)
        parts = np.searchsorted(self._starts, wanted, side="right") - 1
        for part in np.unique(parts):
            here = parts == part
            out[here] = self._mapped(int(part))[wanted[here] - self._starts[part]]
        return out

    def _mapped(self, part: int) -> Images:
        if part not in self._maps:
            facts = self._parts[part]
            shape = (facts.rows, self.size, self.size)
            self._maps[part] = np.memmap(self._files[part], np.uint8, "r", facts.pixels_offset, shape)
        return self._maps[part]


@dataclass(frozen=True)
class TrainingTable:
    """A finished training table.

    Attributes:
        store: its place.
        facts: what it holds.
        cache: where the parts of a table in object storage are copied to when a split is first used.
    """

    store: Store
    facts: TableFacts
    cache: Path | None = None

    def split(self, name: str) -> SplitRows:
        """The rows of ``train``, ``validation`` or ``test``.

        Raises:
            UsageError: there is no such split, or it has no image.
            StorageFault: a part is missing or has another length than its record says.
        """
        if name not in SPLITS:
            raise UsageError(f"there is no split '{name}': the splits are {', '.join(SPLITS)}")
        parts = [part for part in self.facts.parts if part.split == name and part.rows]
        if not parts:
            raise UsageError(f"the {name} split of the training table has no image")
        files = [self._local(part) for part in parts]
        columns = [field.name for field in table_schema(self.facts.size) if field.name not in ("split", "pixels")]
        rows = pa.concat_tables(pq.ParquetFile(file).read(columns) for file in files)
        return SplitRows(self.facts.size, files, parts, rows)

    def check(self, workers: int, needed: Sequence[str] = ("train", "validation"), pairs: bool = False) -> None:
        """Refuse what training could not work with, before a worker starts.

        Args:
            workers: how many share each split.
            needed: the splits that are used.
            pairs: whether pairs are drawn from them.

        Raises:
            UsageError: a split has fewer images than there are workers, or no same-patient pair.
        """
        for name in needed:
            images = self.facts.counts.get(name, 0)
            if images < workers:
                raise UsageError(
                    f"the {name} split has {images} images for {workers} workers: use at most {images} workers, "
                    "or prepare a larger table"
                )
            if pairs and not same_patient_pairs(self.split(name).patients):
                raise UsageError(f"there is no same-patient pair: no patient of the {name} split has two images")

    def _local(self, part: PartFacts) -> Path:
        """The part's file on this machine, of the length that its record says."""
        if self.store.is_local:
            file = Path(self.store.root) / part.path
        else:
            assert self.cache is not None
            file = self.cache / f"{part.content}.parquet"
            if not file.exists():
                Store(str(self.cache.absolute())).write(file.name, self.store.read(part.path))
        if not file.is_file() or file.stat().st_size != part.bytes:
            raise StorageFault("a part of the training table is missing or damaged: remove the table, prepare it anew")
        return file


def open_table(uri: str, storage: StorageConfig, cache: Path | None = None) -> TrainingTable:
    """A finished training table.

    Args:
        uri: its place.
        storage: how object storage is reached.
        cache: a private local folder for the parts; needed where the table is in object storage.

    Raises:
        UsageError: there is no finished table, it is of another version, or the cache is missing.
    """
    store = Store(uri, storage)
    try:
        facts = TableFacts.from_json(store.read(FACTS_FILE))
    except FileNotFoundError:
        raise UsageError(f"there is no finished training table at {uri}: run `prichexy prepare`") from None
    if not store.is_local and cache is None:
        raise UsageError("a training table in object storage needs a private local folder for its parts: set a cache")
    return TrainingTable(store, facts, cache)


def _parquet(table: pa.Table, pixels: Images) -> tuple[bytes, int]:
    """The file of a part, and the byte at which its pixels begin."""
    others = [name for name in table.column_names if name != "pixels"]
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        row_group_size=len(table),
        data_page_size=pixels.nbytes + 1,
        compression={**dict.fromkeys(others, "zstd"), "pixels": "none"},
        use_dictionary=["patient_id", "split"],
        write_statistics=others,
        data_page_version="1.0",
    )
    data = buffer.getvalue()
    column = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(len(others))
    offset = column.data_page_offset + column.total_compressed_size - pixels.nbytes
    if memoryview(data)[offset : offset + pixels.nbytes] != pixels.data.cast("B"):
        raise PrichexyError("this version of pyarrow does not write a part's pixels as one page: use another one")
    return data, int(offset)
