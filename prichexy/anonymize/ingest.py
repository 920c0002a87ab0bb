"""The first stage: fetch, decode, de-identify.

Source bytes are fetched, decoded and de-identified within one task on purpose: they hold header values, and what
crosses between tasks may be spilled to a disk by Ray. Pixels that are not obfuscated yet do cross where GPUs obfuscate
(README, "On a cluster", says what to mind).

A file may kill the process that decodes it. The worker is gone then, Ray gives the task to another, and that one works
carefully: each file in a child process (`careful`), until the culprit is found and set aside. The other rows come out
the same either way.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import ray

from prichexy.anonymize.careful import Careful, bounded, out_of_memory
from prichexy.anonymize.metrics import WatchedStore, fetched, timed
from prichexy.anonymize.spent import carrying, ledger
from prichexy.anonymize.work import INGESTED, SMALL, Row, Work, guarded, pseudonyms, set_aside
from prichexy.cohort.catalog import read_rows
from prichexy.deid import LinkRow, Pseudonyms, deidentify, header_bytes, published_columns, read_header
from prichexy.deid.burned_in import clean
from prichexy.errors import Quarantined
from prichexy.imaging import Radiograph, decode, resize
from prichexy.imaging.radiograph import Pixels
from prichexy.lake.listing import StoredObject
from prichexy.lake.source import read_source
from prichexy.lake.storage import Store
from prichexy.lake.withdrawal import is_withdrawn

HELD_BYTES = 256 << 20
"""Source files that a worker holds at a time: a chunk of large ones is fetched in several loads."""


@guarded("ingest")
@carrying
def ingest(number: pa.Table, spans: "np.ndarray[Any, np.dtype[np.int64]]", work: Work) -> pa.Table:
    """Fetch, decode and de-identify the catalog rows of one span.

    Args:
        number: one row, `id`: which span.
        spans: (spans, 2): the rows [start, stop) that travel together.
        work: what every worker needs to know.

    Returns:
        An `INGESTED` table, rows in catalog order; its `spent` tells of fetch and decode.

    Raises:
        StorageFault: the lake failed; never one image's fault.
    """
    cv2.setNumThreads(1)
    source = WatchedStore(work.catalog.root, work.storage)
    keys = pseudonyms(work.secret_file)
    start, stop = spans[number["id"][0].as_py()].tolist()
    with ledger.remainder("fetch"):
        with ledger.waiting():
            listed = read_rows(work.catalog, work.storage, start, stop).to_pylist()
        rows = None if _begun_before() else _together(source, listed, keys, work)
        return pa.Table.from_pylist(_carefully(source, listed, work) if rows is None else rows, INGESTED)


def _begun_before() -> bool:
    """Whether Ray gives this task out again: the worker that had it died, or the node that held its result."""
    if not ray.is_initialized():
        return False
    # Ray has no public name for it. (A journal in an actor would cost each task a call, for which Ray lends its core.)
    attempt: int = ray._private.worker.global_worker.core_worker.get_current_task_attempt_number()
    return attempt > 0


def _together(source: Store, listed: list[Row], keys: Pseudonyms, work: Work) -> list[Row] | None:
    """The rows, their files fetched beside each other; None where memory does not hold so many."""
    try:
        with ThreadPoolExecutor(work.storage.connections) as pool:
            rows = []
            for load in loads(listed):
                files = _awaited(pool.map(lambda row: _fetched(source, row, work), load))
                rows += [_bounded(row, data, keys, work) for row, data in zip(load, files, strict=True)]
            return rows
    except MemoryError:
        return None


def loads(listed: list[Row]) -> Iterator[list[Row]]:
    """The rows in their order, in loads whose files have `HELD_BYTES` together at most, or are one."""
    load: list[Row] = []
    held = 0
    for row in listed:
        if load and held + row["size"] > HELD_BYTES:
            yield load
            load, held = [], 0
        load.append(row)
        held += row["size"]
    if load:
        yield load


def _awaited(files: Iterator[bytes | Quarantined]) -> Iterator[bytes | Quarantined]:
    """The files as they come; what passes until the next one is there is waiting."""
    while True:
        with ledger.waiting():
            try:
                data = next(files)
            except StopIteration:
                return
        yield data


@timed("decode")
def _bounded(row: Row, data: bytes | Quarantined, keys: Pseudonyms, work: Work) -> Row:
    with bounded(work.job.limits["memory"], work.job.limits["seconds"]):
        return _ingested(row, data, keys, work)


def _carefully(source: Store, listed: list[Row], work: Work) -> list[Row]:
    """The rows, one file at a time in memory, each decoded and de-identified in a child process."""
    rows = []
    with Careful(ingested_alone, work.job.limits["memory"], work.job.limits["seconds"]) as careful:
        for row in listed:
            try:
                with ledger.waiting():
                    data = _fetched(source, row, work)
                stream = timed("decode")(careful)(row, data, work)
            except Quarantined as error:
                image_id = pseudonyms(work.secret_file).image_id(row["uri"])
                rows.append(set_aside({"row_id": row["row_id"], "image_id": image_id}, error))
            else:
                rows += pa.ipc.open_stream(stream).read_all().to_pylist()
    return rows


def ingested_alone(row: Row, data: bytes | Quarantined, work: Work) -> bytes:
    """One row of `INGESTED` as an Arrow stream, for `Careful` to call in its child.

    Args:
        row: of the catalog.
        data: its file, or why there is none.
        work: what every worker needs to know; the child reads the secret's file itself.
    """
    table = pa.Table.from_pylist([_ingested(row, data, pseudonyms(work.secret_file), work)], INGESTED)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, INGESTED) as stream:
        stream.write_table(table)
    written: bytes = sink.getvalue().to_pybytes()
    return written


@timed("fetch")
def _fetched(source: Store, row: Row, work: Work) -> bytes | Quarantined:
    where = f"row {row['row_id']} of the catalog"
    listed = StoredObject(row["uri"], row["size"], row["etag"])
    data = read_source(source, listed, work.limits.max_bytes, where, work.allow_missing)
    fetched(data)
    return data


def _ingested(row: Row, data: bytes | Quarantined, keys: Pseudonyms, work: Work) -> Row:
    """One row of `INGESTED`: of the file, or of why it is set aside."""
    facts = {"row_id": row["row_id"], "image_id": keys.image_id(row["uri"])}
    try:
        if isinstance(data, Quarantined):
            raise data
        return facts | _decoded(row, facts["image_id"], data, keys, work)
    except Quarantined as error:
        return set_aside(facts, error)
    except MemoryError:
        return set_aside(facts, out_of_memory(work.job.limits["memory"]))


def _decoded(row: Row, image_id: str, data: bytes, keys: Pseudonyms, work: Work) -> Row:
    radiograph = decode(data, work.limits)
    levels, covered = _without_text(radiograph, work)
    native = work.job.resolution == "native"
    pixels = levels if native else resize(levels, SMALL, SMALL)
    thumbnail = resize(levels, work.network_size, work.network_size) if work.needs_thumbnail else None
    return _identity(row, image_id, data, radiograph, keys, work) | {
        "view": radiograph.view,
        "laterality": radiograph.laterality,
        "findings": row["findings"],
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "bit_depth": radiograph.bit_depth,
        "covered": covered,
        "pixels": pixels.tobytes(),
        "thumbnail": None if thumbnail is None else thumbnail.tobytes(),
    }


def _without_text(radiograph: Radiograph, work: Work) -> tuple[Pixels, bool]:
    """The grey levels without burned-in text, and whether any was covered.

    A file that says that it holds such text, in which none is found, is not believed clean.
    """
    settings = work.deid
    cleaned = clean(radiograph.pixels, radiograph.bit_depth, settings.burned_in_text, settings.full_resolution)
    covered = any(region.kind == "text" for region in cleaned.regions)
    if radiograph.declares_text and not covered:
        raise Quarantined(
            "deidentify", "BurnedInText", "the file says that its pixels hold identifying text, and none was found"
        )
    return cleaned.pixels, covered


def _identity(row: Row, image_id: str, data: bytes, radiograph: Radiograph, keys: Pseudonyms, work: Work) -> Row:
    """The patient's pseudonym, and what of the header is published and linked.

    The patient is whom the labels name, else whom the header names, else unknown.
    """
    labelled: str | None = row["patient_id"]
    patient = ("", labelled) if labelled else radiograph.patient_key
    facts: Row = {"patient_id": keys.patient_id(*patient) if patient else None}
    if is_withdrawn(keys, work.withdrawn, image_id, facts["patient_id"]):
        raise Quarantined("deidentify", "Withdrawn", "the image, or its patient, was withdrawn from this destination")
    replaced: dict[str, str] = {}
    if work.needs_header and radiograph.source_format == "dicom":
        header = deidentify(read_header(data), keys, work.profile, patient, replaced)
        columns = published_columns(header, work.profile)
        facts |= {name: columns[name] for name in work.job.columns}
        if work.job.transfer_syntax:
            facts["header"] = header_bytes(header)
    if work.link_recipient is not None:
        issuer, old = patient or (None, None)
        entry = LinkRow(row["uri"], image_id, issuer, old, facts["patient_id"], replaced)
        facts["link"] = work.link_recipient.seal(entry)
    return facts
