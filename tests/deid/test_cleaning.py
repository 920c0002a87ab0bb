import struct
from typing import Any

import pytest
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from prichexy.deid import ProfileOptions, deidentify, header_bytes, read_header
from prichexy.deid.cleaning import (
    age,
    count,
    is_standard_uid,
    legible_uids,
    number,
    safe_text,
    shifted_dates,
    shifted_datetimes,
    texts,
    times,
)
from tests.deid.headers import KEYS


def raw(value: bytes | None, vr: str = "LO", little: bool = True) -> RawDataElement:
    return RawDataElement(Tag(0x00181000), vr, len(value or b""), value, 0, False, little)


@pytest.mark.parametrize(
    ("value", "days", "moved"),
    [
        ("20200228", 1, "20200229"),
        ("20200229", 366, "20210301"),
        ("20200301", -1, "20200229"),
        ("2020.03.01", 0, "20200301"),
        ("00010102", -1, "00010101"),
        ("00010101", -1, None),
        ("99991231", 1, None),
        ("00000000", 5, None),
        ("20231345", 5, None),
        ("2023-13-45", 5, None),
        ("20230229", 5, None),
        ("20200101-20200105", 5, None),
        ("202001", 5, None),
        ("Fred", 5, None),
        ("", 5, None),
        ("\u0662\u0660\u0662\u0660\u0660\u0661\u0660\u0661", 5, None),  # digits of another script
        ("20200101", None, None),
    ],
)
def test_dates_move_or_are_not_passed(value: str, days: int | None, moved: str | None) -> None:
    assert shifted_dates([value], days) == moved


@pytest.mark.parametrize(
    ("value", "moved"),
    [
        ("20200228", "20200229"),
        ("20200228101112.123456", "20200229101112.123456"),
        ("2020022810", "2020022910"),
        ("20200228101112+0100", "20200229101112"),
        ("20200228-0500", "20200229"),
        ("2020", None),
        ("202002", None),
        ("20200228251112", None),
        ("20200228101112Fred", None),
    ],
)
def test_dates_with_times_move_and_lose_their_zone(value: str, moved: str | None) -> None:
    assert shifted_datetimes([value], 1) == moved


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("101112", "101112"),
        ("10", "10"),
        ("10:11:12.5", "101112.5"),
        ("235960", "235960"),
        ("250000", None),
        ("106112", None),
        ("Fred", None),
    ],
)
def test_times_stay_if_they_are_times(value: str, kept: str | None) -> None:
    assert times([value], 3) == kept
    assert times([value], None) is None


def test_one_invalid_value_of_several_takes_all_with_it() -> None:
    assert shifted_dates(["20200101", "20200102"], 1) == ["20200102", "20200103"]
    assert shifted_dates(["20200101", "Fred"], 1) is None
    assert count(["1", "Fred"]) is None


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("045Y", "045Y"),
        ("089Y", "089Y"),
        ("090Y", "090Y"),
        ("104Y", "090Y"),
        ("999M", "999M"),
        ("018M", "018M"),
        ("006W", "006W"),
        ("45", None),
        ("045y", None),
        ("45 years", None),
    ],
)
def test_age_is_capped_at_ninety(value: str, kept: str | None) -> None:
    assert age([value]) == kept


@pytest.mark.parametrize("text", ["12345678", "1e9", "NaN", "inf", "Fred", "12 34", "1.5E", "0x12", "1" * 17])
def test_what_is_no_measure_is_not_passed(text: str) -> None:
    assert number(raw(text.encode()), "DS") is None


def test_measures_pass_in_the_form_they_have() -> None:
    assert number(raw(b"0.143\\0.143 "), "DS") == ["0.143", "0.143"]
    assert number(raw(b"-12 "), "IS") == "-12"
    assert number(raw(b"1.5"), "IS") is None
    assert number(raw(struct.pack("<H", 96), "US"), "US") == 96
    assert number(raw(struct.pack(">H", 96), "US", little=False), "US") == 96
    assert number(raw(struct.pack("<2d", 1.5, 2.5), "FD"), "FD") == [1.5, 2.5]
    assert number(raw(struct.pack("<d", float("nan")), "FD"), "FD") is None
    assert number(raw(b"\x01\x02\x03", "US"), "US") is None
    assert number(DataElement(0x00280010, "US", 96), "US") == 96
    assert number(raw(struct.pack("<I", 20_000_000), "UL"), "UL") is None


def test_long_running_numbers_are_not_passed() -> None:
    assert count(["12345"]) == "12345"
    assert count(["123456"]) is None


def test_text_keeps_the_length_of_its_vr_and_holds_no_control_character() -> None:
    assert safe_text(["x" * 16], "SH") == "x" * 16
    assert safe_text(["x" * 17], "SH") is None
    assert safe_text(["x" * 65], "LO") is None
    assert safe_text(["a\x1bb"], "LO") is None
    assert safe_text(["a\ufffdb"], "LO") is None
    assert safe_text([""], "LO") is None


def test_uids_of_wrong_form_are_not_kept() -> None:
    assert legible_uids(["1.2.3"]) == "1.2.3"
    assert legible_uids(["Fred"]) is None
    assert legible_uids(["1." * 40 + "1"]) is None


@pytest.mark.parametrize("space", ["", "\x0c", "\x1f", "\x85", " x", "\v", "\0\f"])
def test_only_the_standards_own_uids_count_as_such(space: str) -> None:
    assert is_standard_uid("1.2.840.10008.1.2" + space) == (space == "")
    assert not is_standard_uid("1.2.3" + space)
    assert not is_standard_uid(space + "1.2.3")


@pytest.mark.parametrize("value", [None, [Dataset()], object(), {"a": 1}])
def test_what_is_no_text_reads_as_none(value: Any) -> None:
    element = DataElement(0x00181000, "LO", "x", validation_mode=IGNORE)
    element._value = value
    assert texts(element) in ([], [""])


def test_a_huge_value_is_not_looked_at() -> None:
    assert texts(raw(b"1" * 5000)) == []


@pytest.mark.parametrize(
    ("coded", "encodings"),
    [
        ("Röntgen", "latin-1"),
        ("Röntgen", "utf-8"),
    ],
)
def test_text_is_read_in_its_character_set(coded: str, encodings: str) -> None:
    assert texts(raw(coded.encode(encodings)), [encodings]) == ["Röntgen"]


MAKERS = [
    ("ISO_IR 100", "Röntgen Würzburg".encode("latin-1"), "Röntgen Würzburg"),
    ("ISO_IR 192", "富士 X線".encode(), "富士 X線"),
    ("\\ISO 2022 IR 87", b"\x1b$B" + "富士".encode("iso2022_jp")[3:5] + b"\x3b\x4e\x1b(B X", "富士 X"),
    ("\\ISO 2022 IR 149", b"\x1b$)C" + "삼성".encode("euc_kr"), "삼성"),
    ("GB18030", "联影".encode("gb18030"), "联影"),
    ("NO SUCH SET", b"Plain", "Plain"),
]


@pytest.mark.parametrize(("character_set", "stored", "text"), MAKERS, ids=[each[0] for each in MAKERS])
def test_kept_text_is_rewritten_in_utf_8(character_set: str, stored: bytes, text: str) -> None:
    length = len(stored) + len(stored) % 2
    sets = character_set.encode() + b" " * (len(character_set) % 2)
    data = b"\x08\x00\x05\x00CS" + struct.pack("<H", len(sets)) + sets
    data += b"\x08\x00\x70\x00LO" + struct.pack("<H", length) + stored + b" " * (len(stored) % 2)
    header = deidentify(read_header(data), KEYS, ProfileOptions(device_identity=True))
    assert header.Manufacturer == text
    assert header.SpecificCharacterSet == "ISO_IR 192"
    assert text.encode() in header_bytes(header)
