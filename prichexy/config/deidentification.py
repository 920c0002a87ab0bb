"""Settings of de-identification: header profile, burned-in text, and what tables publish of a header."""

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from prichexy.config.shared import Settings

BurnedInText = Literal["off", "detect-and-quarantine", "redact"]
TransferSyntax = Literal["uncompressed", "rle", "jpeg-ls", "jpeg-2000"]
HeaderColumn = Literal[
    "modality", "body_part", "patient_sex", "patient_age", "study_date", "manufacturer", "manufacturer_model"
]

_NEEDS: dict[HeaderColumn, str] = {
    "patient_sex": "patient_characteristics",
    "patient_age": "patient_characteristics",
    "study_date": "modified_dates",
    "manufacturer": "device_identity",
    "manufacturer_model": "device_identity",
}
_PRIVATE = re.compile(r"(?P<creator>[^\\,]{1,64}),(?P<group>[0-9a-fA-F]{4}),(?P<element>[0-9a-fA-F]{2})")


class DeidConfig(Settings):
    """What goes, what stays: options of DICOM PS3.15 E.3, burned-in text, columns."""

    burned_in_text: BurnedInText = Field(
        "redact", description="text in the pixels: redact covers it, detect-and-quarantine sets the image aside, off"
    )
    full_resolution: bool = Field(
        False, description="look for text at full resolution in images over 768 px too; three times the work"
    )
    modified_dates: bool = Field(
        True, description="keep dates, moved by days that depend on key and patient; off: dates go"
    )
    patient_characteristics: bool = Field(
        True, description="keep age (capped at 90) and sex, size, weight; off: they go"
    )
    device_identity: bool = Field(False, description="keep manufacturer, model, serial numbers, station name")
    safe_private: tuple[str, ...] = Field(
        (), description="private attributes that pass, as 'CREATOR,0019,10'; numbers and short text only"
    )
    columns: tuple[HeaderColumn, ...] = Field(
        ("patient_sex", "patient_age", "study_date"), description="columns that shards publish of DICOM headers"
    )

    @field_validator("burned_in_text", mode="before")
    @classmethod
    def _off_is_a_word(cls, given: object) -> object:
        return "off" if given is False else given  # YAML 1.1 reads a bare off as false

    @field_validator("safe_private")
    @classmethod
    def _names_attributes(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            found = _PRIVATE.fullmatch(entry)
            if found is None or int(found["group"], 16) % 2 == 0:
                raise ValueError("a private attribute is named as 'CREATOR,0019,10': creator, odd group, element")
        return entries

    @model_validator(mode="after")
    def _columns_have_a_source(self) -> Self:
        if len(set(self.columns)) != len(self.columns):
            raise ValueError("columns names a column twice")
        for column in self.columns:
            option = _NEEDS.get(column)
            if option and not getattr(self, option):
                raise ValueError(f"column {column} needs {option}: switch that on, or leave the column out")
        return self

    @property
    def private_attributes(self) -> frozenset[tuple[str, int, int]]:
        """`safe_private` as (creator, group, last two digits of the element)."""
        parts = (entry.rsplit(",", 2) for entry in self.safe_private)
        return frozenset((creator, int(group, 16), int(element, 16)) for creator, group, element in parts)
