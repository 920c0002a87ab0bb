"""The plan of a training table: which image, whose, which split, in which part. Made before any image is read.

Depends on the lake, the labels and the settings only, never on the catalog's random order: the same data gives the
same table again.
"""

import io
import json
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prichexy.cohort.catalog import Catalog, iterate_rows
from prichexy.cohort.labels import parse_labels, read_file
from prichexy.cohort.pairs import same_patient_pairs
from prichexy.cohort.splits import SPLITS, TRAIN, Codes, by_lists, by_seed, counted, parse_list
from prichexy.cohort.table import FORMAT_VERSION
from prichexy.config import PrepareConfig
from prichexy.deid import Pseudonyms
from prichexy.errors import StorageFault, UsageError
from prichexy.lake.storage import Store

JOB_FILE = "_prepare.json"
PLAN_FILE = "_plan.parquet"

PLAN = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),  # below the lake's root
        pa.field("size", pa.int64(), nullable=False),
        pa.field("image_name", pa.string(), nullable=False),
        pa.field("patient_id", pa.string(), nullable=False),
        pa.field("findings", pa.list_(pa.string()), nullable=False),
        pa.field("follow_up", pa.int32()),
    ]
)


@dataclass(frozen=True, slots=True)
class PlannedPart:
    """Rows [start, stop) of the plan, all of one split, that one file of the table will hold."""

    number: int
    split: str
    start: int
    stop: int

    @property
    def path(self) -> str:
        """Its file below the table."""
        return f"data/{self.split}-{self.number:05d}.parquet"


@dataclass(frozen=True, slots=True)
class TablePlan:
    """What a table will hold.

    Attributes:
        rows: `PLAN`, in order of split and image name.
        parts: how the rows are cut.
        facts: what decides the table's bytes; a place that holds another job's parts is refused.
        unlabelled: images of the lake that no label names; they are left out.
        absent: labels whose images the lake does not hold.
    """

    rows: pa.Table
    parts: tuple[PlannedPart, ...]
    facts: dict[str, Any]
    unlabelled: int
    absent: int


def plan_table(config: PrepareConfig, catalog: Catalog) -> TablePlan:
    """Join catalog and labels, split by patient, cut into parts.

    Raises:
        UsageError: labels, lists or patients can't be used; one sentence, nothing was written.
        StorageFault: a store failed.
    """
    listed = pa.concat_tables(iterate_rows(catalog, config.storage))
    names = pa.array([uri.rpartition("/")[2] for uri in listed["uri"].to_pylist()], pa.string())
    if config.labels is None:
        # The catalog kept only the number of labels that it could not use.
        rows, absent, named = _own_labels(listed, names), catalog.labels_unused, f"{catalog.labels_unused} images"
    else:
        rows, missing = _given_labels(listed, names, config)
        absent, named = len(missing), counted(missing, "image")
    _check_rows(rows)
    if absent and not config.allow_absent:
        raise UsageError(
            f"the labels name {named} that the lake does not hold: mend the labels, or set allow_absent=true"
        )
    codes = _split(rows, config)
    _check_splits(rows, codes, config)
    keys = Pseudonyms.from_file(config.secret_file) if config.secret_file else None
    if keys:
        rows = _pseudonymous(rows, keys)
    order = np.lexsort((np.asarray(rows["image_name"].to_pylist(), dtype=np.str_), codes))
    rows, codes = rows.take(order).combine_chunks(), codes[order]
    facts = {
        "format_version": FORMAT_VERSION,
        "size": config.size,
        "rows": len(rows),
        "rows_per_part": config.rows_per_part,
        "content": _content(rows, codes),
        "seed": config.splits.seed,
        "splits": {
            "fractions": [config.splits.train, config.splits.validation, config.splits.test],
            "lists": config.splits.test_list is not None,
        },
        "pseudonyms": keys.key_id if keys else None,
        "limits": config.limits.model_dump(),
    }
    left_out = len(listed) - len(rows)
    return TablePlan(
        rows,
        _cut(codes, config.rows_per_part),
        facts,
        left_out,
        absent,
    )


def claim(store: Store, plan: TablePlan) -> None:
    """Make a place this plan's and write the plan, or go on with it.

    Raises:
        UsageError: the place holds other files, or another table's parts; the message names what differs.
    """
    try:
        there = json.loads(store.read(JOB_FILE))
    except FileNotFoundError:
        strangers = (item for item in store.list() if item.path != PLAN_FILE)
        if next(strangers, None) is not None:
            raise UsageError(f"{store.uri} holds files that `prepare` did not write: choose an empty place") from None
        store.write(PLAN_FILE, _plan_bytes(plan))
        store.write(JOB_FILE, (json.dumps(plan.facts, indent=2) + "\n").encode())
        return
    differing = sorted(name for name in {*plan.facts, *there} if plan.facts.get(name) != there.get(name))
    if differing:
        raise UsageError(
            f"{store.uri} holds another table's parts (differing: {', '.join(differing)}): choose another place, "
            "or repeat that job"
        )


def read_planned(store: Store, part: int) -> pa.Table:
    """The plan's rows of one part, read from the table's place.

    Raises:
        StorageFault: the plan is gone or can't be read.
    """
    file_system, root = store.arrow()
    try:
        with pq.ParquetFile(f"{root}/{PLAN_FILE}", filesystem=file_system) as file:
            return file.read_row_group(part)
    except (OSError, pa.ArrowException):
        raise StorageFault(f"the plan of the training table at {store.uri} can't be read") from None


def patients_per_split(plan: TablePlan, without: set[str]) -> dict[str, int]:
    """Patients of each split, images of these names left out."""
    found: dict[str, set[str]] = {name: set() for name in SPLITS}
    names, patients = plan.rows["image_name"].to_pylist(), plan.rows["patient_id"].to_pylist()
    for part in plan.parts:
        span = range(part.start, part.stop)
        found[part.split].update(patients[row] for row in span if names[row] not in without)
    return {name: len(who) for name, who in found.items()}


def _own_labels(listed: pa.Table, names: pa.Array) -> pa.Table:
    """The labels that the catalog was made with."""
    labelled = pc.or_(pc.is_valid(listed["patient_id"]), pc.is_valid(listed["findings"]))
    rows = listed.append_column("image_name", names).select(PLAN.names).filter(labelled)
    if rows["patient_id"].null_count == len(rows):
        raise UsageError(
            "the catalog names no patient, and splits and pairs are made by patient: give labels (a CSV with a "
            "patient column)"
        )
    return rows


def _given_labels(listed: pa.Table, names: pa.Array, config: PrepareConfig) -> tuple[pa.Table, list[str]]:
    assert config.labels is not None
    labels = parse_labels(read_file(config.labels, config.storage, "labels"), config.columns)
    wanted = pc.index_in(names, value_set=labels["image_name"].combine_chunks())
    here = pc.is_valid(wanted)
    rows = labels.take(wanted.filter(here))
    for column in ("uri", "size"):
        rows = rows.append_column(column, listed[column].filter(here))
    absent = labels["image_name"].filter(pc.invert(pc.is_in(labels["image_name"], value_set=names)))
    if not len(rows):
        raise UsageError(f"the labels name none of the lake's images; they name {counted(absent.to_pylist(), 'image')}")
    return rows.select(PLAN.names), absent.to_pylist()


def _check_rows(rows: pa.Table) -> None:
    for column, what in (("patient_id", "patient"), ("findings", "findings")):
        if rows[column].null_count:
            hint = " ('No Finding' where there is none)" if column == "findings" else ""
            raise UsageError(f"{rows[column].null_count} labelled images have no {what}{hint}: complete the labels")
    repeated = len(rows) - pc.count_distinct(rows["image_name"]).as_py()
    if repeated:
        raise UsageError(
            f"{repeated} labelled images have a name that another folder of the lake holds too, and labels go by name: "
            "exclude one of them from the catalog"
        )


def _split(rows: pa.Table, config: PrepareConfig) -> Codes:
    splits, patients = config.splits, rows["patient_id"].to_pylist()
    if splits.train_val_list is None or splits.test_list is None:
        return by_seed(patients, splits.seed, (splits.train, splits.validation, splits.test))
    lists = {
        setting: parse_list(read_file(uri, config.storage, f"splits.{setting}"), f"splits.{setting}")
        for setting, uri in (("train_val_list", splits.train_val_list), ("test_list", splits.test_list))
    }
    share = splits.validation / (splits.train + splits.validation)
    names = rows["image_name"].to_pylist()
    return by_lists(names, patients, lists["train_val_list"], lists["test_list"], splits.seed, share)


def _check_splits(rows: pa.Table, codes: Codes, config: PrepareConfig) -> None:
    for code, name in enumerate(SPLITS):
        if getattr(config.splits, name) and not (codes == code).any():
            raise UsageError(
                f"no image is in the {name} split: there are too few patients for these shares, set splits.{name} "
                "larger, to 0, or another splits.seed"
            )
    if not same_patient_pairs(np.asarray(rows["patient_id"].to_pylist(), dtype=np.str_)[codes == TRAIN]):
        raise UsageError("there is no same-patient pair: no patient of the train split has two images")


def _pseudonymous(rows: pa.Table, keys: Pseudonyms) -> pa.Table:
    named = {
        "image_name": [keys.image_id(uri) for uri in rows["uri"].to_pylist()],
        "patient_id": [keys.patient_id("", patient) for patient in rows["patient_id"].to_pylist()],
    }
    for column, values in named.items():
        rows = rows.set_column(rows.column_names.index(column), column, pa.array(values, pa.string()))
    return rows


def _cut(codes: Codes, rows_per_part: int) -> tuple[PlannedPart, ...]:
    """Parts of at most so many rows, never across a split's border."""
    parts: list[PlannedPart] = []
    for code, name in enumerate(SPLITS):
        first, last = (int(np.searchsorted(codes, code, side=side)) for side in ("left", "right"))
        for start in range(first, last, rows_per_part):
            parts.append(PlannedPart(len(parts), name, start, min(start + rows_per_part, last)))
    return tuple(parts)


def _content(rows: pa.Table, codes: Codes) -> str:
    digest = blake2b(codes.tobytes(), digest_size=16)
    for column in PLAN.names:
        digest.update("\n".join(map(str, rows[column].to_pylist())).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _plan_bytes(plan: TablePlan) -> bytes:
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, PLAN, compression="zstd") as writer:
        for part in plan.parts:  # a row group a part
            writer.write_table(plan.rows.slice(part.start, part.stop - part.start).cast(PLAN))
    return buffer.getvalue()
