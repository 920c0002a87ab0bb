"""What tables publish of a header: typed columns, chosen by allow-list."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType
from typing import Any

from pydicom import Dataset

from prichexy.deid.cleaning import OLDEST
from prichexy.deid.profile import ProfileOptions

PUBLISHED_COLUMNS = MappingProxyType(
    {
        "modality": str,
        "body_part": str,
        "view": str,
        "laterality": str,
        "patient_sex": str,
        "patient_age": int,
        "study_date": date,
        "manufacturer": str,
        "manufacturer_model": str,
    }
)
"""Column -> type of its values; each may be None. `patient_age` is in full years, 90 for all older patients;
`study_date` is the shifted date."""


@dataclass(frozen=True, slots=True)
class _Column:
    keyword: str
    read: Callable[[Any], Any] = str
    offered: Callable[[ProfileOptions], bool] = lambda options: True


def published_columns(header: Dataset, options: ProfileOptions) -> dict[str, str | int | date | None]:
    """The row of a table that belongs to one de-identified header.

    Args:
        header: what `prichexy.deid.deidentify` returned; a source header must not be given.
        options: as given to `deidentify`; a column whose option is off is None.

    Returns:
        Every name of `PUBLISHED_COLUMNS`.
    """
    return {name: _value(header, column, options) for name, column in _COLUMNS.items()}


def _value(header: Dataset, column: _Column, options: ProfileOptions) -> Any:
    value = header.get(column.keyword) if column.offered(options) else None
    return column.read(value) if value else None


def _years(age: str) -> int:
    """Full years of an age string (AS): 045Y, 018M, 006W or 012D."""
    days = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}[age[3]]
    return min(OLDEST, int(int(age[:3]) * days / 365.25))


def _date(value: str) -> date:
    return date(int(value[:4]), int(value[4:6]), int(value[6:8]))


_COLUMNS = {
    "modality": _Column("Modality"),
    "body_part": _Column("BodyPartExamined"),
    "view": _Column("ViewPosition"),
    "laterality": _Column("ImageLaterality"),
    "patient_sex": _Column("PatientSex", str, lambda options: options.patient_characteristics),
    "patient_age": _Column("PatientAge", _years, lambda options: options.patient_characteristics),
    "study_date": _Column("StudyDate", _date, lambda options: options.modified_dates),
    "manufacturer": _Column("Manufacturer", str, lambda options: options.device_identity),
    "manufacturer_model": _Column("ManufacturerModelName", str, lambda options: options.device_identity),
}
