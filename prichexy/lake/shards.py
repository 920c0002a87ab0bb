"""The Parquet files of a publication: their columns, their bytes.

Images stand in Hugging Face's layout (a struct of ``bytes`` and ``path``), and the schema carries that library's
feature description, so that `datasets` decodes them; DuckDB, polars and pyarrow read the same files.
"""

import io
import json
from collections.abc import Sequence
from hashlib import sha256

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROWS_PER_GROUP = 32

PUBLISHED = pa.schema(
    [
        pa.field("image_id", pa.string()),
        pa.field("patient_id", pa.string()),
        pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("bit_depth", pa.int8()),
        pa.field("view", pa.string()),
        pa.field("laterality", pa.string()),
        pa.field("findings", pa.list_(pa.string())),
        pa.field("model_version", pa.string()),
    ]
)
"""One row an image. `image_id` and `patient_id` are keyed pseudonyms; `findings` is null where nobody labelled the
image."""

HEADER_COLUMNS = pa.schema(
    [
        pa.field("modality", pa.string()),
        pa.field("body_part", pa.string()),
        pa.field("patient_sex", pa.string()),
        pa.field("patient_age", pa.int32()),
        pa.field("study_date", pa.date32()),
        pa.field("manufacturer", pa.string()),
        pa.field("manufacturer_model", pa.string()),
    ]
)
"""What a publisher may add of de-identified DICOM headers (`deid.columns`); null where the source is no DICOM file.
Ages are full years, capped at 90; dates are moved by the patient's own number of days."""

DICOM_FILE = pa.field("dicom", pa.string())
"""Path of the row's DICOM file below the destination, null where the source is none; only with `also_dicom`."""

QUARANTINE = pa.schema(
    [
        pa.field("row_id", pa.int64(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
    ]
)
"""One row a source file that could not be published; `row_id` leads to its file through the private catalog only."""


def published_schema(columns: Sequence[str] = (), with_dicom: bool = False) -> pa.Schema:
    """The columns of a data shard: those of `PUBLISHED`, the chosen ones of `HEADER_COLUMNS`, and `DICOM_FILE`."""
    chosen = [field for field in HEADER_COLUMNS if field.name in columns]
    return pa.schema([*PUBLISHED, *chosen, *([DICOM_FILE] if with_dicom else [])])


def _features(schema: pa.Schema) -> bytes:
    names = {pa.string(): "string", pa.int32(): "int32", pa.int8(): "int8", pa.date32(): "date32"}
    features: dict[str, object] = {}
    for field in schema:
        if pa.types.is_struct(field.type):
            features[field.name] = {"_type": "Image"}
        elif pa.types.is_list(field.type):
            features[field.name] = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"}
        else:
            features[field.name] = {"dtype": names[field.type], "_type": "Value"}
    return json.dumps({"info": {"features": features}}).encode()


UNAUDITED = "unaudited"
"""Stands for the audit's id where there is none."""


def stamped(schema: pa.Schema, audit_id: str) -> pa.Schema:
    """The schema with what a data shard carries: Hugging Face's features, and which audit allowed the model."""
    return schema.with_metadata({b"huggingface": _features(schema), b"prichexy.audit": audit_id.encode()})


def published_bytes(table: pa.Table, schema: pa.Schema = PUBLISHED, audit_id: str = UNAUDITED) -> bytes:
    """A data shard: rows of `schema`, sorted by image_id so that their order tells nothing of the source."""
    return _parquet(table, stamped(schema, audit_id), "image_id")


def quarantine_bytes(table: pa.Table) -> bytes:
    """A quarantine file: rows of `QUARANTINE`, sorted by row_id."""
    return _parquet(table, QUARANTINE, "row_id")


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return sha256(data).hexdigest()


def _parquet(table: pa.Table, schema: pa.Schema, key: str) -> bytes:
    """The rows as Parquet, sorted by `key`; a row group at a time, since an Arrow binary array ends at 2 GiB."""
    order = pc.sort_indices(table[key])
    leaves = _leaves(schema)
    words = ("view", "laterality", "model_version", "stage", "reason", *HEADER_COLUMNS.names)
    buffer = io.BytesIO()
    # Images do not compress further; the other columns do.
    compression = {name: "none" if name == "image.bytes" else "zstd" for name in leaves}
    dictionary = [name for name in words if name in leaves]
    with pq.ParquetWriter(buffer, schema, compression=compression, use_dictionary=dictionary) as writer:
        for first in range(0, len(order), ROWS_PER_GROUP):
            group = table.take(order[first : first + ROWS_PER_GROUP]).select(schema.names).cast(schema)
            writer.write_table(group, row_group_size=ROWS_PER_GROUP)
    return buffer.getvalue()


def _leaves(schema: pa.Schema) -> list[str]:
    leaves = []
    for field in schema:
        if pa.types.is_struct(field.type):
            leaves += [f"{field.name}.{child.name}" for child in field.type]
        elif pa.types.is_list(field.type):
            leaves.append(f"{field.name}.list.element")
        else:
            leaves.append(field.name)
    return leaves
