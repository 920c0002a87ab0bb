"""What is counted of a publication: from a few columns of its shards, never from the images.

A table's figures are images, and of how many patients these are. Where nobody knows an image's patient, the image
counts as a patient of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from prichexy.errors import PrichexyError, UsageError
from prichexy.findings import FINDINGS, NO_FINDING
from prichexy.imaging import LATERALITIES, VIEWS
from prichexy.lake.commit import FileFacts
from prichexy.publish.source import Publication
from prichexy.publish.suppression import Cell, Table, suppressed, total

NOT_STATED = "not stated"
NOT_LABELLED = "not labelled"

AGES = (("0 to 17", 0, 17), ("18 to 39", 18, 39), ("40 to 59", 40, 59), ("60 to 79", 60, 79), ("80 and above", 80, 255))
"""Label, first and last age in full years; coarse on purpose."""

SIDES = (
    ("up to 512 px", 0, 512),
    ("513 to 1024 px", 513, 1024),
    ("1025 to 2048 px", 1025, 2048),
    ("over 2048 px", 2049, 1 << 31),
)
"""Label, shortest and longest of the longer sides, in pixels."""

SEXES = {"F": "female", "M": "male", "O": "other"}

_COUNTED = ("patient_id", "findings", "view", "laterality", "bit_depth", "width", "height", "model_version")
_FROM_HEADERS = ("patient_sex", "patient_age")


@dataclass(frozen=True)
class Place:
    """Where an image lies: its data file, its row there, and what may be said below it."""

    file: FileFacts
    row: int
    view: str | None
    findings: tuple[str, ...] | None


@dataclass(frozen=True)
class Census:
    """What was counted.

    Attributes:
        images: how many; None where they are of too few patients.
        patients: how many; None where they are too few.
        known_patients: whether any image names its patient.
        some_unknown: whether some images name none.
        labelled: whether any image has labels, be it that of no finding.
        tables: after suppression, in the order in which they are shown.
        image_ids: (N,) of all images; empty unless asked for.
        patient_ids: (N,) likewise, null where unknown.
        places: of the images that were asked for.
    """

    images: int | None
    patients: int | None
    known_patients: bool
    some_unknown: bool
    labelled: bool
    tables: tuple[Table, ...]
    image_ids: pa.Array
    patient_ids: pa.Array
    places: dict[str, Place]

    def table(self, name: str) -> Table:
        """The table of that name."""
        return next(table for table in self.tables if table.name == name)


@dataclass
class _Columns:
    """Columns of all rows, as small integers: 10 million rows take some 200 MB."""

    patients: list[NDArray[np.int32]] = field(default_factory=list)
    findings: list[NDArray[np.int32]] = field(default_factory=list)
    codes: dict[str, list[NDArray[np.int16]]] = field(default_factory=dict)
    image_ids: list[pa.Array] = field(default_factory=list)
    patient_ids: list[pa.Array] = field(default_factory=list)


def count(publication: Publication, small_cell: int, with_ids: bool = False, show: Sequence[str] = ()) -> Census:
    """Count the newest snapshot.

    Args:
        publication: what is counted.
        small_cell: fewest patients that a count may tell of.
        with_ids: also collect the ids of all images and patients, for splits.
        show: ids of images that are looked for.

    Raises:
        UsageError: an image that is to be shown is not published.
        PrichexyError: the shards do not hold the rows that the manifest says.
        StorageFault: a shard can't be read.
    """
    there = publication.schema.names
    columns = [name for name in (*_COUNTED, *_FROM_HEADERS) if name in there]
    if with_ids or show:
        columns.append("image_id")
    models = sorted({making.model for making in publication.makings})
    collected, known, places = _Columns(), dict[str, int](), dict[str, Place]()
    for file, table in zip(publication.data, publication.tables(columns), strict=True):
        if len(table) != file.rows:
            raise PrichexyError(f"{file.path} does not hold the rows that the manifest says: run `prichexy verify`")
        _collect(collected, table, known, models)
        if with_ids:
            collected.image_ids += table["image_id"].chunks
            collected.patient_ids += table["patient_id"].chunks
        places |= _places(file, table, show)
    absent = len(set(show) - set(places))
    if absent:
        raise UsageError(f"setting show: {absent} of the images are not published in {publication.store.uri}")
    patients = _numbered(np.concatenate(collected.patients))
    of_whom = int(patients.max()) + 1
    return Census(
        images=total(len(patients), of_whom, small_cell),
        patients=total(of_whom, of_whom, small_cell),
        known_patients=bool(known),
        some_unknown=of_whom > len(known),
        labelled=any(bool((bits < 1 << (len(FINDINGS) + 1)).any()) for bits in collected.findings),
        tables=tuple(_tables(collected, patients, models, small_cell)),
        image_ids=pa.chunked_array(collected.image_ids, pa.string()).combine_chunks(),
        patient_ids=pa.chunked_array(collected.patient_ids, pa.string()).combine_chunks(),
        places=places,
    )


def _collect(collected: _Columns, table: pa.Table, known: dict[str, int], models: list[str]) -> None:
    """Add a shard's rows, each value as its place in a fixed list."""
    encoded = pc.dictionary_encode(table["patient_id"].combine_chunks())
    places = [known.setdefault(name, len(known)) for name in encoded.dictionary.to_pylist()]
    lookup = np.array([*places, -1], np.int32)
    collected.patients.append(lookup[pc.fill_null(encoded.indices, len(places)).to_numpy(zero_copy_only=False)])
    collected.findings.append(_finding_bits(table["findings"]))
    sides = np.maximum(_integers(table["width"]), _integers(table["height"]))
    codes = {
        "view": _codes(table["view"], VIEWS),
        "laterality": _codes(table["laterality"], LATERALITIES),
        "bit_depth": _integers(table["bit_depth"]).astype(np.int16),
        "side": _binned(sides, SIDES),
        "model_version": _codes(table["model_version"], models),
    }
    if "patient_sex" in table.column_names:
        codes["patient_sex"] = _codes(table["patient_sex"], tuple(SEXES))
    if "patient_age" in table.column_names:
        codes["patient_age"] = _binned(_integers(table["patient_age"]), AGES)
    for name, values in codes.items():
        collected.codes.setdefault(name, []).append(values)


def _finding_bits(column: pa.ChunkedArray) -> NDArray[np.int32]:
    """(N,) a bit for each finding, the next for none of them, the one after for not labelled."""
    bits = np.zeros(len(column), np.int32)
    labelled = pc.is_valid(column).to_numpy(zero_copy_only=False).astype(bool)
    rows = pc.list_parent_indices(column).to_numpy()
    names = _codes(pc.list_flatten(column), FINDINGS)
    np.bitwise_or.at(bits, rows[names >= 0], np.left_shift(1, names[names >= 0].astype(np.int32)))
    bits[labelled & (bits == 0)] = 1 << len(FINDINGS)
    bits[~labelled] = 1 << (len(FINDINGS) + 1)
    return bits


def _codes(column: Any, words: Sequence[str]) -> NDArray[np.int16]:
    """(N,) each value's place among the words; -1 where it is null or none of them."""
    places = pc.fill_null(pc.index_in(column, value_set=pa.array(words, pa.string())), -1)
    return np.asarray(
        places.to_numpy(zero_copy_only=False) if isinstance(places, pa.Array) else places.to_numpy()
    ).astype(np.int16)


def _integers(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """(N,) values; -1 where null."""
    return np.asarray(pc.fill_null(column.cast(pa.int64()), -1).to_numpy())


def _binned(values: NDArray[np.int64], bins: Sequence[tuple[str, int, int]]) -> NDArray[np.int16]:
    codes = np.full(len(values), -1, np.int16)
    for place, (_, low, high) in enumerate(bins):
        codes[(values >= low) & (values <= high)] = place
    return codes


def _places(file: FileFacts, table: pa.Table, show: Sequence[str]) -> dict[str, Place]:
    if not show:
        return {}
    rows = np.flatnonzero(pc.is_in(table["image_id"], value_set=pa.array(show, pa.string())).to_numpy())
    places = {}
    for row in rows.tolist():
        facts = table.slice(row, 1).to_pylist()[0]
        findings = None if facts["findings"] is None else tuple(facts["findings"])
        places[facts["image_id"]] = Place(file, row, facts["view"], findings)
    return places


def _numbered(patients: NDArray[np.int32]) -> NDArray[np.int32]:
    """Patients as 0, 1, 2, ..., the unknown ones each with a number of its own."""
    unknown = patients < 0
    first = int(patients.max(initial=-1)) + 1
    numbered = patients.copy()
    numbered[unknown] = np.arange(first, first + np.count_nonzero(unknown), dtype=np.int32)
    return numbered


def _tables(collected: _Columns, patients: NDArray[np.int32], models: list[str], small_cell: int) -> list[Table]:
    def cells(names: Sequence[str], masks: Sequence[NDArray[np.bool_]]) -> list[Cell]:
        return [
            Cell(label, int(np.count_nonzero(mask)), len(np.unique(patients[mask])))
            for label, mask in zip(names, masks, strict=True)
        ]

    bits = np.concatenate(collected.findings)
    codes = {name: np.concatenate(parts) for name, parts in collected.codes.items()}
    depths = range(8, 17)
    labels: dict[str, tuple[str, Sequence[str]]] = {
        "view": ("View", VIEWS),
        "laterality": ("Laterality", LATERALITIES),
        "patient_sex": ("Sex", tuple(SEXES.values())),
        "patient_age": ("Age in years", [label for label, _, _ in AGES]),
        "side": ("Longer side of the image", [label for label, _, _ in SIDES]),
        "model_version": ("Model version", models),
    }
    names = [*(name.replace("_", " ") for name in FINDINGS), NO_FINDING.lower(), NOT_LABELLED]
    found = [bits >> place & 1 == 1 for place in range(len(names))]
    tables = [suppressed("findings", "Findings", cells(names, found), small_cell)]
    for name, (title, words) in labels.items():
        if name in codes:
            masks = [codes[name] == place for place in (*range(len(words)), -1)]
            tables.append(suppressed(name, title, cells([*words, NOT_STATED], masks), small_cell))
    masks = [codes["bit_depth"] == depth for depth in depths]
    depth_cells = cells([f"{depth} bits" for depth in depths], masks)
    tables.append(suppressed("bit_depth", "Grey levels", depth_cells, small_cell))
    return tables
