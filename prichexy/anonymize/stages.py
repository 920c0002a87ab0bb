"""The way of a radiograph: ingest -> obfuscate -> encode -> publish.

Between stages travel Arrow tables. A row that can't be published keeps its `row_id`, gets stage, reason and message,
and travels on without pixels, so that at the end each row of the catalog is in exactly one shard row or one
quarantine row.

Source bytes are fetched and decoded within one task on purpose: they hold header values, and what crosses between
tasks may be spilled to a disk by Ray. Pixels that are not obfuscated yet do cross where GPUs obfuscate (README,
"On a cluster", says what to mind).
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pyarrow as pa
import ray
import torch

from prichexy.cohort.catalog import Catalog, read_rows
from prichexy.config import StorageConfig
from prichexy.deid import Pseudonyms
from prichexy.errors import PrichexyError, Quarantined
from prichexy.imaging import DecodeLimits, Radiograph, decode, encode_png, from_unit, resize, to_unit
from prichexy.lake.commit import Job, commit_shard
from prichexy.lake.shards import PUBLISHED, QUARANTINE
from prichexy.lake.source import read_source
from prichexy.lake.storage import Store
from prichexy.obfuscation import from_bytes

P = ParamSpec("P")
R = TypeVar("R")

SMALL = 256
"""Side of the images published with ``--resolution 256``, in pixels."""

_FACTS = pa.schema(
    [
        *(PUBLISHED.field(name) for name in ("image_id", "patient_id", "view", "laterality", "findings")),
        *(QUARANTINE.field(name).with_nullable(True) for name in QUARANTINE.names),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("bit_depth", pa.int8()),
    ]
)
INGESTED = pa.schema([*_FACTS, pa.field("pixels", pa.large_binary()), pa.field("thumbnail", pa.binary())])
"""`pixels`: H x W grey levels at publishing resolution; `thumbnail`: the same at the network's, null where that is
equal."""
OBFUSCATED = pa.schema([*_FACTS, pa.field("pixels", pa.large_binary())])
ENCODED = pa.schema([*_FACTS, PUBLISHED.field("image").with_nullable(True), PUBLISHED.field("model_version")])

Row = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What every worker needs to know; it holds the secret's place, never the secret."""

    catalog: Catalog
    storage: StorageConfig
    secret_file: Path
    limits: DecodeLimits
    max_bytes: int
    allow_missing: bool
    network_size: int
    destination: str
    job: Job

    @property
    def model_version(self) -> str:
        """As each published row names it: name/version."""
        return f"{self.job.model['name']}/{self.job.model['version']}"

    @property
    def needs_thumbnail(self) -> bool:
        """Whether the network sees another size than the one that is published."""
        return self.job.resolution == "native" or self.network_size != SMALL


def _guarded(stage: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Errors of a stage reach logs and driver without a library's message, which may quote a value or a path."""

    def decorate(work: Callable[P, R]) -> Callable[P, R]:
        @wraps(work)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return work(*args, **kwargs)
            except PrichexyError as error:
                raise error from None
            except Exception as error:
                trace, place = error.__traceback__, "?"
                while trace is not None:
                    file = Path(trace.tb_frame.f_code.co_filename)
                    if "prichexy" in file.parts:
                        place = f"{file.name}:{trace.tb_lineno}"
                    trace = trace.tb_next
                raise PrichexyError(f"stage {stage} failed with {type(error).__name__} at {place}") from None

        return guarded

    return decorate


@_guarded("ingest")
def ingest(number: pa.Table, spans: "np.ndarray[Any, np.dtype[np.int64]]", work: Work) -> pa.Table:
    """Fetch and decode the catalog rows of one span, and give them their pseudonyms.

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
    pseudonyms = _pseudonyms(work.secret_file)
    start, stop = spans[number["id"][0].as_py()].tolist()
    listed = read_rows(work.catalog, work.storage, start, stop).to_pylist()
    with ThreadPoolExecutor(work.storage.connections) as pool:
        fetched = pool.map(lambda row: _fetched(source, row, work), listed)
        rows = [_ingested(row, data, pseudonyms, work) for row, data in zip(listed, fetched, strict=True)]
    return pa.Table.from_pylist(rows, INGESTED)


def _fetched(source: Store, row: Row, work: Work) -> bytes | Quarantined:
    where = f"row {row['row_id']} of the catalog"
    return read_source(source, row["uri"], row["size"], work.max_bytes, where, work.allow_missing)


def _ingested(row: Row, data: bytes | Quarantined, pseudonyms: Pseudonyms, work: Work) -> Row:
    facts = {"row_id": row["row_id"], "image_id": pseudonyms.image_id(row["uri"])}
    try:
        if isinstance(data, Quarantined):
            raise data
        radiograph = decode(data, work.limits)
    except Quarantined as error:
        return facts | _quarantined(error)
    native = work.job.resolution == "native"
    pixels = radiograph.pixels if native else resize(radiograph.pixels, SMALL, SMALL)
    thumbnail = resize(radiograph.pixels, work.network_size, work.network_size) if work.needs_thumbnail else None
    return facts | {
        "patient_id": _patient_id(row["patient_id"], radiograph, pseudonyms),
        "view": radiograph.view,
        "laterality": radiograph.laterality,
        "findings": row["findings"],
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "bit_depth": radiograph.bit_depth,
        "pixels": pixels.tobytes(),
        "thumbnail": None if thumbnail is None else thumbnail.tobytes(),
    }


def _patient_id(labelled: str | None, radiograph: Radiograph, pseudonyms: Pseudonyms) -> str | None:
    """The patient's pseudonym: from the labels where they name a patient, else from the header, else unknown."""
    issuer, patient = ("", labelled) if labelled else radiograph.patient_key or ("", "")
    return pseudonyms.patient_id(issuer, patient) if patient else None


def _quarantined(error: Quarantined) -> Row:
    return {"stage": error.stage, "reason": error.reason, "message": error.message}


@lru_cache(maxsize=1)
def _pseudonyms(secret_file: Path) -> Pseudonyms:
    return Pseudonyms.from_file(secret_file)


class Obfuscate:
    """The generator in an actor: the model is loaded once, then chunks pass through it."""

    @_guarded("load model")
    def __init__(self, model: "list[ray.ObjectRef[bytes]]", work: Work) -> None:
        """Load the model (a reference to its bytes) onto this worker's GPU, or one thread of its CPU."""
        torch.set_num_threads(1)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.obfuscator = from_bytes(ray.get(model[0]), self.device)
        self.work = work
        self.pseudonyms = _pseudonyms(work.secret_file)

    @_guarded("obfuscate")
    def __call__(self, table: pa.Table) -> pa.Table:
        """`INGESTED` -> `OBFUSCATED`: the same rows, their pixels obfuscated."""
        rows = table.select(_FACTS.names).to_pylist()
        good = [number for number, row in enumerate(rows) if row["reason"] is None]
        for number, pixels in zip(good, self._obfuscated(table, rows, good), strict=True):
            if pixels is None:
                error = Quarantined("obfuscate", "NotFinite", "the model's output holds values that are no numbers")
                rows[number] = {name: rows[number][name] for name in ("row_id", "image_id")} | _quarantined(error)
            else:
                rows[number]["pixels"] = pixels.tobytes()
        return pa.Table.from_pylist(rows, OBFUSCATED)

    def _obfuscated(self, table: pa.Table, rows: list[Row], good: list[int]) -> Iterator[np.ndarray[Any, Any] | None]:
        """Grey levels of the rows that have pixels, one image at a time; None where the model gave no numbers."""
        if not good:
            return
        size, pixels, thumbnails = self.work.network_size, table["pixels"], table["thumbnail"]
        seeds_N = torch.tensor([self.pseudonyms.noise_seed(rows[n]["image_id"]) for n in good], dtype=torch.int64)
        images = (self._unit(pixels[n].as_buffer(), rows[n], rows[n]["height"], rows[n]["width"]) for n in good)
        with torch.inference_mode():
            if self.work.needs_thumbnail:
                small_N1HW = torch.stack([self._unit(thumbnails[n].as_buffer(), rows[n], size, size) for n in good])
                outputs = self.obfuscator.at_native(small_N1HW, images, seeds_N)
            else:
                outputs = iter(self.obfuscator(torch.stack(list(images)), seeds_N))
            for n, output_1HW in zip(good, outputs, strict=True):
                image = output_1HW[0].float().cpu().numpy()
                yield from_unit(image, rows[n]["bit_depth"]) if np.isfinite(image).all() else None

    def _unit(self, data: pa.Buffer, row: Row, height: int, width: int) -> torch.Tensor:
        """Grey levels -> (1, H, W) float32 in [0, 1] on the actor's device."""
        dtype = np.uint8 if row["bit_depth"] == 8 else np.uint16
        pixels = np.frombuffer(data, dtype).reshape(height, width)
        return torch.from_numpy(to_unit(pixels, row["bit_depth"])).unsqueeze(0).to(self.device)


@_guarded("encode")
def encode(table: pa.Table, work: Work, tally: Any) -> pa.Table:
    """`OBFUSCATED` -> `ENCODED`: pixels become lossless PNG; tells the tally (an actor) how many rows came through."""
    rows = table.select(_FACTS.names).to_pylist()
    for number, row in enumerate(rows):
        row["model_version"] = work.model_version
        if row["reason"] is None:
            dtype = np.uint8 if row["bit_depth"] == 8 else np.uint16
            pixels = np.frombuffer(table["pixels"][number].as_buffer(), dtype).reshape(row["height"], row["width"])
            row["image"] = {"bytes": encode_png(pixels, row["bit_depth"]), "path": f"{row['image_id']}.png"}
    tally.add.remote(len(rows))
    return pa.Table.from_pylist(rows, ENCODED)


@_guarded("publish")
def publish(table: pa.Table, work: Work) -> pa.Table:
    """Write and commit the shard that these rows are; yields one row of its figures."""
    shard = min(table["row_id"].to_pylist()) // work.job.rows_per_shard
    commit = commit_shard(Store(work.destination, work.storage), work.job, shard, table)
    return pa.table(
        {
            "shard": [shard],
            "published": [commit.published],
            "quarantined": [commit.quarantined],
            "bytes": [commit.data.bytes if commit.data else 0],
        }
    )
