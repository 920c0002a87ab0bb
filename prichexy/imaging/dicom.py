"""Decodes DICOM files (PS3.10), and refuses what is no single-frame chest radiograph."""

import struct
import zlib
from io import BytesIO

from pydicom import Dataset, dcmread
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from prichexy.imaging.display import as_displayed
from prichexy.imaging.radiograph import DecodeLimits, Radiograph, check_size, refused
from prichexy.imaging.stored_pixels import SUPPORTED, Layout, stored_codes

_X_RAY_CLASSES = {
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
}
_X_RAY_MODALITIES = {"CR", "DX", "RG"}
_CHEST_WORDS = ("CHEST", "THORAX", "TORAX", "TORACE", "THORAC", "LUNG", "RIB", "CXR", "HEART")
_NO_CHEST_WORDS = ("SPINE",)
_CHEST_CODES = {
    *("816094009", "51185008", "T-D3000", "43799004"),
    *("39607008", "T-28000", "113197003", "T-11300", "80891009", "T-32000"),
}
"""Chest, thorax, thoracic cavity, lung, rib and heart in SNOMED CT and SRT (PS3.16 CID 4009, CID 4031)."""

VIEWS = ("AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO")
"""Defined terms of View Position (0018,5101), PS3.3 C.8.1.1."""

LATERALITIES = ("L", "R", "B", "U")
"""Enumerated values of Image Laterality (0020,0062), PS3.3 C.7.3.1.1.1 and C.8.1.1."""

_READ: list[BaseTag | int] = [
    Tag("SOPClassUID"),
    Tag("Modality"),
    Tag("BodyPartExamined"),
    Tag("AnatomicRegionSequence"),
    Tag("ViewPosition"),
    Tag("ImageLaterality"),
    Tag("Laterality"),
    Tag("PatientID"),
    Tag("IssuerOfPatientID"),
    Tag("BurnedInAnnotation"),
    Tag("NumberOfFrames"),
    Tag("SamplesPerPixel"),
    Tag("PhotometricInterpretation"),
    Tag("Rows"),
    Tag("Columns"),
    Tag("BitsAllocated"),
    Tag("BitsStored"),
    Tag("HighBit"),
    Tag("PixelRepresentation"),
    Tag("PixelPaddingValue"),
    Tag("PixelPaddingRangeLimit"),
    Tag("RescaleSlope"),
    Tag("RescaleIntercept"),
    Tag("ModalityLUTSequence"),
    Tag("VOILUTSequence"),
    Tag("WindowCenter"),
    Tag("WindowWidth"),
    Tag("VOILUTFunction"),
    Tag("PresentationLUTShape"),
    Tag("PixelData"),
    Tag("FloatPixelData"),
    Tag("DoubleFloatPixelData"),
]


def decode_dicom(data: bytes, limits: DecodeLimits) -> Radiograph:
    """The radiograph in a DICOM file, at the depth of its stored bits, as a radiologist sees it.

    Only the elements that are needed are read at all. Fewer than 8 stored bits are expanded to 8.

    Args:
        data: the file, with or without preamble.
        limits: sizes allowed.

    Returns:
        The radiograph, with view, laterality and patient key.

    Raises:
        Quarantined: ``Truncated``, ``Corrupt``, ``NoPixelData``, ``NotAChestRadiograph``, ``BurnedInText``,
            ``MultiFrame``, ``UnsupportedPixels``, ``ColourPhotograph``, ``UnsupportedTransferSyntax``, ``TooSmall``,
            ``DecompressionBomb``.
    """
    data_set, syntax = _parse(data, limits)
    _check_subject(data_set)
    declares_text = _text(data_set, "BurnedInAnnotation") == "YES"
    if declares_text and not limits.accept_declared_text:
        raise refused("BurnedInText", "the file says that its pixels hold identifying text")
    layout = _layout(data_set, syntax, limits)
    codes = stored_codes(data_set, layout)
    pixels = as_displayed(data_set, codes, layout.stored, layout.signed)
    view, laterality = (
        _text(data_set, "ViewPosition"),
        _text(data_set, "ImageLaterality") or _text(data_set, "Laterality"),
    )
    return Radiograph(
        pixels,
        max(8, layout.stored),
        view if view in VIEWS else None,
        laterality if laterality in LATERALITIES else None,
        "dicom",
        _patient_key(data_set),
        declares_text,
    )


def _parse(data: bytes, limits: DecodeLimits) -> tuple[Dataset, UID]:
    """The elements that matter, and the transfer syntax, guessed from the encoding where no file meta names it."""
    start, named = _file_meta(data)
    if named == DeflatedExplicitVRLittleEndian:
        inflated = BytesIO(_inflate(data[start:], limits.max_bytes))
        data_set = read_dataset(inflated, is_implicit_VR=False, is_little_endian=True, specific_tags=_READ)
        return data_set, DeflatedExplicitVRLittleEndian
    file = dcmread(BytesIO(data), force=True, specific_tags=_READ)
    implicit, little = file.original_encoding
    guessed = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    return file, named or guessed


def _file_meta(data: bytes) -> tuple[int, UID | None]:
    """Where the data set starts, and the Transfer Syntax UID if there is one (PS3.10 7.1)."""
    position = 132 if data.startswith(b"DICM", 128) else 0
    syntax = None
    while data[position : position + 2] == b"\x02\x00" and position + 12 <= len(data):
        _, element, vr, length = struct.unpack_from("<HH2sH", data, position)
        header = 8
        if vr in (b"OB", b"UN"):
            header, length = 12, struct.unpack_from("<I", data, position + 8)[0]
        if element == 0x0010:
            syntax = UID(data[position + header : position + header + length].decode("ascii", "replace").strip("\0 "))
        position += header + length
    return position, syntax or None


def _inflate(compressed: bytes, limit: int) -> bytes:
    """A deflated data set (PS3.5 A.5), inflated no further than the limit."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = stream.decompress(compressed, limit)
    if stream.eof:
        return inflated
    if len(inflated) >= limit:
        raise refused("DecompressionBomb", f"the deflated data set has more than {limit:,} bytes")
    raise refused("Truncated", "the deflated data set ends early")


def _check_subject(data_set: Dataset) -> None:
    """Refuses what is no chest radiograph; the model was audited on nothing else."""
    modality, sop_class = _text(data_set, "Modality"), UID(_text(data_set, "SOPClassUID"))
    if "FloatPixelData" in data_set or "DoubleFloatPixelData" in data_set:
        raise refused("UnsupportedPixels", "the pixels are floating point")
    if "PixelData" not in data_set:
        if "Rows" in data_set or modality in _X_RAY_MODALITIES or sop_class in _X_RAY_CLASSES:
            raise refused("Truncated", "the DICOM file ends before its pixel data")
        raise refused("NoPixelData", "the DICOM object holds no image")
    if sop_class and sop_class not in _X_RAY_CLASSES and sop_class != SecondaryCaptureImageStorage:
        raise refused("NotAChestRadiograph", "the SOP class is not that of a radiograph")
    if modality not in _X_RAY_MODALITIES and (modality or sop_class not in _X_RAY_CLASSES):
        raise refused("NotAChestRadiograph", "the modality is not CR, DX or RG")
    parts = [_text(data_set, "BodyPartExamined")]
    for region in data_set.get("AnatomicRegionSequence") or []:
        code = _text(region, "CodeValue")
        parts.append("CHEST" if code in _CHEST_CODES else _text(region, "CodeMeaning") or code)
    for part in filter(None, parts):
        if not any(word in part for word in _CHEST_WORDS) or any(word in part for word in _NO_CHEST_WORDS):
            raise refused("NotAChestRadiograph", "the body part is not the chest")


def _layout(data_set: Dataset, syntax: UID, limits: DecodeLimits) -> Layout:
    """The Image Pixel module, checked before any pixel is decoded."""
    if (frames := _integer(data_set, "NumberOfFrames", 1)) > 1:
        raise refused("MultiFrame", f"the image has {frames} frames; one is expected")
    if _integer(data_set, "SamplesPerPixel", 1) != 1:
        raise refused("ColourPhotograph", "the image has several samples a pixel; a radiograph is grey")
    photometric = _text(data_set, "PhotometricInterpretation")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise refused("ColourPhotograph", "the photometric interpretation is not MONOCHROME1 or MONOCHROME2")
    if syntax not in SUPPORTED:
        name = syntax.name if syntax.name != str(syntax) and syntax.type == "Transfer Syntax" else "an unknown one"
        raise refused("UnsupportedTransferSyntax", f"the transfer syntax ({name}) can't be decoded")
    rows, columns = _integer(data_set, "Rows"), _integer(data_set, "Columns")
    check_size(rows, columns, limits)
    allocated = _integer(data_set, "BitsAllocated")
    stored = _integer(data_set, "BitsStored", allocated)
    high_bit = _integer(data_set, "HighBit", stored - 1)
    if allocated not in (8, 16) or not 1 <= stored <= allocated or not stored - 1 <= high_bit < allocated:
        raise refused(
            "UnsupportedPixels", f"{stored} bits stored in {allocated}, the highest {high_bit}, can't be read"
        )
    representation = _integer(data_set, "PixelRepresentation", 0)
    return Layout(rows, columns, allocated, stored, high_bit, representation == 1, syntax)


def _integer(data_set: Dataset, keyword: str, absent: int | None = None) -> int:
    value = data_set.get(keyword)
    if value in (None, "") and absent is not None:
        return absent
    try:
        return int(str(value))
    except ValueError:
        raise refused("Corrupt", "a number in the image's header is missing or malformed") from None


def _text(data_set: Dataset, keyword: str) -> str:
    """The element's text in capitals without padding, "" where it is absent; several values joined by a backslash."""
    value = data_set.get(keyword)
    if value is None:
        return ""
    return (value if isinstance(value, str) else "\\".join(map(str, value))).strip("\0 ").upper()


def _patient_key(data_set: Dataset) -> tuple[str, str] | None:
    """Issuer and Patient ID; spaces around them are padding (PS3.5 6.2, LO), case is not."""
    issuer, patient = (
        (value if isinstance(value, str) else "\\".join(map(str, value))).strip("\0 \t\r\n")
        for value in (data_set.get("IssuerOfPatientID") or "", data_set.get("PatientID") or "")
    )
    return (issuer, patient) if patient else None
