"""The training table of a labelled lake, on Ray Data: plan -> fetch, decode, resize and write, a part a task.

A part's rows follow from the plan, and a part counts only once its record exists (`_parts/`), so a job killed at any
moment goes on behind the parts that are recorded; one written without a record is written again, over itself.
Pixels are decoded and written within one task: memory is one part a running task, whatever the lake's size, and no
radiograph crosses Ray's object store, which may spill to disk.
"""

import json
import logging
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from prichexy.cluster import connected
from prichexy.cohort.catalog import open_catalog
from prichexy.cohort.plan import PlannedPart, TablePlan, claim, patients_per_split, plan_table, read_planned
from prichexy.cohort.splits import SPLITS
from prichexy.cohort.table import FACTS_FILE, PartFacts, TableFacts, fingerprint, write_part
from prichexy.config import PrepareConfig, StorageConfig
from prichexy.errors import PrichexyError, Quarantined, StorageFault, UsageError
from prichexy.imaging import DecodeLimits, decode, from_unit, resize, to_unit
from prichexy.lake.listing import StoredObject
from prichexy.lake.source import read_source
from prichexy.lake.storage import Store
from prichexy.progress import Progress

log = logging.getLogger("prichexy.training.prepare")

RECORDS = "_parts"
FAULTS = {kind.__name__: kind for kind in (PrichexyError, StorageFault, UsageError)}
MOST_BLOCKS = 20_000
"""Ray Data plans each block; beyond this many, a block holds several parts."""

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class PreparedSummary:
    """What a run did, and what the table holds.

    Attributes:
        table: where it is.
        size: edge of its images, in pixels.
        rows: images in it.
        counts: images of each split.
        patients: patients of each split.
        quarantined: images that could not be decoded; the facts file lists them.
        unlabelled: images of the lake without a label, left out.
        absent: labels without an image.
        parts: files of the table.
        resumed: of them, recorded by earlier runs.
        fingerprint: of the data, for MLflow.
        seconds: of this run.
        images_per_second: of this run's images, Ray's start left out.
        reasons: quarantined, by reason.
    """

    table: str
    size: int
    rows: int
    counts: dict[str, int]
    patients: dict[str, int]
    quarantined: int
    unlabelled: int
    absent: int
    parts: int
    resumed: int
    fingerprint: str
    seconds: float
    images_per_second: float
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TableWork:
    """What every task needs to know."""

    source: str
    table: str
    storage: StorageConfig
    size: int
    limits: DecodeLimits
    parts: tuple[PlannedPart, ...]


def prepare(config: PrepareConfig) -> PreparedSummary:
    """Decode a labelled lake into its training table.

    Killed at any moment and called again with the same configuration, it goes on behind the parts that are recorded.

    Raises:
        UsageError: catalog, labels, splits or place can't be used; nothing was started.
        StorageFault: a store failed; what was recorded stays, and the same command goes on.
        PrichexyError: no image could be decoded.
    """
    began = time.monotonic()
    catalog = open_catalog(config.catalog, config.storage)
    if catalog is None:
        raise UsageError(f"there is no catalog at {config.catalog}: make one with `prichexy catalog`")
    plan = plan_table(config, catalog)
    store, source = Store(config.out, config.storage), Store(catalog.root, config.storage)
    source.check_readable()
    claim(store, plan)
    recorded = _recorded(store)
    todo = [part for part in plan.parts if part.number not in recorded]
    log.info("plan: %d images in %d parts, %d recorded before", len(plan.rows), len(plan.parts), len(recorded))
    streamed = 0.0
    if todo:
        limits = DecodeLimits(config.limits.min_side, config.limits.max_pixels, config.limits.max_bytes)
        # Workers of a local Ray run in folders of their own: local places go to them as absolute paths.
        places = [place.root if place.is_local else place.uri for place in (source, store)]
        work = TableWork(places[0], places[1], config.storage, config.size, limits, tuple(todo))
        streamed = _stream(work, len(plan.rows), config)
    facts = _finish(store, plan)
    done = sum(part.stop - part.start for part in todo)
    return PreparedSummary(
        table=config.out,
        size=facts.size,
        rows=facts.rows,
        counts=facts.counts,
        patients=facts.patients,
        quarantined=len(facts.quarantined),
        reasons=dict(sorted(Counter(image["reason"] for image in facts.quarantined).items())),
        unlabelled=plan.unlabelled,
        absent=plan.absent,
        parts=len(facts.parts),
        resumed=len(recorded),
        fingerprint=facts.fingerprint,
        seconds=round(time.monotonic() - began, 2),
        images_per_second=round(done / streamed, 2) if streamed else 0.0,
    )


def part_task(number: pa.Table, work: TableWork) -> pa.Table:
    """`make_part` as a task of Ray Data; a fault comes back as a row, since Ray loses the cause of an exception.

    Args:
        number: one row, `id`: which of `work.parts`.
        work: what every task needs to know.

    Returns:
        One row: part, rows, quarantined, and fault and message (null when all is well).
    """
    part, fault, message, rows, quarantined = work.parts[number["id"][0].as_py()], None, None, 0, 0
    try:
        facts = make_part(part, work)
        rows, quarantined = facts.rows, len(facts.quarantined)
    except PrichexyError as error:
        fault, message = type(error).__name__, str(error)
    except Exception as error:  # without its text, which may quote a value or a path
        fault, message = PrichexyError.__name__, f"preparing part {part.number} failed with {type(error).__name__}"
    return pa.table(
        {
            "part": [part.number],
            "rows": [rows],
            "quarantined": [quarantined],
            "fault": pa.array([fault], pa.string()),
            "message": pa.array([message], pa.string()),
        }
    )


def table_image(data: bytes, size: int, limits: DecodeLimits) -> Images:
    """The image of a file as the table holds it.

    Args:
        data: PNG, JPEG or DICOM.
        size: edge of the result, in pixels.
        limits: sizes allowed.

    Returns:
        (size, size) np.uint8; resized by Pillow's bilinear filter at the file's own depth, then scaled to 8 bits. An
        8-bit image of that size comes back as it is.

    Raises:
        Quarantined: the file can't be decoded.
    """
    radiograph = decode(data, limits)
    pixels = resize(radiograph.pixels, size, size)
    if radiograph.bit_depth > 8:
        pixels = from_unit(to_unit(pixels, radiograph.bit_depth), 8)
    return pixels


def make_part(part: PlannedPart, work: TableWork) -> PartFacts:
    """Decode, write and record one part.

    Raises:
        StorageFault: a store failed; never one image's fault.
    """
    table, source = Store(work.table, work.storage), Store(work.source, work.storage)
    planned = read_planned(table, part.number)
    names = planned["image_name"].to_pylist()
    pixels_NHW: Images = np.empty((len(names), work.size, work.size), dtype=np.uint8)
    kept: list[int] = []
    quarantined: list[dict[str, str]] = []
    for row, data in enumerate(_fetched(source, planned, work.limits.max_bytes)):
        try:
            if isinstance(data, Quarantined):
                raise data
            pixels_NHW[len(kept)] = table_image(data, work.size, work.limits)
            kept.append(row)
        except Quarantined as error:
            quarantined.append({"image_name": names[row], "stage": error.stage, "reason": error.reason})
    rows = planned.take(pa.array(kept, pa.int64()))
    facts = write_part(table, part.number, part.split, part.path, rows, pixels_NHW[: len(kept)], quarantined)
    table.write(_record_path(part.number), (json.dumps(asdict(facts), indent=2) + "\n").encode())
    return facts


def _fetched(source: Store, planned: pa.Table, max_bytes: int) -> Iterator[bytes | Quarantined]:
    """The source files in order, read concurrently a few ahead, so that only those few are in memory."""
    waiting: deque[Future[bytes | Quarantined]] = deque()
    with ThreadPoolExecutor(source.options.connections) as pool:
        for uri, size in zip(planned["uri"].to_pylist(), planned["size"].to_pylist(), strict=True):
            listed = StoredObject(uri, size, "")  # the plan holds no etags: only another size is noticed
            waiting.append(pool.submit(read_source, source, listed, max_bytes, "an image of the table", True))
            if len(waiting) > source.options.connections:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _stream(work: TableWork, total: int, config: PrepareConfig) -> float:
    """Make the parts that are to do, as tasks of Ray Data; seconds, Ray's start left out."""
    import ray.data

    todo = sum(part.stop - part.start for part in work.parts)
    with connected(config.ray):
        began = time.monotonic()
        ray.data.DataContext.get_current().enable_progress_bars = False
        made = ray.data.range(len(work.parts), override_num_blocks=min(len(work.parts), MOST_BLOCKS)).map_batches(
            part_task, fn_args=(work,), batch_size=1, batch_format="pyarrow", num_cpus=1
        )
        with Progress("prepare", total, total - todo) as progress:
            try:
                for row in made.iter_rows():
                    if row["fault"]:
                        raise FAULTS[row["fault"]](row["message"])
                    progress.advance(row["rows"] + row["quarantined"])
                    log.info("part %(part)d: %(rows)d images, %(quarantined)d quarantined", row)
            except PrichexyError:
                raise
            except Exception as error:
                kind = type(error).__name__
                raise PrichexyError(f"Ray stopped the job: {kind}; run the same command again to go on") from None
        return time.monotonic() - began


def _finish(store: Store, plan: TablePlan) -> TableFacts:
    """Write the facts, after proving that the records cover the plan."""
    parts = _read_records(store, sorted(_recorded(store)))
    if [part.number for part in plan.parts] != [part.part for part in parts]:
        raise StorageFault(f"{store.uri} lost or gained part records while the job ran: run the same command again")
    for planned, part in zip(plan.parts, parts, strict=True):
        if part.rows + len(part.quarantined) != planned.stop - planned.start:
            raise StorageFault(f"part record {part.part} in {store.uri} does not add up: remove it and run again")
    quarantined = tuple(image for part in parts for image in part.quarantined)
    rows = sum(part.rows for part in parts)
    if not rows:
        raise PrichexyError(f"none of the {len(quarantined)} images could be decoded: the table would be empty")
    facts = TableFacts(
        size=plan.facts["size"],
        rows=rows,
        counts={name: sum(part.rows for part in parts if part.split == name) for name in SPLITS},
        patients=patients_per_split(plan, {image["image_name"] for image in quarantined}),
        fingerprint=fingerprint(parts),
        seed=plan.facts["seed"],
        splits=plan.facts["splits"],
        pseudonyms=plan.facts["pseudonyms"],
        quarantined=quarantined,
        parts=tuple(parts),
    )
    store.write(FACTS_FILE, facts.to_json())
    return facts


def _record_path(part: int) -> str:
    return f"{RECORDS}/{part:05d}.json"


def _recorded(store: Store) -> set[int]:
    return {int(Path(item.path).stem) for item in store.list(RECORDS)}


def _read_records(store: Store, numbers: list[int]) -> list[PartFacts]:
    def read(number: int) -> PartFacts:
        facts: dict[str, Any] = json.loads(store.read(_record_path(number)))
        return PartFacts.from_facts(facts)

    with ThreadPoolExecutor(store.options.connections) as pool:
        return list(pool.map(read, numbers))
