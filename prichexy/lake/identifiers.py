"""Looks for identifiers in a publication: in each text column, each DICOM file, and, if asked, by a list and by eye.

Patterns in text and the allow-list of DICOM attributes cost little and are always looked at. A list of canaries means
that all bytes are searched and all pixels decoded; the text detector takes 0.12 s for a megapixel and now
and then sees text where there is none. So both are the user's choice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from pydantic import ValidationError

from prichexy.config import DeidConfig
from prichexy.deid import ProfileOptions
from prichexy.deid.scan import DEVICE_KINDS, Canaries, dicom_problems, text_identifiers, text_in_image
from prichexy.errors import PrichexyError, Quarantined
from prichexy.imaging import decode_published
from prichexy.lake.commit import Commit
from prichexy.lake.job import Job

SAMPLE_SEED = 20
"""The same publication gives the same sample of images."""

_PROVEN = ("image_id", "patient_id", "view", "laterality", "findings", "model_version", "dicom")
"""Columns whose values `verify` compares with their vocabulary or form; the others are searched for patterns."""
_OF_DEVICES = ("manufacturer", "manufacturer_model")

_IN_COMPRESSED = 6
_IN_PIXELS = 12
"""Bytes of the shortest form of a canary that is looked for: in compressed bytes shorter ones occur by chance, and in
8-bit pixels a noisy dark background (levels 48 to 57 are the digits of ASCII) spells numbers."""

_PIXEL_DATA = b"\xe0\x7f\x10\x00O"
_MOST_NAMED = 3


@dataclass(frozen=True)
class IdentifierScan:
    """What to look for, and where.

    Attributes:
        options: of the job's header profile.
        canaries: identifiers that must not occur, None where nobody listed any.
        images: shard's name -> which of its rows the text detector looks at.
    """

    options: ProfileOptions
    canaries: Canaries | None = None
    images: Mapping[str, list[int]] = field(default_factory=dict)

    @classmethod
    def of_job(
        cls, job: Job, commits: list[Commit], canaries: Canaries | None = None, images: int = 0
    ) -> "IdentifierScan":
        """The scan of a whole publication.

        Args:
            job: whose settings say what may be there.
            commits: of all shards.
            canaries: identifiers that must not occur.
            images: how many the text detector looks at, drawn over all shards with a fixed seed; fewer where there
                are no more.

        Raises:
            PrichexyError: the job's settings of de-identification are none.
        """
        try:
            settings = DeidConfig(**{**job.deid, "columns": job.columns})
        except (TypeError, ValidationError):
            raise PrichexyError("the manifest names settings of de-identification that don't exist") from None
        return cls(profile_options(settings), canaries, _sample(commits, images))

    def in_shard(self, shard: str, data: pa.Table, quarantine: pa.Table) -> list[str]:
        """Problems in the rows of a shard: patterns and canaries in text, canaries and text in images."""
        problems = []
        texts: set[str] = set()
        for table in (data, quarantine):
            for column, values in _text_columns(table):
                texts |= values
                if column in _PROVEN:
                    continue
                kinds = {kind for value in values for kind in text_identifiers(value)}
                kinds &= DEVICE_KINDS if column in _OF_DEVICES else kinds
                problems += [f"shard {shard}: column {column} holds what looks like a {kind}" for kind in sorted(kinds)]
        problems += self._found("\n".join(sorted(texts)).encode(), f"shard {shard}: text columns hold")
        return problems + self._in_images(shard, data)

    def in_dicom(self, path: str, data: bytes) -> list[str]:
        """Problems in a DICOM file; canaries in what is compressed in it are found in the shard's images."""
        problems = [f"{path}: {problem}" for problem in dicom_problems(data, self.options)]
        pixels = data.find(_PIXEL_DATA)
        head, tail = (data[:pixels], data[pixels:]) if pixels >= 0 else (data, b"")
        problems += self._found(head, f"the header of {path} holds")
        return problems + self._found(tail, f"the pixel data of {path} hold", _IN_PIXELS)

    def in_file(self, path: str, data: bytes, compressed: bool = False) -> list[str]:
        """Canaries in any other file, and in its name."""
        found = self._found(path.encode(), "a file name holds")
        return found + self._found(data, f"{path} holds", _IN_COMPRESSED if compressed else 0)

    def _in_images(self, shard: str, data: pa.Table) -> list[str]:
        seen = set(self.images.get(shard, []))
        if not seen and self.canaries is None:
            return []
        problems, texts = [], []
        row = -1
        for batch in data.select(["image_id", "image"]).to_batches(max_chunksize=16):
            for image_id, image in zip(batch["image_id"].to_pylist(), batch["image"], strict=True):
                row += 1
                if self.canaries is None and row not in seen:
                    continue
                try:
                    radiograph = decode_published(image["bytes"].as_py() or b"")
                except Quarantined:
                    continue  # `verify` reports damaged images
                place = f"shard {shard}: pixels of an image hold"
                problems += self._found(radiograph.pixels.tobytes(), place, _IN_PIXELS)
                if row in seen and text_in_image(radiograph.pixels, radiograph.bit_depth):
                    texts.append(image_id)
        if texts:
            named = ", ".join(texts[:_MOST_NAMED]) + (", ..." if len(texts) > _MOST_NAMED else "")
            problems.append(f"shard {shard}: {len(texts)} of {len(seen)} sampled images seem to show text: {named}")
        return problems

    def _found(self, data: bytes, place: str, least_bytes: int = 0) -> list[str]:
        found = self.canaries.found_in(data, least_bytes) if self.canaries is not None else 0
        return [f"{place} {found} of the canaries"] if found else []


def profile_options(settings: DeidConfig) -> ProfileOptions:
    """The options of the header profile that these settings mean."""
    return ProfileOptions(
        modified_dates=settings.modified_dates,
        patient_characteristics=settings.patient_characteristics,
        device_identity=settings.device_identity,
        pixels_cleaned=settings.burned_in_text != "off",
        safe_private=settings.private_attributes,
    )


def _text_columns(table: pa.Table) -> list[tuple[str, set[str]]]:
    """Each column of text, also of lists of text and of image names, with its different values."""
    found = []
    for name in table.column_names:
        column: Any = table[name]
        if pt.is_struct(column.type):
            column = pc.struct_field(column, "path")
        elif pt.is_list(column.type):
            column = pc.list_flatten(column)
        if pt.is_string(column.type):
            found.append((name, {value for value in pc.unique(column).to_pylist() if value is not None}))
    return found


def _sample(commits: list[Commit], images: int) -> dict[str, list[int]]:
    """Name of shard -> rows of a sample drawn over all published rows."""
    ends = np.cumsum([commit.published for commit in commits], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    drawn = np.sort(np.random.default_rng(SAMPLE_SEED).choice(total, min(images, total), replace=False))
    sample: dict[str, list[int]] = {}
    for number in drawn.tolist():
        position = int(np.searchsorted(ends, number, side="right"))
        commit = commits[position]
        sample.setdefault(commit.name, []).append(number - int(ends[position]) + commit.published)
    return sample
