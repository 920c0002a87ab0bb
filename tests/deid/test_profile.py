"""Each row of PS3.15 Table E.1-1, by what becomes of a value that stands in its attribute."""

from typing import Any

import pytest
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.uid import UID

from prichexy.deid import ProfileOptions, deidentify
from prichexy.deid.cleaning import DUMMIES
from prichexy.deid.profile import ProfileRow, kept_attributes, known_codes, profile_rows, resolved_action, rules
from tests.deid.headers import KEYS, marker

ROWS = profile_rows()
BASIC = ProfileOptions(modified_dates=False, patient_characteristics=False)
ALL = ProfileOptions(device_identity=True)
CHOICES = {"ContentDate": "Z", "ContentTime": "Z", "ContrastBolusAgent": "Z", "AcquisitionContextSequence": "Z"}
"""What the attributes with a choice take in CR and DX objects, by their type there; the others take X."""


def planted(row: ProfileRow) -> Dataset:
    """A data set of one attribute, and of an item in it where it is a sequence."""
    source = Dataset()
    source.PatientID = "17"
    tag = int(row.tag.replace("x", "0"), 16)
    if row.vr == "SQ":
        item = Dataset()
        item.ReferencedSOPInstanceUID = "1.2.3"
        source.add(DataElement(tag, "SQ", [item]))
    elif row.keyword != "PatientID":
        source.add(DataElement(tag, row.vr or "LO", marker(row.vr or "LO", 12345)[0]))
    return source


def value_after(row: ProfileRow, options: ProfileOptions) -> Any:
    """The value that came out, None where the attribute is gone."""
    return deidentify(planted(row), KEYS, options).get(int(row.tag.replace("x", "0"), 16))


def test_table_has_the_rows_of_edition_2026c() -> None:
    assert len(ROWS) == 655
    assert len({row.tag for row in ROWS}) == 655
    counts = {action: sum(row.basic == action for row in ROWS) for action in {row.basic for row in ROWS}}
    assert counts == {
        "X": 415, "D": 93, "U": 55, "Z": 42, "X/D": 23, "X/Z": 11, "X/Z/D": 8, "Z/D": 6, "X/Z/U*": 2,
    }  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.tag} {row.basic}" for row in ROWS])
def test_basic_action_of_each_row(row: ProfileRow) -> None:
    element = value_after(row, BASIC)
    action = CHOICES.get(row.keyword, row.basic if "/" not in row.basic else row.basic[0])
    if row.keyword == "PatientID":
        assert element.value == KEYS.patient_id("", "17")
    elif row.keyword in ("SourceImageSequence", "ReferencedImageSequence"):
        assert element.value[0].ReferencedSOPInstanceUID == KEYS.uid("1.2.3")
    elif row.keyword in ("ContentCreatorName", "InstructionPerformedDateTime"):
        assert element.is_empty  # Z/D of attributes that no CR or DX object has
    elif action == "X" or row.tag < "0008":  # groups 0000, 0002 and 0004 have no place in a data set
        assert element is None
    elif action == "Z":
        assert not element.value
    elif action == "U":
        assert element.value == KEYS.uid(marker("UI", 12345)[0])
    elif action == "D" and row.vr == "SQ":
        assert [item.get("ReferencedSOPInstanceUID") for item in element.value] == [KEYS.uid("1.2.3")]
    elif action == "D" and row.vr == "UI":
        assert element.value == KEYS.uid(marker("UI", 12345)[0])
    else:
        assert action == "D"
        assert element.value == DataElement(element.tag, row.vr, DUMMIES[row.vr]).value
        assert not element.is_empty
        assert element.value != marker(row.vr, 12345)[0]


@pytest.mark.parametrize("row", [row for row in ROWS if row.modified_dates], ids=lambda row: row.keyword or row.tag)
def test_every_date_of_the_table_moves_by_the_patients_shift(row: ProfileRow) -> None:
    source = planted(row)
    value = {"DA": "20200229", "DT": "20200229101112.25+0100", "TM": "101112.25"}[row.vr]
    source[int(row.tag, 16)].value = value
    cleaned = str(deidentify(source, KEYS)[int(row.tag, 16)].value)
    moved = str(deidentify(_with_study_date("20200229"), KEYS).StudyDate)
    assert moved != "20200229"
    assert cleaned == {"DA": moved, "DT": moved + "101112.25", "TM": value}[row.vr]


def _with_study_date(day: str) -> Dataset:
    source = Dataset()
    source.PatientID, source.StudyDate = "17", day
    return source


def test_birth_date_and_time_never_pass() -> None:
    source = _with_study_date("20200229")
    source.PatientBirthDate, source.PatientBirthTime = "19500101", "101010"
    header = deidentify(source, KEYS, ALL)
    assert header.PatientBirthDate == ""
    assert "PatientBirthTime" not in header


@pytest.mark.parametrize("row", [row for row in ROWS if row.device], ids=lambda row: row.keyword)
def test_device_attributes_pass_only_with_their_option(row: ProfileRow) -> None:
    written = "35" if row.vr == "DS" else marker(row.vr, 12345)[0]
    source = planted(row)
    if row.vr != "SQ":
        source[int(row.tag, 16)].value = written
    kept = deidentify(source, KEYS, ALL).get(int(row.tag, 16))
    if row.device == "K" and row.vr == "SQ":
        assert kept.value[0].ReferencedSOPInstanceUID == KEYS.uid("1.2.3")
    elif row.device == "K" and row.vr not in ("DA", "DT", "TM"):
        assert kept.value == written
    else:
        assert kept is None or kept.value != written or row.vr == "TM"  # AE titles go; dates move
    without = value_after(row, BASIC)
    assert without is None or without.value != written


@pytest.mark.parametrize(
    ("keyword", "value", "kept"),
    [
        ("PatientSex", "F", "F"),
        ("PatientSex", "Fred", ""),
        ("PatientAge", "045Y", "045Y"),
        ("PatientAge", "Fred", None),
        ("PatientSize", "1.75", "1.75"),
        ("PatientWeight", "80", "80"),
        ("SmokingStatus", "YES", "YES"),
        ("PregnancyStatus", 4, "4"),
        ("EthnicGroup", "Fred", None),
        ("Allergies", "Fred", None),
        ("SpecialNeeds", "Fred", None),
        ("PatientState", "Fred", None),
    ],
)
def test_patient_characteristics_pass_only_where_they_can_be_checked(
    keyword: str, value: str | int, kept: str | None
) -> None:
    source = _with_study_date("20200229")
    source.add(DataElement(keyword, dictionary_VR(keyword), value, validation_mode=IGNORE))
    element = deidentify(source, KEYS).get(keyword)
    assert (None if element is None else str(element)) == kept
    without = deidentify(source, KEYS, BASIC).get(keyword)
    assert not without


def test_stricter_action_wins_over_a_kept_device_date() -> None:
    row = next(row for row in ROWS if row.keyword == "DateOfLastCalibration")
    assert (row.basic, row.modified_dates, row.device) == ("X", "C", "K")
    assert resolved_action(row, ProfileOptions(modified_dates=False, device_identity=True)) == "X"
    assert resolved_action(row, ALL) == "C"


def test_attributes_that_no_table_names_are_dropped() -> None:
    source = _with_study_date("20200229")
    source.EncapsulatedDocumentLength = 7
    source.add_new(0x00191010, "LO", "private")
    source.add_new(0x60000022, "LO", "overlay description")
    source.add_new(0x50003000, "OW", b"curve")
    source.add_new(0x00100099, "LO", "unknown")
    header = deidentify(source, KEYS, ALL)
    for tag in (0x00420015, 0x00191010, 0x60000022, 0x50003000, 0x00100099):
        assert tag not in header


def test_rules_and_tables_agree() -> None:
    for keyword, attribute in kept_attributes().items():
        known = attribute.rule or any(row.keyword == keyword for row in ROWS)
        assert known, f"{keyword} has neither a rule nor a row in the standard's table"
    assert known_codes()["SCT", "399348003"] == "antero-posterior"
    assert known_codes()["SRT", "T-D3000"] == "Chest"
    assert all(len(meaning) <= 64 and len(value) <= 16 for (_, value), meaning in known_codes().items())
    assert len(rules(ALL)) > len(rules(BASIC)) > 250


def test_standard_uids_stay_and_all_others_are_replaced() -> None:
    source = _with_study_date("20200229")
    source.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1")
    source.FrameOfReferenceUID = "1.2.840.10008.1.4.1.1"  # Talairach brain atlas, PS3.6 Table A-2
    source.SOPInstanceUID = "1.2.840.10008.99.1"  # below the standard's root, but not one of its own
    header = deidentify(source, KEYS)
    assert header.SOPClassUID == "1.2.840.10008.5.1.4.1.1.1"
    assert header.FrameOfReferenceUID == "1.2.840.10008.1.4.1.1"
    assert header.SOPInstanceUID == KEYS.uid("1.2.840.10008.99.1")
