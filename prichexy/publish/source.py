"""A finished publication as the documents need it: the newest snapshot's live files, how they were made, what is left.

The only module here that knows how manifests and destinations are laid out.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prichexy.errors import PrichexyError, StorageFault
from prichexy.lake import layout
from prichexy.lake.commit import FileFacts
from prichexy.lake.job import Job
from prichexy.lake.shards import DICOM_FILE, digest
from prichexy.lake.snapshots import columns_of, jobs_of, read_manifest, shards_of
from prichexy.lake.storage import Store

T = TypeVar("T")

CARD_FILES = layout.CARD_FILES
README, CROISSANT, LICENSE, SPLITS, PAGE, SHA256SUMS = CARD_FILES

_FOLDERS = (layout.DATA, layout.QUARANTINE, layout.DICOM)


@dataclass(frozen=True)
class Making:
    """How some of the rows were made; increments made alike are one.

    Attributes:
        model: ``NAME/VERSION``, as in the column `model_version`.
        name: of the model; ``local`` for one that was in no registry.
        version: of the model.
        fingerprint: of its weights and settings.
        settings: its obfuscation settings.
        audited: whether the job was allowed by a passing audit.
        audit_id: which; ``unaudited`` where there is none.
        resolution: ``native`` or ``256``.
        deid: settings of de-identification.
        columns: what was published of DICOM headers.
        transfer_syntax: of the DICOM files; "" where there are none.
    """

    model: str
    name: str
    version: str
    fingerprint: str
    settings: dict[str, Any]
    audited: bool
    audit_id: str
    resolution: str
    deid: dict[str, Any]
    columns: tuple[str, ...]
    transfer_syntax: str


@dataclass(frozen=True)
class Publication:
    """The newest snapshot of a finished publication.

    Attributes:
        store: where it is.
        snapshot: its number, from 1.
        finished: when, ISO 8601.
        manifest: its manifest file; `rows` is 0.
        success: the file that makes it valid; `rows` is 0.
        data: live data files, in the manifest's order.
        quarantine: live quarantine files.
        makings: how the rows were made, oldest first.
        quarantined: files set aside, by reason.
        text_covered: published images in which text was covered.
        schema: columns of the data files.
        encoding: of their images, a key of `prichexy.imaging.ENCODINGS`.
    """

    store: Store
    snapshot: int
    finished: str
    manifest: FileFacts
    success: FileFacts
    data: tuple[FileFacts, ...]
    quarantine: tuple[FileFacts, ...]
    makings: tuple[Making, ...]
    quarantined: dict[str, int]
    text_covered: int
    schema: pa.Schema
    encoding: str

    @property
    def images(self) -> int:
        """Published images."""
        return sum(file.rows for file in self.data)

    @property
    def size(self) -> int:
        """Of the data files, in bytes."""
        return sum(file.bytes for file in self.data)

    @cached_property
    def dead_files(self) -> tuple[str, ...]:
        """Files of older snapshots that are still there, though this one does not name them.

        Files of a snapshot that is being made are not among them.
        """
        live = {file.path for file in (*self.data, *self.quarantine)} | set(self.dicom)
        there = [item.path for folder in _FOLDERS for item in self.store.list(folder)]
        return tuple(
            sorted(path for path in there if path not in live and (layout.snapshot_of(path) or 0) <= self.snapshot)
        )

    @cached_property
    def data_patterns(self) -> list[str]:
        """The live data files for a reader: one pattern where all files in the folder are live, else each by name."""
        live = {file.path for file in self.data}
        if all(item.path in live for item in self.store.list(layout.DATA)):
            return [f"{layout.DATA}/*.parquet"]
        return [file.path for file in self.data]

    @cached_property
    def dicom(self) -> tuple[str, ...]:
        """The live DICOM files, as the rows name them; sorted."""
        if DICOM_FILE.name not in self.schema.names:
            return ()
        tables = self.tables([DICOM_FILE.name])
        return tuple(sorted(path for table in tables for path in pc.drop_null(table[DICOM_FILE.name]).to_pylist()))

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The named columns of each data file, in order; of no other column a byte is asked for.

        Raises:
            StorageFault: a file can't be read.
        """
        # A few files ahead of the reader, so that memory does not grow with the publication.
        ahead = 2 * self.store.options.connections
        with ThreadPoolExecutor(self.store.options.connections) as pool:
            for first in range(0, len(self.data), ahead):
                some = self.data[first : first + ahead]
                yield from pool.map(lambda file: self._kept(lambda: columns_of(self.store, file.path, columns)), some)

    def image(self, file: FileFacts, row: int) -> bytes:
        """The image of one row of a data file, as it was encoded.

        Raises:
            StorageFault: the file can't be read.
        """

        def get() -> bytes:
            with self.store.opened(file.path) as opened:
                parquet = pq.ParquetFile(opened, pre_buffer=True)
                first = 0
                for group in range(parquet.num_row_groups):
                    rows = parquet.metadata.row_group(group).num_rows
                    if row < first + rows:
                        images = parquet.read_row_group(group, columns=["image"])["image"]
                        return bytes(images[row - first]["bytes"].as_py())
                    first += rows
            raise IndexError(row)

        return self._kept(lambda: self.store.retried("read from", get))

    def _kept(self, get: Callable[[], T]) -> T:
        """What is read of a data file, which has to be there."""
        try:
            return get()
        except FileNotFoundError:
            raise StorageFault(f"{self.store.uri} lost a data file: run `prichexy verify`") from None


def read_publication(store: Store) -> Publication:
    """The newest snapshot of a destination.

    Raises:
        PrichexyError: there is no finished publication, or it holds no image.
        StorageFault: the destination can't be read.
    """
    store.check_readable()
    manifest = read_manifest(store)
    if manifest is None:
        raise PrichexyError(f"{store.uri} is not finished: run `prichexy anonymize` to its end first")
    jobs, shards = jobs_of(manifest), shards_of(manifest)
    path = layout.manifest_path(manifest["snapshot"])
    publication = Publication(
        store=store,
        snapshot=int(manifest["snapshot"]),
        finished=str(manifest["finished"]),
        manifest=_small_file(path, store.read(path)),
        success=_small_file(layout.SUCCESS, store.read(layout.SUCCESS)),
        data=tuple(shard.data for shard in shards if shard.data),
        quarantine=tuple(shard.quarantine for shard in shards if shard.quarantine),
        makings=_distinct([_making(job) for job in jobs]),
        quarantined={str(reason): int(count) for reason, count in manifest["quarantined"].items()},
        text_covered=int(manifest["counts"]["text_covered"]),
        schema=jobs[-1].schema,
        encoding=jobs[-1].encoding,  # which all have in common
    )
    if not publication.images:
        raise PrichexyError(f"{store.uri} holds no published image: there is nothing to describe")
    return publication


def _making(job: Job) -> Making:
    return Making(
        model=job.model_version,
        name=str(job.model["name"]),
        version=str(job.model["version"]),
        fingerprint=str(job.model["fingerprint"]),
        settings=dict(job.model["settings"]),
        audited=job.audited,
        audit_id=job.audit_id,
        resolution=job.resolution,
        deid=dict(job.deid),
        columns=tuple(job.columns),
        transfer_syntax=job.transfer_syntax,
    )


def _distinct(makings: Sequence[Making]) -> tuple[Making, ...]:
    return tuple(making for place, making in enumerate(makings) if making not in makings[:place])


def _small_file(path: str, data: bytes) -> FileFacts:
    return FileFacts(path, 0, len(data), digest(data))
