"""The stages behind `ingest`: obfuscate -> encode -> publish.

Where GPUs obfuscate, encode has workers of its own. Without, an actor does all that an image needs, ingest included
(`FromPixelsToFile`): pixels leave no process, and cores have equal shares of the work.

Between stages travel Arrow tables. A row that can't be published keeps its `row_id`, gets stage, reason and message,
and travels on without pixels, so that at the end each row of the catalog is in exactly one shard row or one
quarantine row.

Torch is imported where it is used: encode and publish have workers of their own, which need none and would start more
slowly for it.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from prichexy.anonymize.metrics import WatchedStore, batched, committed, timed
from prichexy.anonymize.spent import carrying, spent_on
from prichexy.anonymize.work import ENCODED, FACTS, OBFUSCATED, Row, Work, grey_levels, guarded, pseudonyms, set_aside
from prichexy.deid import dicom_bytes, read_header
from prichexy.errors import Quarantined
from prichexy.imaging import ENCODINGS
from prichexy.imaging.radiograph import Pixels
from prichexy.lake.commit import commit_shard
from prichexy.lake.dicom_files import write_dicom
from prichexy.lake.link import write_links

Encode = Callable[..., pa.Table]


class Obfuscate:
    """The generator in an actor: the model is loaded once, then chunks pass through it."""

    @guarded("load model")
    def __init__(self, model: "list[ray.ObjectRef[bytes]]", work: Work) -> None:
        """Load the model (a reference to its bytes) onto this worker's GPU, or one thread of its CPU."""
        import torch

        from prichexy.obfuscation import from_bytes
        from prichexy.obfuscation.allocation import keep_memory

        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        keep_memory()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.obfuscator = from_bytes(ray.get(model[0]), self.device)
        self.work = work
        self.pseudonyms = pseudonyms(work.secret_file)

    @guarded("obfuscate")
    @carrying
    @timed("obfuscate")
    def __call__(self, table: pa.Table) -> pa.Table:
        """`INGESTED` -> `OBFUSCATED`: the same rows, their pixels obfuscated."""
        rows = table.select([*FACTS.names, "header"]).to_pylist()
        good = [number for number, row in enumerate(rows) if row["reason"] is None]
        for number, pixels in zip(good, self._obfuscated(table, rows, good), strict=True):
            if pixels is None:
                error = Quarantined("obfuscate", "NotFinite", "the model's output holds values that are no numbers")
                rows[number] = set_aside(rows[number], error)
            else:
                rows[number]["pixels"] = pixels.tobytes()
        return pa.Table.from_pylist(rows, OBFUSCATED)

    def _obfuscated(self, table: pa.Table, rows: list[Row], good: list[int]) -> Iterator[Pixels | None]:
        """Grey levels of the rows that have pixels, one image at a time; None where the model gave no numbers."""
        import torch

        from prichexy.obfuscation import obfuscate_levels

        if not good:
            return
        batched(len(good))
        size, pixels, thumbnails = self.work.network_size, table["pixels"], table["thumbnail"]
        seeds_N = torch.tensor([self.pseudonyms.noise_seed(rows[n]["image_id"]) for n in good], dtype=torch.int64)
        images = (grey_levels(pixels[n].as_buffer(), rows[n], rows[n]["height"], rows[n]["width"]) for n in good)
        small = (
            [grey_levels(thumbnails[n].as_buffer(), rows[n], size, size) for n in good]
            if self.work.needs_thumbnail
            else None
        )
        depths = [rows[n]["bit_depth"] for n in good]
        with torch.inference_mode():
            yield from obfuscate_levels(self.obfuscator, images, depths, seeds_N, small, self.device)


@guarded("encode")
@carrying
@timed("encode")
def encode(table: pa.Table, work: Work, tally: Any) -> pa.Table:
    """`OBFUSCATED` -> `ENCODED`: pixels become images of the job's encoding, and DICOM files where they are asked for;
    tells the tally (an actor) how many rows came through, and for how many seconds a worker has had them in hand.
    """
    began = time.perf_counter()
    encoding = ENCODINGS[work.job.encoding]
    rows = table.select([*FACTS.names, "header"]).to_pylist()
    with ThreadPoolExecutor(work.storage.connections) as pool:
        waiting = []
        for number, row in enumerate(rows):
            row["model_version"] = work.model_version
            if row["reason"] is not None:
                continue
            pixels = grey_levels(table["pixels"][number].as_buffer(), row, row["height"], row["width"])
            name = f"{row['image_id']}{encoding.suffix}"
            row["image"] = {"bytes": encoding.encode(pixels, row["bit_depth"]), "path": name}
            if row["header"] is not None:
                try:
                    file = _dicom(row, pixels, work)
                except Quarantined as error:
                    rows[number] = set_aside(row, error) | {"model_version": work.model_version}
                else:
                    waiting.append((row, pool.submit(_put_dicom, row, file, work)))
        for row, written in waiting:
            row |= written.result()
    before = sum(part.waited if part.stage == "fetch" else part.seconds for part in spent_on(table))
    tally.add.remote(len(rows), before + time.perf_counter() - began)
    return pa.Table.from_pylist(rows, ENCODED)


class FromPixelsToFile:
    """Obfuscate, then encode, in one actor."""

    def __init__(
        self, obfuscate: type[Obfuscate], encode: Encode, model: "list[ray.ObjectRef[bytes]]", work: Work, tally: Any
    ) -> None:
        """As the stages are made, or called, one by one."""
        self._obfuscate, self._encode = obfuscate(model, work), encode
        self._told = work, tally

    def __call__(self, table: pa.Table) -> pa.Table:
        """`INGESTED` -> `ENCODED`."""
        return self._encode(self._obfuscate(table), *self._told)


def _dicom(row: Row, pixels: "np.ndarray[Any, Any]", work: Work) -> bytes:
    return dicom_bytes(
        read_header(row["header"]),
        pixels,
        row["bit_depth"],
        work.transfer_syntax,
        derivation=f"Anatomy obfuscated by prichexy, model {work.model_version}",
    )


def _put_dicom(row: Row, file: bytes, work: Work) -> Row:
    shard = row["row_id"] // work.job.rows_per_shard
    written = write_dicom(WatchedStore(work.destination, work.storage), work.job.snapshot, shard, row["image_id"], file)
    return {"dicom": written.path, "dicom_sha256": written.sha256, "dicom_bytes": written.bytes}


@guarded("publish")
@carrying
@timed("publish")
def publish(table: pa.Table, work: Work) -> pa.Table:
    """Write and commit the shard that these rows are, its link rows first; yields one row of its figures, with
    what all stages took for it.
    """
    shard = min(table["row_id"].to_pylist()) // work.job.rows_per_shard
    if work.link_table is not None:
        published = table.filter(pc.is_null(table["reason"]))
        sealed = published["link"].to_pylist()
        write_links(WatchedStore(work.link_table, work.storage), work.job.snapshot, shard, sealed)
    commit = commit_shard(WatchedStore(work.destination, work.storage), work.job, shard, table)
    committed(commit)
    return pa.table(
        {
            "shard": [shard],
            "published": [commit.published],
            "quarantined": [commit.quarantined],
            "bytes": [commit.data.bytes if commit.data else 0],
        }
    )
