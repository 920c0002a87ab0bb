"""The same input gives the same output, wherever and in whatever order; another key gives nothing in common."""

import hashlib
import random
import subprocess
import sys
from datetime import date
from io import BytesIO

from pydicom import Dataset, dcmread
from pydicom.uid import UID

from prichexy.deid import ProfileOptions, deidentify, header_bytes, patient_key, published_columns, read_header
from prichexy.imaging.dicom import _patient_key
from tests.deid.headers import KEYS, OTHER_KEYS, phantom_file, phantom_header

FILES = [(patient, study) for patient in range(4) for study in range(3)]


def related(patient: int, study: int) -> Dataset:
    """A phantom header that refers to the patient's other studies, and to one image twice."""
    header = phantom_header(patient, study)
    others = [phantom_header(patient, other) for other in range(3) if other != study]
    for keyword in ("ReferencedImageSequence", "SourceImageSequence"):
        items = []
        for other in others:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = other.SOPClassUID, other.SOPInstanceUID
            items.append(item)
        setattr(header, keyword, items)
    header.FrameOfReferenceUID = others[0].FrameOfReferenceUID if "FrameOfReferenceUID" in others[0] else "1.2.99"
    return header


def uids(header: Dataset) -> set[str]:
    """Every UID in the header but those that the standard defines."""
    found = set()
    for element in header.iterall():
        values = element.value if element.VM > 1 else [element.value]
        found |= {str(uid) for uid in values if element.VR == "UI" and UID(uid).name == str(uid)}
    return found


def test_order_of_the_files_makes_no_difference() -> None:
    in_order = {which: header_bytes(deidentify(related(*which), KEYS)) for which in FILES}
    shuffled = random.Random(3).sample(FILES, len(FILES))
    assert {which: header_bytes(deidentify(related(*which), KEYS)) for which in shuffled} == in_order
    assert len(set(in_order.values())) == len(FILES)


def test_another_process_gives_the_same_bytes() -> None:
    program = (
        "import hashlib; from prichexy.deid import deidentify, header_bytes; from tests.deid.headers import *;"
        "print(hashlib.sha256(header_bytes(deidentify(phantom_header(2, 1), KEYS))).hexdigest())"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert told == hashlib.sha256(header_bytes(deidentify(phantom_header(2, 1), KEYS))).hexdigest()


def test_references_between_instances_resolve() -> None:
    headers = {which: deidentify(related(*which), KEYS) for which in FILES}
    for (patient, study), header in headers.items():
        expected = [headers[patient, other].SOPInstanceUID for other in range(3) if other != study]
        assert [item.ReferencedSOPInstanceUID for item in header.ReferencedImageSequence] == expected
        assert [item.ReferencedSOPInstanceUID for item in header.SourceImageSequence] == expected
    for keyword in ("SOPInstanceUID", "StudyInstanceUID"):
        assert len({header[keyword].value for header in headers.values()}) == len(FILES)


def test_another_key_shares_no_id() -> None:
    ours, theirs = (
        [deidentify(related(*which), keys) for which in FILES] for keys in (KEYS, OTHER_KEYS)
    )  # fmt: skip
    our_uids, their_uids = set().union(*map(uids, ours)), set().union(*map(uids, theirs))
    assert len(our_uids) == len(their_uids) > 3 * len(FILES)
    assert not our_uids & their_uids
    assert not our_uids & set().union(*(uids(related(*which)) for which in FILES))
    assert not {header.PatientID for header in ours} & {header.PatientID for header in theirs}
    assert any(a.StudyDate != b.StudyDate for a, b in zip(ours, theirs, strict=True))


def test_patients_keep_order_and_intervals_of_their_studies() -> None:
    def days(header: Dataset) -> list[int]:
        return [
            date(int(d[:4]), int(d[4:6]), int(d[6:])).toordinal()
            for d in (header.StudyDate, header.AcquisitionDate, header.ContentDate, header.SeriesDate)
        ]

    shifts = {}
    for patient in range(4):
        moves = {
            after - before
            for study in range(3)
            for before, after in zip(
                days(phantom_header(patient, study)),
                days(deidentify(phantom_header(patient, study), KEYS)),
                strict=True,
            )
        }
        assert len(moves) == 1
        shifts[patient] = moves.pop()
    assert len(set(shifts.values())) == 4
    assert all(0 < abs(shift) <= 1826 for shift in shifts.values())


def test_patient_id_is_that_of_the_job_and_keyed_with_its_issuer() -> None:
    source = phantom_header(1)
    key = patient_key(source)
    assert key == _patient_key(source)
    assert key is not None
    header = deidentify(source, KEYS)
    assert header.PatientID == KEYS.patient_id(*key)
    source.IssuerOfPatientID = "ELSEWHERE"
    assert deidentify(source, KEYS).PatientID != header.PatientID


def test_patient_named_by_the_catalog_comes_before_that_of_the_header() -> None:
    labelled = deidentify(phantom_header(1), KEYS, patient=("", "00007"))
    assert labelled.PatientID == KEYS.patient_id("", "00007")
    assert labelled.StudyDate != deidentify(phantom_header(1), KEYS).StudyDate
    unnamed = phantom_header(1)
    del unnamed.PatientID
    assert deidentify(unnamed, KEYS, patient=("", "00007")).PatientID == labelled.PatientID


def test_patient_id_is_the_same_in_every_character_set() -> None:
    found = set()
    for character_set in ("ISO_IR 100", "ISO_IR 192"):
        source = Dataset()
        source.SpecificCharacterSet, source.PatientID = character_set, "Äß-12"
        buffer = BytesIO()
        source.save_as(buffer, implicit_vr=False, little_endian=True)
        found.add(deidentify(dcmread(BytesIO(buffer.getvalue()), force=True), KEYS).PatientID)
    assert found == {KEYS.patient_id("", "Äß-12")}


def test_dates_without_patient_move_with_their_study_or_go() -> None:
    source = phantom_header()
    del source.PatientID
    header = deidentify(source, KEYS)
    assert header.StudyDate not in ("", source.StudyDate)
    assert "PatientID" not in header
    del source.StudyInstanceUID
    header = deidentify(source, KEYS)
    assert header.StudyDate == ""
    assert "SeriesDate" not in header
    assert header.LongitudinalTemporalInformationModified == "REMOVED"
    assert "113107" not in [item.CodeValue for item in header.DeidentificationMethodCodeSequence]


def test_missing_uids_are_made_from_the_content() -> None:
    made = []
    for study in (0, 1, 1):
        source = phantom_header(0, study)
        source.SOPInstanceUID = ""
        del source.SeriesInstanceUID
        header = deidentify(source, KEYS)
        assert header.SOPInstanceUID.startswith("2.25.")
        assert header.SeriesInstanceUID.startswith("2.25.")
        made += [header.SOPInstanceUID, header.SeriesInstanceUID]
    assert made[2:4] == made[4:]
    assert len(set(made)) == 4


def test_source_is_left_as_it_was() -> None:
    source = read_header(phantom_file())
    before = source.to_json()
    deidentify(source, KEYS)
    assert source.to_json() == before


def test_columns_are_typed_and_follow_the_options() -> None:
    source = phantom_header()
    source.PatientAge, source.Manufacturer = "097Y", "Isar Imaging"
    header = deidentify(source, KEYS, ProfileOptions(device_identity=True))
    day = header.StudyDate
    assert published_columns(header, ProfileOptions(device_identity=True)) == {
        "modality": "DX",
        "body_part": "CHEST",
        "view": "PA",
        "laterality": "U",
        "patient_sex": "F",
        "patient_age": 90,
        "study_date": date(int(day[:4]), int(day[4:6]), int(day[6:])),
        "manufacturer": "Isar Imaging",
        "manufacturer_model": source.ManufacturerModelName,
    }
    nothing = ProfileOptions(modified_dates=False, patient_characteristics=False)
    columns = published_columns(header, nothing)
    assert [columns[name] for name in ("patient_sex", "patient_age", "study_date", "manufacturer")] == [None] * 4
    assert columns["view"] == "PA"


def test_age_column_counts_full_years() -> None:
    source = phantom_header()
    for age, years in (("018M", 1), ("006W", 0), ("364D", 0), ("366D", 1), ("008Y", 8), ("Fred", None)):
        source["PatientAge"]._value = age
        header = deidentify(source, KEYS)
        assert published_columns(header, ProfileOptions())["patient_age"] == years
