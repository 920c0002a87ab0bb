"""What all documents of a publication say, each in its own form.

Where rows are counted (`census`, `splits`), a count of few patients is withheld. Where files are counted
(`text_covered`, `set_aside`, `set_aside_total`), whose they are is not known of each, and fewer than `small_cell` files
are withheld. That holds for the documents only: the rows are public, and so is the manifest, which has the exact
numbers of files.
"""

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from prichexy.config.publication import PublishConfig
from prichexy.imaging import ENCODINGS, Encoding
from prichexy.lake.shards import PUBLISHED
from prichexy.provenance import code_version
from prichexy.publish.counting import Census
from prichexy.publish.evidence import Evidence
from prichexy.publish.licences import Licence
from prichexy.publish.source import Publication
from prichexy.publish.splits import Splits
from prichexy.publish.suppression import Cell, Table, share, suppressed

WITHHOLDS = "Counts of fewer than {} patients are withheld"
"""What each document says of small counts; `publish --check` reads from the card how small."""

COLUMN_MEANINGS = {
    "image_id": "Keyed pseudonym of the image, unique.",
    "patient_id": "Keyed pseudonym of the patient; null where unknown.",
    "image": "The radiograph as a lossless PNG, in a struct of bytes and path.",
    "width": "Of the image, in pixels.",
    "height": "Of the image, in pixels.",
    "bit_depth": "Significant bits of a pixel. More than 8 are stored as 16-bit PNG, scaled to its full range.",
    "view": "View position as in DICOM (0018,5101): PA, AP, LL and so on; null where not stated.",
    "laterality": "Image laterality as in DICOM (0020,0062); null where not stated.",
    "findings": "Those of the 14 findings of ChestX-ray14 that the labels name, empty for none of them; null where not "
    "labelled.",
    "model_version": "The model that changed the image.",
    "modality": "DICOM modality.",
    "body_part": "DICOM body part examined.",
    "patient_sex": "F, M or O.",
    "patient_age": "In full years, 90 for all who are older.",
    "study_date": "Moved by the patient's own number of days: only intervals within a patient are real.",
    "manufacturer": "Of the device.",
    "manufacturer_model": "Of the device.",
    "dicom": "Path of the row's de-identified DICOM file; null where the source was none.",
}
"""A sentence for each column that shards may have, of which images are PNG."""

JPEG_XL_MEANINGS = {
    "image": "The radiograph as a lossless JPEG XL, in a struct of bytes and path.",
    "bit_depth": "Significant bits of a pixel, which the image names as well; some readers scale more than 8 to 16.",
}
"""The same where images are JPEG XL."""


@dataclass(frozen=True)
class Facts:
    """Everything that is said.

    Attributes:
        publication: the newest snapshot.
        config: what the publisher says of it.
        census: what was counted.
        evidence: what is proven of its models.
        splits: None unless they were asked for.
    """

    publication: Publication
    config: PublishConfig
    census: Census
    evidence: list[Evidence]
    splits: Splits | None

    @property
    def title(self) -> str:
        """What the data set is called."""
        return self.config.title or "Anonymized chest radiographs"

    @property
    def version(self) -> str:
        """MAJOR.MINOR.PATCH."""
        return self.config.version or f"{self.publication.snapshot}.0.0"

    @property
    def date(self) -> str:
        """The day on which the snapshot was finished, ISO 8601."""
        return self.publication.finished[:10]

    @property
    def licence(self) -> Licence:
        """Its licence."""
        return Licence(self.config.license, self.config.license_file is not None)

    @property
    def audited(self) -> bool:
        """Whether every image was made by a model whose passing audit allowed it, and is proven."""
        return all(found.state == "passed" and found.stamped for found in self.evidence)

    @property
    def code(self) -> str:
        """Which version of prichexy says all this."""
        return code_version()

    @property
    def split_name(self) -> str:
        """What Hugging Face calls the rows as a whole: ``unsplit`` where splits are a table beside them."""
        return "unsplit" if self.splits else "train"

    @property
    def summary(self) -> str:
        """What it is, in the publisher's words or in ours."""
        if self.config.description:
            return self.config.description
        count = "" if self.census.images is None else f"{self.census.images:,} "
        makings = self.publication.makings
        changed = all(making.settings.get("kind") != "identity" for making in makings)
        looked = all(making.deid.get("burned_in_text") in ("redact", "detect-and-quarantine") for making in makings)
        anatomy = "changed so that the anatomy tells less of whose they are" if changed else "the anatomy as it was"
        text = "text in the pixels was looked for" if looked else "text in the pixels was not looked for in all of them"
        return f"{count}chest radiographs, {anatomy}, without header data that identify patients; {text}."

    @property
    def withholds(self) -> str:
        """Which counts are withheld, as a sentence without its end."""
        return WITHHOLDS.format(self.config.small_cell)

    @property
    def tables(self) -> list[Table]:
        """All tables of counts."""
        return [*self.census.tables, *([self.splits.counts] if self.splits else [])]

    @cached_property
    def set_aside(self) -> Table | None:
        """Source files that were not published, by reason; few files are withheld. None where there are none."""
        if not self.publication.quarantined:
            return None
        cells = [Cell(reason, count, count) for reason, count in sorted(self.publication.quarantined.items())]
        return suppressed("quarantined", "Reason", cells, self.config.small_cell)

    @property
    def set_aside_total(self) -> int | None:
        """How many source files were not published; None where the files are too few."""
        count = sum(self.publication.quarantined.values())
        return None if 0 < count < self.config.small_cell else count

    @property
    def text_covered(self) -> int | None:
        """Images, each a file, in which text was covered; None where these, or the others, are too few files."""
        return share(self.publication.text_covered, self.publication.images, self.config.small_cell)

    @property
    def schema(self) -> pa.Schema:
        """Columns of the shards."""
        return self.publication.schema

    @property
    def encoding(self) -> Encoding:
        """Of the images."""
        return ENCODINGS[self.publication.encoding]

    @property
    def meanings(self) -> dict[str, str]:
        """What each column means."""
        return {**COLUMN_MEANINGS, **(JPEG_XL_MEANINGS if self.publication.encoding == "jpeg-xl" else {})}

    @property
    def citation(self) -> str | None:
        """How to cite the data set; None where neither a citation nor creators are given."""
        if self.config.citation:
            return self.config.citation
        if not self.config.creators:
            return None
        where = f" {self.config.url}" if self.config.url else ""
        return f"{'; '.join(self.config.creators)} ({self.date[:4]}). {self.title}, version {self.version}.{where}"

    @property
    def header_columns(self) -> list[str]:
        """Columns beside those that every publication has."""
        return [name for name in self.schema.names if name not in PUBLISHED.names]
