"""Writes the two generated tables of this package: the standard's profile, and its codes for radiographs.

    pip download dicom-anonymizer --no-deps -d FOLDER && unzip FOLDER/dicom_anonymizer-*.whl -d FOLDER
    python -m prichexy.deid.build_tables FOLDER/dicomanonymizer/dicom_anonymization_databases/dicomfields_2026c.py

`profile.csv` is Table E.1-1 of DICOM PS3.15. Its basic actions come from the edition that dicom-anonymizer (Kitware,
BSD 3-Clause) generates from the standard; they are parsed, never executed. The three option columns that this package
offers are filled in here from the rules below, since that source leaves them out. `codes.csv` are the codes of PS3.16
that a radiograph's header may carry, from pydicom's dictionaries (MIT), which are generated from the standard too.
"""

import csv
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.sr._cid_dict import cid_concepts
from pydicom.sr._concepts_dict import concepts
from pydicom.sr._snomed_dict import mapping

TABLES = Path(__file__).parent / "tables"

_CATEGORY = re.compile(r"^(\w+)_TAGS = \[")
_ROW = re.compile(r"\((0x[0-9A-F]{4}), (0x[0-9A-F]{4})(?:, (0x[0-9A-F]{4}), (0x[0-9A-F]{4}))?\),\s*# (.+)$", re.I)
_WRAPPED = re.compile(r"\(\s+(0x\w{4}),\s+(0x\w{4}),\s+\)")
_ACTIONS = {"Z_D": "Z/D", "X_Z": "X/Z", "X_D": "X/D", "X_Z_D": "X/Z/D", "X_Z_U_STAR": "X/Z/U*"}

_NO_MODIFIED_DATE = {"PatientBirthDate", "PatientBirthTime", "GPSTimeStamp"}
"""The only dates and times of the table that the option Retain Longitudinal Temporal Information with Modified Dates
(E.3.6) does not clean but leaves to the basic action."""

_PATIENT_KEPT = """
    EthnicGroup EthnicGroupCodeSequence PatientAge PatientSex PatientSexNeutered PatientSize PatientWeight
    PregnancyStatus SelectorASValue SmokingStatus
"""
_PATIENT_CLEANED = "Allergies PatientState PreMedication SpecialNeeds"
"""Column Retain Patient Characteristics Option (E.3.7): K and C."""

_DEVICE_KEPT = """
    BeamHoldTransitionDateTime CalibrationDate CalibrationDateTime CalibrationTime CassetteID DateOfInstallation
    DateOfLastCalibration DateOfLastDetectorCalibration DateOfManufacture DateTimeOfLastCalibration DetectorID
    DeviceDescription DeviceLabel DeviceSerialNumber DeviceUID GantryID GeneratorID LensMake LensModel
    LensSerialNumber LensSpecification ManufacturerDeviceClassUID ManufacturerDeviceIdentifier ModifyingDeviceID
    ModifyingSystem PerformedStationGeographicLocationCodeSequence PerformedStationName
    PerformedStationNameCodeSequence PlateID ScheduledProcedureStepLocation
    ScheduledStationGeographicLocationCodeSequence ScheduledStationName ScheduledStationNameCodeSequence
    ScheduledStudyLocation SourceManufacturer SourceSerialNumber StationName TimeOfLastCalibration
    TimeOfLastDetectorCalibration TransducerIdentificationSequence TreatmentMachineName UDISequence
    UniqueDeviceIdentifier XRayDetectorID XRayDetectorLabel XRaySourceID
"""
_DEVICE_CLEANED = """
    DestinationAE NetworkID Originator PerformedStationAETitle ReceivingAE RequestingAE RetrieveAETitle
    ScheduledStationAETitle ScheduledStudyLocationAETitle SelectorAEValue StationAETitle
"""
"""Column Retain Device Identity Option (E.3.8): K and C."""

_CONTEXT_GROUPS = (4009, 4010, 4011, 4012, 4031, 2, 4, 19, 20, 21, 23, 244, 7201, 7202, 7203)
"""PS3.16: anatomic regions and modifiers, orientation, laterality, DX views, purposes of reference, derivations."""

_FORMER_CODES = {"51185008": "Chest", "43799004": "Thoracic cavity"}
"""SNOMED CT codes of the chest in earlier editions of CID 4009 and CID 4031; most files at hand carry them."""

_PATIENT, _DEVICE = (
    dict.fromkeys(kept.split(), "K") | dict.fromkeys(cleaned.split(), "C")
    for kept, cleaned in ((_PATIENT_KEPT, _PATIENT_CLEANED), (_DEVICE_KEPT, _DEVICE_CLEANED))
)


def profile_rows(database: str) -> Iterator[list[str]]:
    """One row an entry of Table E.1-1: tag, keyword, VR, basic action, the three option columns, name.

    Args:
        database: the text of dicom-anonymizer's `dicomfields_EDITION.py`.
    """
    action = ""
    for line in _WRAPPED.sub(r"(\1, \2)", database).splitlines():
        if found := _CATEGORY.match(line):
            action = _ACTIONS.get(found[1], found[1])
        elif found := _ROW.search(line):
            tag, keyword, vr = _tag(found[1], found[2], found[3])
            dated = vr in ("DA", "DT", "TM") and keyword not in _NO_MODIFIED_DATE
            options = ["C" if dated else "", _PATIENT.get(keyword, ""), _DEVICE.get(keyword, "")]
            yield [tag, keyword, vr, action, *options, found[5].strip()]


def _tag(group: str, element: str, group_mask: str | None) -> tuple[str, str, str]:
    """Tag as eight digits (x where any digit stands), keyword and VR as far as pydicom's dictionary has them."""
    digits = f"{int(group, 16):04X}{int(element, 16):04X}"
    if group_mask is not None:  # repeating groups: curves whole (50xx,xxxx), two attributes of overlays (60xx,eeee)
        return f"{digits[:2]}xx" + ("xxxx" if digits[4:] == "0000" else digits[4:]), "", ""
    number = int(digits, 16)
    keyword = keyword_for_tag(number)
    return digits, keyword, dictionary_VR(number) if keyword else ""


def code_rows() -> Iterator[list[str]]:
    """One row a code: value, coding scheme, meaning; SNOMED CT codes also under their old SRT value."""
    srt = {sct: old for old, sct in mapping["SRT"].items()}
    seen = set(_FORMER_CODES)
    for group in _CONTEXT_GROUPS:
        for scheme, keywords in cid_concepts[group].items():
            for keyword in keywords:
                entries: dict[str, tuple[str, list[int]]] = concepts[scheme][keyword]  # type: ignore[assignment]
                for value, (meaning, groups) in entries.items():
                    if group in groups and value not in seen:
                        seen.add(value)
                        plain = re.sub(r" \([a-z /]+\)$", "", meaning)[:64]
                        yield from _with_former_scheme(value, scheme, plain, srt)
    for value, meaning in _FORMER_CODES.items():
        yield from _with_former_scheme(value, "SCT", meaning, srt)


def _with_former_scheme(value: str, scheme: str, meaning: str, srt: dict[str, str]) -> Iterator[list[str]]:
    yield [value, scheme, meaning]
    if scheme == "SCT" and value in srt:
        yield [srt[value], "SRT", meaning]


def write(path: Path, header: list[str], rows: Iterable[list[str]]) -> None:
    """A CSV file, rows sorted, so that a new edition shows as a readable difference."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(sorted(rows))


def main() -> None:
    """Write both tables."""
    database = Path(sys.argv[1]).read_text(encoding="utf-8")
    header = ["tag", "keyword", "vr", "basic", "modified_dates", "patient", "device", "name"]
    write(TABLES / "profile.csv", header, profile_rows(database))
    write(TABLES / "codes.csv", ["value", "scheme", "meaning"], code_rows())


if __name__ == "__main__":
    main()
