"""Finished publications, made with the functions that the job uses, without Ray and without a model."""

import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from prichexy.imaging import decode_published, encode_jpegxl, encode_png
from prichexy.lake.commit import commit_shard
from prichexy.lake.job import Job, claim
from prichexy.lake.shards import UNAUDITED
from prichexy.lake.snapshots import finish
from prichexy.lake.storage import Store

DEID = {
    "burned_in_text": "redact",
    "full_resolution": False,
    "modified_dates": True,
    "patient_characteristics": True,
    "device_identity": False,
    "safe_private": [],
}
MODEL = {"name": "net", "version": "3", "fingerprint": "ab" * 32, "settings": {"kind": "identity"}}


def name(kind: str, number: int) -> str:
    """A pseudonym."""
    return f"{zlib.crc32(f'{kind}{number}'.encode()):032x}"


def image_id(row: int) -> str:
    return name("image", row)


def job(rows: int = 40, rows_per_shard: int = 16, **more: Any) -> Job:
    """A job of 40 rows in three shards, or as said."""
    plain = Job(rows, rows_per_shard, "native", 4, {}, "source", "catalog", "key", MODEL, audited=False)
    return replace(plain, deid=DEID, columns=["patient_sex", "patient_age"], **more)


def png(row: int, side: int, depth: int = 8) -> bytes:
    """Noise, which no compression makes small."""
    random = np.random.default_rng(row)
    if depth == 8:
        return encode_png(random.integers(0, 256, (side, side), np.uint8), 8)
    return encode_png(random.integers(0, 1 << depth, (side, side), np.uint16), depth)


def row(number: int, side: int) -> dict[str, Any]:
    """Two images a patient; every ninth has 12 bits and names no patient; three findings, one of them rare."""
    patient = number // 2
    depth = 12 if number % 9 == 8 else 8
    findings = [["Effusion"], [], ["Mass", "Effusion"], None][number % 4]
    if number == 4:
        findings = ["Hernia"]
    return {
        "image_id": image_id(number),
        "patient_id": None if number % 9 == 8 else name("patient", patient),
        "image": {"bytes": png(number, side, depth), "path": f"{image_id(number)}.png"},
        "width": side,
        "height": side,
        "bit_depth": depth,
        "view": ["PA", "AP"][number % 2] if number != 6 else "LL",
        "laterality": None,
        "findings": findings,
        "patient_sex": ["F", "M"][patient % 2],
        "patient_age": 20 + 3 * patient,
    }


def as_jpegxl(image: dict[str, Any]) -> dict[str, Any]:
    """A row's image with the same pixels as JPEG XL."""
    radiograph = decode_published(image["bytes"])
    name = str(image["path"]).replace(".png", ".jxl")
    return {"bytes": encode_jpegxl(radiograph.pixels, radiograph.bit_depth), "path": name}


def rows(the_job: Job, start: int, stop: int, bad: tuple[int, ...] = (), side: int = 64) -> pa.Table:
    """The rows of a shard, as the job's last stage hands them over."""
    made: list[dict[str, Any]] = []
    for number in range(start, stop):
        if number in bad:
            made.append(
                {"image_id": image_id(number), "stage": "decode", "reason": "Truncated", "message": "cut short"}
            )
        else:
            made.append({**row(number, side), "covered": number % 3 == 0})
            if the_job.encoding == "jpeg-xl":
                made[-1]["image"] = as_jpegxl(made[-1]["image"])
        made[-1] |= {"row_id": number, "model_version": f"{the_job.model['name']}/{the_job.model['version']}"}
    facts = [pa.field("row_id", pa.int64()), *(pa.field(text, pa.string()) for text in ("stage", "reason", "message"))]
    schema = pa.schema([*the_job.schema, *facts, pa.field("covered", pa.bool_())])
    return pa.Table.from_pylist(made, schema)


def published(root: Path | str, the_job: Job | None = None, bad: tuple[int, ...] = (), side: int = 64) -> Store:
    """A finished publication of 40 images, or of as many as the job says."""
    store, the_job = Store(str(root)), the_job or job()
    claim(store, the_job)
    for shard in range(the_job.shards):
        commit_shard(store, the_job, shard, rows(the_job, *the_job.span(shard), bad, side))
    finish(store, the_job)
    return store


def audited(the_job: Job, identifier: str, fingerprint: str, model: str, version: str, settings: dict[str, Any]) -> Job:
    """The same job, allowed by an audit."""
    described = {"name": model, "version": version, "fingerprint": fingerprint, "settings": settings}
    return replace(the_job, model=described, audited=identifier != UNAUDITED, audit_id=identifier)
