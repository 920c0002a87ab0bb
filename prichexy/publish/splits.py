"""Splits by patient, as a table beside the shards.

Shards are not rewritten: their hashes stand in the manifest, an audit's id is stamped into them, and who has them
should keep them. So the split of an image stands in a file of its own, joined by `image_id`. It follows from the seed
and the patient's pseudonym alone: a patient who gets more images, in a later increment, keeps the split.
"""

import io
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prichexy.cohort.splits import SPLITS, by_seed, check_disjoint
from prichexy.config.publication import SplitShares
from prichexy.errors import UsageError
from prichexy.publish.counting import Census
from prichexy.publish.suppression import Cell, Table, suppressed

SCHEMA = pa.schema([pa.field("image_id", pa.string()), pa.field("split", pa.string())])
"""`split` is train, validation or test; null where nobody knows the image's patient, who may be in any of them."""

UNASSIGNED = "none: patient unknown"


@dataclass(frozen=True)
class Splits:
    """The split of each image.

    Attributes:
        table: of `SCHEMA`, sorted by image_id.
        counts: images and patients of each split, after suppression.
    """

    table: pa.Table
    counts: Table

    def parquet(self) -> bytes:
        """The file's bytes; the same for the same splits."""
        buffer = io.BytesIO()
        pq.write_table(self.table, buffer, compression="zstd", use_dictionary=["split"])
        return buffer.getvalue()


def split(census: Census, shares: SplitShares, small_cell: int) -> Splits:
    """Split all images by patient.

    Args:
        census: counted with the ids of images and patients.
        shares: of the patients.
        small_cell: fewest patients that a count may tell of.

    Raises:
        UsageError: no image names its patient.
    """
    if not census.known_patients:
        raise UsageError("setting splits: no image names its patient, so the images can't be split by patient")
    known = pc.is_valid(census.patient_ids).to_numpy(zero_copy_only=False)
    patients = np.array(census.patient_ids.filter(pa.array(known)).to_pylist(), dtype=np.str_)
    codes = by_seed(patients, shares.seed, (shares.train, shares.validation, shares.test))
    check_disjoint(patients, codes)
    every = np.full(len(known), -1, np.int8)
    every[known] = codes
    names = pa.array(SPLITS).take(pa.array(every, mask=every < 0))
    table = pa.table([census.image_ids, names], schema=SCHEMA).sort_by("image_id")
    return Splits(table, suppressed("splits", "Splits", _cells(patients, codes, len(known)), small_cell))


def read_splits(data: bytes) -> pa.Table | None:
    """The table inside a splits file; None for one that is not of `SCHEMA`."""
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError):
        return None
    return table if table.schema.equals(SCHEMA) else None


def _cells(
    patients: "np.ndarray[tuple[int], np.dtype[np.str_]]", codes: "np.ndarray[tuple[int], np.dtype[np.int8]]", rows: int
) -> list[Cell]:
    cells = [
        Cell(name, int(np.count_nonzero(codes == place)), len(np.unique(patients[codes == place])))
        for place, name in enumerate(SPLITS)
    ]
    unknown = rows - len(patients)
    return [*cells, Cell(UNASSIGNED, unknown, unknown)]
