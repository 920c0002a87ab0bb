"""Croissant metadata (MLCommons, version 1.1): croissant.json, made and validated by mlcroissant.

Shards are named by pattern or path, without hashes of their own: the manifest, which is named with its hash, holds
them. A reader that checks the one has checked the others.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from prichexy.errors import PrichexyError, UsageError
from prichexy.lake.shards import digest
from prichexy.publish.facts import Facts
from prichexy.publish.source import SPLITS

CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
PARQUET = "application/x-parquet"

SHARDS, MANIFEST, SPLIT_FILE = "shards", "manifest", "splits-file"


def croissant(facts: Facts, splits: bytes | None) -> str:
    """The metadata's JSON-LD, already validated.

    Args:
        facts: what is said.
        splits: the bytes of the splits file; None without one.

    Raises:
        UsageError: mlcroissant is not installed.
        PrichexyError: the metadata are not valid; the sentence is mlcroissant's first.
    """
    mlc = _mlcroissant()
    with _complaints():
        context = mlc.Context(conforms_to=CONFORMS_TO)
        makers = [mlc.Organization(ctx=context, name=name) for name in facts.config.creators]
        publisher = [_publisher(mlc, context, facts)] if facts.config.contact else []
        licence = facts.licence.url or facts.licence.spdx
        metadata = mlc.Metadata(
            ctx=context,
            name=facts.title,
            description=facts.summary,
            version=facts.version,
            url=facts.config.url,
            license=[licence] if licence else None,
            creators=makers,
            publisher=publisher,
            cite_as=facts.citation,
            date_published=facts.date,
            keywords=["chest radiograph", "anonymized", *facts.config.tags],
            data_collection=facts.config.origin,
            personal_sensitive_information=[_sensitive(facts)],
            data_limitations=[_limitations(facts)],
            distribution=_distribution(mlc, context, facts, splits),
            record_sets=_record_sets(mlc, context, facts),
        )
        text = json.dumps(metadata.to_json(), indent=2, ensure_ascii=False, default=str) + "\n"
    validate(text)
    return text


def validate(text: str | bytes) -> list[str]:
    """What mlcroissant advises about metadata that are valid.

    Args:
        text: the JSON-LD.

    Raises:
        UsageError: mlcroissant is not installed.
        PrichexyError: not valid.
    """
    mlc = _mlcroissant()
    with _complaints():
        metadata = mlc.Dataset(json.loads(text)).metadata
        return sorted(str(warning) for warning in metadata.issues.warnings)


def _distribution(mlc: Any, context: Any, facts: Facts, splits: bytes | None) -> list[Any]:
    publication = facts.publication
    # Readers take images for PNG or JPEG unless told; the file's own format comes first, by which they open it.
    held = [] if publication.encoding == "png" else [facts.encoding.media_type]
    shards = mlc.FileSet(
        ctx=context,
        id=SHARDS,
        name=SHARDS,
        description="The Parquet files that hold the images; their hashes stand in the manifest.",
        includes=publication.data_patterns,
        encoding_formats=[PARQUET, *held],
    )
    manifest = mlc.FileObject(
        ctx=context,
        id=MANIFEST,
        name=MANIFEST,
        description="Names all shards, with rows, bytes and SHA-256.",
        content_url=publication.manifest.path,
        content_size=f"{publication.manifest.bytes} B",
        sha256=publication.manifest.sha256,
        encoding_formats=["application/json"],
    )
    if splits is None:
        return [shards, manifest]
    file = mlc.FileObject(
        ctx=context,
        id=SPLIT_FILE,
        name=SPLIT_FILE,
        description="The split of each image, by patient; joined by image_id.",
        content_url=SPLITS,
        content_size=f"{len(splits)} B",
        sha256=digest(splits),
        encoding_formats=[PARQUET],
    )
    return [shards, manifest, file]


def _record_sets(mlc: Any, context: Any, facts: Facts) -> list[Any]:
    images = mlc.RecordSet(
        ctx=context,
        id="images",
        name="images",
        description="One record an image.",
        key=["images/image_id"],
        fields=[
            _field(
                mlc,
                context,
                "images",
                column,
                facts.meanings[column.name],
                mlc.Source(ctx=context, file_set=SHARDS, **_extract(mlc, context, column)),
            )
            for column in facts.schema
        ],
    )
    if facts.splits is None:
        return [images]
    fields = [
        _field(
            mlc,
            context,
            "splits",
            column,
            facts.meanings.get(column.name, "train, validation or test."),
            mlc.Source(ctx=context, file_object=SPLIT_FILE, **_extract(mlc, context, column)),
        )
        for column in facts.splits.table.schema
    ]
    # image_id could be declared a reference to images/image_id; mlcroissant would then read and join all images
    # whenever somebody asks for the splits.
    described = "The split of each image: train, validation or test, by patient; none where the patient is unknown."
    splits = mlc.RecordSet(
        ctx=context, id="splits", name="splits", description=described, key=["splits/image_id"], fields=fields
    )
    return [images, splits]


def _field(mlc: Any, context: Any, record_set: str, column: pa.Field, meaning: str, source: Any) -> Any:
    types = {
        pa.int8(): mlc.DataType.INT8,
        pa.int32(): mlc.DataType.INT32,
        pa.date32(): mlc.DataType.DATE,
    }
    is_list = pa.types.is_list(column.type)
    kind = mlc.DataType.IMAGE_OBJECT if pa.types.is_struct(column.type) else types.get(column.type, mlc.DataType.TEXT)
    return mlc.Field(
        ctx=context,
        id=f"{record_set}/{column.name}",
        name=column.name,
        description=meaning,
        data_types=[kind],
        is_array=is_list or None,
        array_shape="-1" if is_list else None,
        source=source,
    )


def _extract(mlc: Any, context: Any, column: pa.Field) -> dict[str, Any]:
    extract: dict[str, Any] = {"extract": mlc.Extract(ctx=context, column=column.name)}
    if pa.types.is_struct(column.type):
        extract["transforms"] = [mlc.Transform(ctx=context, json_path="bytes")]
    return extract


def _publisher(mlc: Any, context: Any, facts: Facts) -> Any:
    contact = str(facts.config.contact)
    name = facts.config.creators[0] if facts.config.creators else contact
    reached = {"url": contact} if contact.startswith(("https://", "http://")) else {"email": contact}
    return mlc.Organization(ctx=context, name=name, **reached)


def _sensitive(facts: Facts) -> str:
    start = "Medical images of people. Header identifiers were removed, text in the pixels treated as the card says. "
    if facts.audited:
        return start + "The model that changed the anatomy passed its audit; residual risk is in the card."
    return (
        start + "UNAUDITED: no passing audit of the model that changed the anatomy is proven; it may identify people."
    )


def _limitations(facts: Facts) -> str:
    counts = f"{facts.withholds} in the documents, not in the public rows and manifest. "
    return counts + "Changed anatomy: no measurements, no diagnosis. Labels are as the source had them."


def _mlcroissant() -> Any:
    try:
        import mlcroissant
    except ImportError:
        raise UsageError(
            "Croissant metadata need the package mlcroissant: install prichexy with its extra [publish]"
        ) from None
    return mlcroissant


@contextmanager
def _complaints() -> Iterator[None]:
    """Errors of mlcroissant in one sentence; what it advises is asked for, not printed."""
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        yield
    except Exception as error:
        # Its own sentences quote the metadata, which are public; what other exceptions quote nobody knows.
        own = type(error).__name__ == "ValidationError"
        reason = " ".join(str(error).split())[:300] if own else type(error).__name__
        raise PrichexyError(f"the Croissant metadata are not valid: {reason}") from None
