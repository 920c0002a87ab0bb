"""Markers in every attribute of the standard, at several depths and outside the data set: none is found again."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from pydicom import DataElement, Dataset
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from prichexy.deid import ProfileOptions, deidentify, dicom_bytes, patient_key, read_header
from prichexy.deid.cleaning import shifted_dates
from prichexy.deid.profile import kept_attributes, profile_rows
from prichexy.errors import Quarantined
from tests.deid.headers import KEYS, as_file, marker, phantom_header

NOTHING_KEPT = ProfileOptions(modified_dates=False, patient_characteristics=False)
ALL_KEPT = ProfileOptions(device_identity=True)
PIXELS = np.zeros((96, 80), np.uint8)
ROWS = {int(row.tag, 16): row for row in profile_rows() if row.keyword}
MEASURED = {k for k, kept in kept_attributes().items() if kept.rule in ("number", "count", "class")}

Planted = dict[bytes, str]
"""Bytes to look for -> where they were planted."""


class Planter:
    """Plants markers and notes where."""

    def __init__(self) -> None:
        self.planted: Planted = {}
        self._numbers = itertools.count(1)

    def everything(self, where: str, dictionary: bool = True) -> Dataset:
        """A data set with a marker in each attribute of the table, and of the dictionary, that is no sequence."""
        data_set = Dataset()
        known = {int(row.tag, 16): row.vr or "LO" for row in profile_rows() if "x" not in row.tag}
        if dictionary:
            known |= {tag: entry[0] for tag, entry in DicomDictionary.items() if 0x00080000 <= tag < 0x7FE00000}
        for tag, vr in known.items():
            keyword = keyword_for_tag(tag)
            if vr == "SQ" or tag >> 16 < 8 or keyword in MEASURED or keyword == "SpecificCharacterSet":
                continue
            self.add(data_set, tag, vr.split(" or ")[0], f"{where} {keyword or hex(tag)}")
        return data_set

    def add(self, data_set: Dataset, tag: int, vr: str, where: str) -> None:
        value, found_by = marker(vr, next(self._numbers))
        data_set.add(DataElement(tag, vr, value))
        if found_by is not None:
            self.planted[found_by] = where

    def private(self, data_set: Dataset, where: str) -> None:
        block = data_set.private_block(0x0019, "MRK CREATOR", create=True)
        self.planted[b"MRK CREATOR"] = where
        for element, vr in enumerate(("LO", "PN", "UN", "OB", "DA", "UI", "LT")):
            value, found_by = marker(vr, next(self._numbers))
            block.add_new(element, vr, value)
            self.planted[found_by or b""] = f"{where} private {vr}"
        item = Dataset()
        self.add(item, 0x00100010, "PN", f"{where} private sequence")
        block.add_new(0x20, "SQ", [item])

    def repeating_groups(self, data_set: Dataset, where: str) -> None:
        for group in (0x6000, 0x6002, 0x601E):
            for element, vr in ((0x0022, "LO"), (0x1500, "LO"), (0x4000, "LT"), (0x3000, "OW"), (0x0045, "LO")):
                self.add(data_set, group << 16 | element, vr, f"{where} overlay {group:04x},{element:04x}")
        for element, vr in ((0x0022, "LO"), (0x3000, "OW"), (0x2600, "SH"), (0x0030, "SH")):
            self.add(data_set, 0x50000000 | element, vr, f"{where} curve {element:04x}")


def canary_file(implicit: bool) -> tuple[bytes, Planted]:
    """A DX file with some 7,000 markers, and where they are."""
    planter = Planter()
    data_set = phantom_header()
    data_set.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    data_set.update(planter.everything("top level"))
    planter.private(data_set, "top level")
    planter.repeating_groups(data_set, "top level")
    for outer in ("ReferencedImageSequence", "RequestAttributesSequence", "ViewCodeSequence", "ContentSequence"):
        second, third = Dataset(), planter.everything(f"third level of {outer}", outer == "ReferencedImageSequence")
        planter.private(third, f"third level of {outer}")
        planter.repeating_groups(third, f"third level of {outer}")
        second.ViewModifierCodeSequence = [third]
        first = Dataset()
        setattr(first, "SourceImageSequence" if outer != "ViewCodeSequence" else "ViewModifierCodeSequence", [second])
        first.CodeValue, first.CodingSchemeDesignator = "399348003", "SCT"
        planter.add(first, 0x00080104, "LO", f"meaning of a known code in {outer}")
        setattr(data_set, outer, [first])
    meta = data_set.file_meta
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    for keyword, vr in (("SourceApplicationEntityTitle", "AE"), ("ImplementationVersionName", "SH")):
        value, found_by = marker(vr, next(planter._numbers))
        setattr(meta, keyword, value)
        planter.planted[found_by or b""] = f"file meta {keyword}"
    meta.PrivateInformationCreatorUID, meta.PrivateInformation = "1.2.999.9.9.9", b"MRKMETA!"
    planter.planted |= {b"1.2.999.9.9.9": "file meta", b"MRKMETA!": "file meta", b"MRKPREAM": "preamble"}
    data_set.preamble = b"MRKPREAM" * 16
    return as_file(data_set), planter.planted


@pytest.fixture(scope="module", params=[False, True], ids=["explicit VR", "implicit VR"])
def canaries(request: pytest.FixtureRequest) -> tuple[bytes, Planted]:
    return canary_file(request.param)


def survivors(published: bytes, planted: Planted) -> Iterator[str]:
    """Where the markers stood that are in the published bytes, as such, in UTF-16, or as hexadecimal digits."""
    for found_by, where in planted.items():
        text = found_by.decode()
        if any(form in published for form in (found_by, text.encode("utf-16-le"), found_by.hex().encode())):
            yield where


def test_all_markers_are_in_the_source(canaries: tuple[bytes, Planted]) -> None:
    data, planted = canaries
    assert len(planted) > 7_000
    assert [where for found_by, where in planted.items() if found_by not in data] == []


def test_no_marker_survives_without_options(canaries: tuple[bytes, Planted]) -> None:
    data, planted = canaries
    header = deidentify(read_header(data), KEYS, NOTHING_KEPT)
    published = dicom_bytes(header, PIXELS, 8)
    assert list(survivors(published, planted)) == []
    assert b"MRK" not in published
    assert b"1.2.999" not in published


def test_with_all_options_only_devices_and_times_of_day_survive(canaries: tuple[bytes, Planted]) -> None:
    data, planted = canaries
    source = read_header(data)
    published = dicom_bytes(deidentify(source, KEYS, ALL_KEPT), PIXELS, 8)
    shift = KEYS.date_shift(*(patient_key(source) or ("", "")))
    moved = {str(shifted_dates([found_by.decode()], shift)).encode() for found_by in planted if found_by.isdigit()}
    left = set(survivors(published, {by: where for by, where in planted.items() if by not in moved}))
    allowed = {row.keyword for row in ROWS.values() if row.device == "K" or (row.modified_dates and row.vr == "TM")}
    allowed |= {keyword for keyword, kept in kept_attributes().items() if kept.rule == "device"}
    assert {where.rpartition(" ")[2] for where in left} <= allowed
    assert "top level Manufacturer" in left  # the option does keep what it should
    assert "top level StudyTime" in left


def test_error_texts_hold_no_value(canaries: tuple[bytes, Planted]) -> None:
    header = deidentify(read_header(canaries[0]), KEYS)
    header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    with pytest.raises(Quarantined) as refusal:
        dicom_bytes(header, PIXELS, 8)
    assert str(refusal.value) == "NotARadiograph: only CR, DX and Secondary Capture objects are written"
