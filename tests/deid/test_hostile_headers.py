"""Damaged and malicious headers: quarantine or a clean header, no hang, never a value that could not be parsed."""

import logging
import os
import random
import struct
import time
import warnings
from functools import cache
from io import BytesIO
from pathlib import Path

import pydicom.data
import pytest
from pydicom import DataElement, Dataset, dcmread
from pydicom.config import IGNORE
from pydicom.uid import UID_dictionary

from prichexy.deid import ProfileOptions, deidentify, header_bytes, read_header
from prichexy.deid.profile import profile_rows
from prichexy.errors import Quarantined
from prichexy.imaging.silence import quiet
from tests.deid.headers import EXPLICIT, IMPLICIT, KEYS, phantom_file, phantom_header

MUTATED = int(os.environ.get("PRICHEXY_MUTATED_HEADERS", "300"))
"""How many mutated files are tried; issue-wide runs set 2000."""

LONGEST = 10.0
NAMED = {
    int(row.tag, 16): row.vr for row in profile_rows() if row.vr in ("PN", "LO", "SH", "UI", "DA", "AE", "ST", "LT")
}


@cache
def source_files() -> list[bytes]:
    """pydicom's own test files, and phantom DX files, of which most attributes pass."""
    phantoms = [phantom_file(patient, 0, syntax) for patient in range(2) for syntax in (EXPLICIT, IMPLICIT)]
    return pydicom_files() + 8 * phantoms


@cache
def pydicom_files() -> list[bytes]:
    folder = Path(pydicom.data.__file__).parent / "test_files"
    files = sorted(folder.glob("*.dcm"))
    return [data for data in (file.read_bytes() for file in files) if len(data) < 1_000_000]


@cache
def identifiers(data: bytes) -> frozenset[bytes]:
    """What stands in the attributes of the standard's table: names, numbers with a digit, dates, UIDs."""
    found: set[bytes] = set()
    with quiet():
        try:
            data_set = dcmread(BytesIO(data), force=True, stop_before_pixels=True)
            elements = list(data_set.iterall())
        except Exception:
            return frozenset()
        for element in elements:
            if NAMED.get(element.tag) is None or not element.value:
                continue
            for value in element.value if element.VM > 1 else [element.value]:
                text = str(value).strip()
                telling = any(letter.isdigit() for letter in text) or "^" in text
                if len(text) >= 6 and telling and text not in UID_dictionary:
                    found.add(text.encode())
    return frozenset(found)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The file with some bytes of its header changed, moved, repeated or lost."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 12)):
        reach = min(len(changed), 4096)
        at = chance.randrange(reach)
        match chance.randrange(6):
            case 0:
                changed[at] = chance.randrange(256)
            case 1:
                changed[at : at + 4] = b"\xff\xff\xff\xff"
            case 2:
                del changed[at : at + chance.randint(1, 16)]
            case 3:
                changed[at:at] = chance.randbytes(chance.randint(1, 16))
            case 4:
                piece = changed[at : at + chance.randint(4, 200)]
                changed[at:at] = piece
            case _:
                changed[at : at + 2] = chance.choice([b"SQ", b"UN", b"UI", b"DA", b"OB", b"PN", b"\0\0"])
    return bytes(changed[: chance.randrange(len(changed))] if chance.random() < 0.1 else changed)


def cleaned(data: bytes) -> bytes | None:
    """The de-identified header as bytes, None for a quarantined file. Any other exception is a failure."""
    try:
        header = deidentify(read_header(data), KEYS, ProfileOptions(patient_characteristics=False))
    except Quarantined as refusal:
        if (refusal.stage, refusal.reason, refusal.__context__) != ("deidentify", "Unreadable", None):
            raise
        return None
    return header_bytes(header)


@pytest.mark.parametrize("part", range(4))
def test_mutated_files_give_no_original_value(part: int) -> None:
    files, through = source_files(), 0
    assert len(files) > 50
    for number in range(part, MUTATED, 4):
        chance = random.Random(number)
        original = chance.choice(files)
        start = time.perf_counter()
        published = cleaned(mutated(original, chance))
        assert time.perf_counter() - start < LONGEST, f"file number {number}"
        if published is not None:
            through += 1
            left = [each for each in identifiers(original) if each in published]
            assert not left, f"file number {number}"
    assert through > MUTATED / 4 / 2  # most mutations leave a header that can be cleaned


def test_unchanged_test_files_give_no_original_value() -> None:
    named = 0
    for data in pydicom_files():
        published = cleaned(data) or b""
        named += len(identifiers(data))
        assert not [each for each in identifiers(data) if each in published]
    assert named > 500


@pytest.mark.parametrize("undefined", [True, False], ids=["undefined length", "defined length"])
@pytest.mark.parametrize("tag", [b"\x08\x00\x40\x11", b"\x40\x00\x75\x02"], ids=["kept sequence", "dropped sequence"])
def test_deep_nesting_is_dropped_or_quarantined(undefined: bool, tag: bytes) -> None:
    inner = b"\x10\x00\x10\x00PN\x06\x00SECRET"
    for _ in range(3000):
        if undefined:
            item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + inner + b"\xfe\xff\x0d\xe0\0\0\0\0"
            inner = tag + b"SQ\0\0\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
        else:
            item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(inner)) + inner
            inner = tag + b"SQ\0\0" + struct.pack("<I", len(item)) + item
    start = time.perf_counter()
    published = cleaned(inner)
    assert time.perf_counter() - start < LONGEST
    assert published is None or b"SECRET" not in published


def test_a_sequence_within_the_depth_is_cleaned_and_below_it_dropped() -> None:
    source = Dataset()
    level = source
    for _ in range(10):
        item = Dataset()
        item.ReferencedSOPInstanceUID = "1.2.3"
        level.ReferencedImageSequence = [item]
        level = item
    header, depth = deidentify(source, KEYS), 0
    while "ReferencedImageSequence" in header:
        header, depth = header.ReferencedImageSequence[0], depth + 1
        assert header.ReferencedSOPInstanceUID == KEYS.uid("1.2.3")
    assert depth == 8


def test_a_huge_private_blob_costs_nothing() -> None:
    source = phantom_header()
    source.private_block(0x0019, "ACME", create=True).add_new(1, "OB", b"SECRET" * 5_000_000)
    start = time.perf_counter()
    published = header_bytes(deidentify(source, KEYS))
    assert time.perf_counter() - start < 1
    assert len(published) < 10_000


@pytest.mark.parametrize("length", [0, 1, 131, 132, 200])
def test_files_that_end_early_are_no_crash(length: int) -> None:
    published = cleaned(phantom_file()[:length])
    assert published is None or b"PatientID" not in published


@pytest.mark.parametrize("keyword", ["StudyDate", "AccessionNumber", "PatientName", "Rows", "KVP", "SOPInstanceUID"])
@pytest.mark.parametrize("vr", ["UN", "OB", "SQ", "DS", "US", "PN", "ZZ"])
def test_wrong_vrs_let_no_value_through(keyword: str, vr: str) -> None:
    data = phantom_file()
    written = dcmread(BytesIO(data), stop_before_pixels=True)
    tag = written[keyword].tag
    start = struct.pack("<HH", tag.group, tag.element)
    at = data.index(start + written[keyword].VR.encode(), 300)
    published = cleaned(data[: at + 4] + vr.encode() + data[at + 6 :])
    if published is not None and keyword != "KVP" and keyword != "Rows":
        assert str(written[keyword].value).encode() not in published


@pytest.mark.parametrize("value", ["00000000", "2023-13-45", "SECRETS!", "99999999", "19500101\\SECRETS!"])
def test_invalid_dates_are_emptied(value: str) -> None:
    source = phantom_header()
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate"):
        source.add(DataElement(keyword, "LO", value, validation_mode=IGNORE))
    header = deidentify(source, KEYS)
    assert header.StudyDate == ""  # type 2
    assert "SeriesDate" not in header  # type 3
    assert value.encode() not in header_bytes(header)


def test_wrong_character_sets_let_nothing_through() -> None:
    for character_set in (b"ISO_IR 192", b"ISO 2022 IR 87", b"SECRETS!", b"\xff\xfe\xfd\xfc"):
        maker = b"SECRET\xff\xfe"
        data = b"\x08\x00\x05\x00CS" + struct.pack("<H", len(character_set)) + character_set
        data += b"\x08\x00\x70\x00LO" + struct.pack("<H", len(maker)) + maker
        published = header_bytes(deidentify(read_header(data), KEYS, ProfileOptions(device_identity=True)))
        assert b"SECRETS!" not in published
        if character_set == b"ISO_IR 192":
            assert b"SECRET" not in published  # no UTF-8: can't be parsed


def test_neither_warnings_nor_logs_quote_values(caplog: pytest.LogCaptureFixture) -> None:
    source = phantom_header()
    source.add(DataElement("PatientID", "LO", "SECRET" * 20, validation_mode=IGNORE))
    source.add(DataElement("StudyInstanceUID", "UI", "SECRET", validation_mode=IGNORE))
    data = BytesIO()
    with warnings.catch_warnings(record=True), caplog.at_level(logging.DEBUG):
        source.save_as(data, implicit_vr=False, little_endian=True)
    caplog.clear()
    with warnings.catch_warnings(record=True) as told, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        header = deidentify(read_header(data.getvalue()), KEYS)
    assert header.PatientID == KEYS.patient_id(*(source.IssuerOfPatientID, "SECRET" * 20))
    assert header.StudyInstanceUID == KEYS.uid("SECRET")
    assert [str(each.message) for each in told] == []
    assert caplog.text == ""
