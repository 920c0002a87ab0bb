"""Labels of radiographs: NIH's CSV as it is, or any CSV whose columns the configuration names."""

import csv
import io

import pyarrow as pa

from prichexy.config import LabelColumns, StorageConfig
from prichexy.errors import UsageError
from prichexy.findings import FINDINGS, NO_FINDING
from prichexy.lake.storage import Store

LABELS = pa.schema(
    [
        pa.field("image_name", pa.string(), nullable=False),
        pa.field("patient_id", pa.string()),
        pa.field("findings", pa.list_(pa.string())),  # in the order of FINDINGS; empty: No Finding; null: unknown
        pa.field("follow_up", pa.int32()),
    ]
)


def read_file(uri: str, storage: StorageConfig, setting: str) -> bytes:
    """The bytes of a small file that a setting names.

    Raises:
        UsageError: there is no such file.
        StorageFault: its store failed.
    """
    folder, _, name = uri.rpartition("/")
    try:
        return Store(folder or ("/" if uri.startswith("/") else "."), storage).read(name)
    except FileNotFoundError:
        raise UsageError(f"setting {setting}: there is no such file") from None


def parse_labels(text: bytes, columns: LabelColumns) -> pa.Table:
    """The labels of a CSV file, one row an image, in the file's order.

    Args:
        text: the file.
        columns: how its columns are named.

    Returns:
        A table of `LABELS`; without a follow-up column, `follow_up` is null.

    Raises:
        UsageError: no UTF-8 text, a column is missing, an image is named twice, a finding is none of the 14, or no
            row has a patient.
    """
    try:
        reader = csv.DictReader(io.StringIO(text.decode("utf-8-sig"), newline=""))
    except UnicodeDecodeError:
        raise UsageError("setting labels: the file is not UTF-8 text") from None
    header = reader.fieldnames or ()
    for setting, column in (("image", columns.image), ("findings", columns.findings), ("patient", columns.patient)):
        if column not in header:
            raise UsageError(f"setting labels: the file has no column '{column}': name it in columns.{setting}")
    rows, seen = [], set[str]()
    for line in reader:
        name = (line[columns.image] or "").strip()
        if not name:
            raise UsageError(f"setting labels: line {reader.line_num} names no image")
        if name in seen:
            raise UsageError(f"setting labels: line {reader.line_num} names an image that an earlier line named")
        seen.add(name)
        follow_up = (line.get(columns.follow_up) or "").strip()
        rows.append(
            {
                "image_name": name,
                "patient_id": (line[columns.patient] or "").strip() or None,
                "findings": _findings(line[columns.findings], reader.line_num),
                "follow_up": int(follow_up) if follow_up.isdecimal() else None,
            }
        )
    table = pa.Table.from_pylist(rows, LABELS)
    if table["patient_id"].null_count == len(table):
        raise UsageError("setting labels: no row has a patient, and splits and pairs are made by patient")
    return table


def _findings(text: str | None, line: int) -> list[str] | None:
    """NIH's '|'-joined names; the message names no value, since a wrong column may hold anything."""
    if not (text or "").strip():
        return None
    named = {name.strip() for name in (text or "").split("|")} - {NO_FINDING, ""}
    if named - set(FINDINGS):
        raise UsageError(f"setting labels: line {line} has a finding that is none of the 14 of ChestX-ray14")
    return [finding for finding in FINDINGS if finding in named]
