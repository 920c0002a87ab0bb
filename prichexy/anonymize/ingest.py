"""The first stage: fetch, decode, de-identify.

Source bytes are fetched, decoded and de-identified within one task on purpose: they hold header values, and what
crosses between tasks may be spilled to a disk by Ray. Pixels that are not obfuscated yet do cross where GPUs obfuscate
(README, "On a cluster", says what to mind).
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from prichexy.anonymize.work import INGESTED, SMALL, Row, Work, guarded, pseudonyms, quarantined
from prichexy.cohort.catalog import read_rows
from prichexy.deid import LinkRow, Pseudonyms, deidentify, header_bytes, published_columns, read_header
from prichexy.deid.burned_in import clean
from prichexy.errors import Quarantined
from prichexy.imaging import Radiograph, decode, resize
from prichexy.imaging.radiograph import Pixels
from prichexy.lake.source import read_source
from prichexy.lake.storage import Store


@guarded("ingest")
def ingest(number: pa.Table, spans: "np.ndarray[Any, np.dtype[np.int64]]", work: Work) -> pa.Table:
    """Fetch, decode and de-identify the catalog rows of one span.

    Args:
        number: one row, `id`: which span.
        spans: (spans, 2): the rows [start, stop) that travel together.
        work: what every worker needs to know.

    Returns:
        An `INGESTED` table, rows in catalog order.

    Raises:
        StorageFault: the lake failed; never one image's fault.
    """
    source = Store(work.catalog.root, work.storage)
    keys = pseudonyms(work.secret_file)
    start, stop = spans[number["id"][0].as_py()].tolist()
    listed = read_rows(work.catalog, work.storage, start, stop).to_pylist()
    with ThreadPoolExecutor(work.storage.connections) as pool:
        fetched = pool.map(lambda row: _fetched(source, row, work), listed)
        rows = [_ingested(row, data, keys, work) for row, data in zip(listed, fetched, strict=True)]
    return pa.Table.from_pylist(rows, INGESTED)


def _fetched(source: Store, row: Row, work: Work) -> bytes | Quarantined:
    where = f"row {row['row_id']} of the catalog"
    return read_source(source, row["uri"], row["size"], work.limits.max_bytes, where, work.allow_missing)


def _ingested(row: Row, data: bytes | Quarantined, keys: Pseudonyms, work: Work) -> Row:
    facts = {"row_id": row["row_id"], "image_id": keys.image_id(row["uri"])}
    try:
        if isinstance(data, Quarantined):
            raise data
        radiograph = decode(data, work.limits)
        levels, covered = _without_text(radiograph, work)
        facts |= _identity(row, facts["image_id"], data, radiograph, keys, work)
    except Quarantined as error:
        return {name: facts[name] for name in ("row_id", "image_id")} | quarantined(error)
    native = work.job.resolution == "native"
    pixels = levels if native else resize(levels, SMALL, SMALL)
    thumbnail = resize(levels, work.network_size, work.network_size) if work.needs_thumbnail else None
    return facts | {
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
