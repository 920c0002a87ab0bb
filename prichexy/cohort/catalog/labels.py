"""Labels of a lake's images, from a CSV with NIH's columns, as columns: one row a label, found by file name."""

import csv
import io
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prichexy.cohort.labels import LABELS, read_file
from prichexy.config import CatalogConfig
from prichexy.errors import UsageError
from prichexy.findings import FINDINGS, NO_FINDING

_ROWS_PER_BATCH = 65_536


@dataclass(frozen=True, slots=True)
class Labels:
    """What a labels file says; without one, no image has a label."""

    table: pa.Table

    @classmethod
    def read(cls, config: CatalogConfig) -> "Labels":
        """The labels that the configuration names.

        Raises:
            UsageError: there is no such file, or it is no CSV with NIH's columns and findings.
        """
        if not config.labels:
            return cls(LABELS.empty_table())
        try:
            text = read_file(config.labels, config.storage, "labels").decode("utf-8-sig")
        except UnicodeDecodeError:
            raise UsageError("setting labels: the file is not UTF-8 text") from None
        return cls(_parsed(text))

    def numbers(self, paths: pa.ChunkedArray) -> pa.ChunkedArray:
        """Which label each path has, by its file name; null where none does. int32, shape of `paths`."""
        names = pc.replace_substring_regex(paths, r"(?s)^.*/", "")
        return pc.index_in(names, value_set=self.table["image_name"])

    def at(self, numbers: pa.ChunkedArray) -> pa.Table:
        """The labels of these numbers; a null number has none."""
        if not len(self.table):
            return pa.table(
                {field.name: pa.nulls(len(numbers), field.type) for field in list(LABELS)[1:]},
            )
        return self.table.take(numbers).drop_columns(["image_name"])

    def counted(self, numbers: pa.ChunkedArray) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        """How often each label is used in `numbers`, shape (labels,)."""
        return np.bincount(numbers.drop_null().to_numpy(), minlength=len(self.table))


def _parsed(text: str) -> pa.Table:
    reader = csv.DictReader(io.StringIO(text))
    if "Image Index" not in (reader.fieldnames or ()):
        raise UsageError("setting labels: the file has no column 'Image Index' (NIH's columns are expected)")
    batches, rows, numbers = [], [], []
    for line in reader:
        rows.append(_label(line, reader.line_num))
        numbers.append(reader.line_num)
        if len(rows) == _ROWS_PER_BATCH:
            batches.append(pa.RecordBatch.from_pylist(rows, LABELS))
            rows = []
    batches.append(pa.RecordBatch.from_pylist(rows, LABELS))
    table = pa.Table.from_batches(batches, LABELS)
    if len(table["image_name"].unique()) != len(table):
        seen = set[str]()
        for name, number in zip(table["image_name"].to_pylist(), numbers, strict=True):
            if name in seen:
                raise UsageError(f"setting labels: line {number} names an image that an earlier line named already")
            seen.add(name)
    return table


def _label(line: dict[str, str], number: int) -> dict[str, object]:
    findings: list[str] | None = None
    if line.get("Finding Labels"):
        named = {name.strip() for name in line["Finding Labels"].split("|")} - {NO_FINDING}
        if named - set(FINDINGS):
            raise UsageError(f"setting labels: line {number} has a finding that is none of the 14 of ChestX-ray14")
        findings = [finding for finding in FINDINGS if finding in named]
    follow_up = (line.get("Follow-up #") or "").strip()
    return {
        "image_name": line["Image Index"],
        "patient_id": (line.get("Patient ID") or "").strip() or None,
        "findings": findings,
        "follow_up": int(follow_up) if follow_up.isdecimal() else None,
    }
