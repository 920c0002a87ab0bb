"""Whether a published DICOM file holds anything but what the profile lets through.

A header that passed the profile must pass it again unchanged. So the file is de-identified once more, under keys whose
pseudonyms of published values are these values themselves, and whatever differs is a finding. Pseudonyms and shifted
dates are known by their form only: nobody without the key can tell whether 128 bits are one, or whether a date moved.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO

import numpy as np
from pydicom import DataElement, Dataset, FileDataset, dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.encaps import generate_fragments
from pydicom.tag import BaseTag
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from prichexy.deid.header import deidentify
from prichexy.deid.image import IMPLEMENTATION_CLASS_UID, TRANSFER_SYNTAXES
from prichexy.deid.keys import SECRET_BYTES, Pseudonyms
from prichexy.deid.profile import ProfileOptions, rules
from prichexy.deid.scan.patterns import DEVICE_KINDS, OUR_UID, PSEUDONYM, text_identifiers
from prichexy.imaging.silence import quiet

_PIXEL_DATA = 0x7FE00010
_FREE_TEXT = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}
_CODED_ENTRY = {0x00080100, 0x00080102, 0x00080104}
"""Code value, scheme and meaning: equal to the standard's own, or they would not have passed."""
_ENCODERS_COMMENT = re.compile(rb"Created by OpenJPEG version [\d.]+")


class _Published(Pseudonyms):
    """Keys for which published values are their own pseudonyms, and dates don't move."""

    __slots__ = ()

    def patient_id(self, issuer: str, patient_id: str) -> str:
        return patient_id if not issuer and PSEUDONYM.fullmatch(patient_id) else ""

    def uid(self, uid: str) -> str:
        return uid if OUR_UID.fullmatch(uid) and int(uid[5:]) < 2**128 else ""

    def date_shift(self, issuer: str, patient_id: str) -> int:
        return 0


_KEYS = _Published.from_secret(bytes(SECRET_BYTES))


def dicom_problems(data: bytes, options: ProfileOptions) -> list[str]:
    """What in a published DICOM file (`prichexy.deid.dicom_bytes`) the profile would not let through.

    Args:
        data: the file.
        options: those of the job that published it, `pixels_cleaned` included.

    Returns:
        One sentence each, with keywords or tags and without any value; [] where there is nothing to find. Whether the
        pixels are the right ones is not looked at.
    """
    try:
        with quiet():
            return _problems(data, options)
    except MemoryError:
        raise
    except Exception:
        return ["the file can't be read to its end as DICOM"]


def _problems(data: bytes, options: ProfileOptions) -> list[str]:
    file = dcmread(BytesIO(data))
    for element in file.iterall():
        _ = element.value  # parsed, so that it is written anew below
    problems = [] if file.preamble == bytes(128) else ["the preamble is not empty"]
    problems += _file_meta(file)
    problems += _level(file, _expected(file, options), options, "")
    problems += _pixel_data(file)
    if not _accounts_for_every_byte(file, data):
        problems.append("the file holds bytes that belong to no element")
    return problems


def _expected(file: Dataset, options: ProfileOptions) -> Dataset:
    """The file's header after the profile, with what `prichexy.deid.dicom_bytes` sets for the pixels."""
    dates_kept = file.get("LongitudinalTemporalInformationModified") == "MODIFIED"
    expected = deidentify(file, _KEYS, replace(options, modified_dates=options.modified_dates and dates_kept))
    depth = file.get("BitsStored")
    if not isinstance(depth, int) or not 8 <= depth <= 16:
        return expected
    expected.DerivationDescription = file.get("DerivationDescription")
    expected.SamplesPerPixel, expected.PhotometricInterpretation = 1, "MONOCHROME2"
    expected.BitsAllocated, expected.BitsStored, expected.HighBit = 8 if depth == 8 else 16, depth, depth - 1
    expected.PixelRepresentation, expected.PixelIntensityRelationshipSign = 0, -1
    expected.WindowCenter, expected.WindowWidth = 2 ** (depth - 1), 2**depth
    expected.PresentationLUTShape = "IDENTITY"
    expected.RescaleIntercept, expected.RescaleSlope, expected.RescaleType = 0, 1, "US"
    return expected


def _level(published: Dataset, expected: Dataset, options: ProfileOptions, above: str) -> Iterator[str]:
    for element in published:
        place = above + _name(element.tag)
        if element.tag == _PIXEL_DATA and not above:
            continue
        if element.tag not in expected:
            yield f"{place} may not be there"
        elif element.VR != expected[element.tag].VR:
            yield f"{place} has another VR than the standard's"
        elif element.VR == "SQ":
            items, others = element.value, expected[element.tag].value
            if len(items) != len(others):
                yield f"{place} has items that may not be there"
            else:
                for item, other in zip(items, others, strict=True):
                    yield from _level(item, other, options, f"{place} > ")
        elif not _same(element, expected[element.tag]):
            yield f"{place} holds a value that may not be there"
        else:
            for kind in sorted(_identifiers(element, options)):
                yield f"{place} holds what looks like a {kind}"


def _name(tag: BaseTag) -> str:
    keyword = "" if tag.is_private else keyword_for_tag(tag)
    return keyword or f"({tag.group:04X},{tag.element:04X})"


def _same(element: DataElement, other: DataElement) -> bool:
    return element.value == other.value or (element.is_empty and other.is_empty)


def _identifiers(element: DataElement, options: ProfileOptions) -> set[str]:
    """Kinds of identifier in a text that no vocabulary or form of its own proves harmless."""
    rule = rules(options).get(element.tag)
    proven = element.tag in _CODED_ENTRY or (rule is not None and rule.cleaning != "device")
    if proven or element.VR not in _FREE_TEXT:
        return set()
    values = [element.value] if element.VM <= 1 else element.value
    found: set[str] = set().union(*(text_identifiers(str(value or "")) for value in values))
    return found & DEVICE_KINDS if rule is not None or element.tag.is_private else found


def _file_meta(file: FileDataset) -> Iterator[str]:
    """Group 0002 as we write it (PS3.10 7.1), and nothing beside it."""
    allowed = {
        "FileMetaInformationVersion": {b"\0\1"},
        "MediaStorageSOPClassUID": {file.get("SOPClassUID")},
        "MediaStorageSOPInstanceUID": {file.get("SOPInstanceUID")},
        "TransferSyntaxUID": set(TRANSFER_SYNTAXES.values()),
        "ImplementationClassUID": {IMPLEMENTATION_CLASS_UID},
        "ImplementationVersionName": {"PRICHEXY"},
    }
    for element in file.file_meta:
        name = _name(element.tag)
        if name not in allowed:
            if name != "FileMetaInformationGroupLength":
                yield f"{name} may not be in the file meta information"
        elif element.value not in allowed[name]:
            yield f"{name} of the file meta information holds a value that may not be there"


def _pixel_data(file: FileDataset) -> Iterator[str]:
    """Whether there is room for more than pixels: bytes behind them, bits above them, comments of the encoder."""
    if "PixelData" not in file:
        return
    value = file.PixelData
    if file.file_meta.TransferSyntaxUID.is_encapsulated:
        fragments = list(generate_fragments(value))
        if len(fragments) != 2:  # the offset table, and one frame
            yield "PixelData has fragments that may not be there"
        elif file.file_meta.TransferSyntaxUID in (JPEGLSLossless, JPEG2000Lossless) and _speaks(fragments[1]):
            yield "PixelData has comments, or bytes behind its end marker"
        return
    size = file.Rows * file.Columns * file.BitsAllocated // 8
    if len(value) != size + size % 2 or any(value[size:]):
        yield "PixelData has another size than its pixels"
    elif file.BitsAllocated == 16 and np.frombuffer(value, "<u2").max(initial=0) >> file.BitsStored:
        yield "PixelData has values above its bits"


def _speaks(stream: bytes) -> bool:
    """Whether a JPEG-LS or JPEG 2000 codestream holds application data, a comment that is not the encoder's own, or
    anything behind its end (ITU-T T.81 annex B, T.87 annex C; T.800 annex A).
    """
    jpeg_2000 = stream.startswith(b"\xff\x4f")
    comment, data_follows = (0x64, 0x90) if jpeg_2000 else (0xFE, 0xDA)
    position = 2
    while stream[position + 1] != data_follows:
        marker, length = stream[position + 1], int.from_bytes(stream[position + 2 : position + 4], "big")
        segment = stream[position + 4 : position + 2 + length]
        # The first two bytes of a comment of JPEG 2000 say that it is text (A.9.2).
        if marker == comment and not (jpeg_2000 and _ENCODERS_COMMENT.fullmatch(segment[2:])):
            return True
        if not jpeg_2000 and marker in range(0xE0, 0xF0):
            return True
        position += 2 + length
    return not stream.removesuffix(b"\0").endswith(b"\xff\xd9")


def _accounts_for_every_byte(file: FileDataset, data: bytes) -> bool:
    """Whether the elements, written again from their values, are the file: nothing hides between or behind them."""
    again = BytesIO()
    try:
        file.save_as(again, enforce_file_format=True)
    except Exception:
        return False
    return again.getvalue() == data
