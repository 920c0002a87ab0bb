"""DICOM files: what is a chest radiograph, what is not, and what is taken from the header."""

from io import BytesIO

import numpy as np
import pydicom
import pytest
from pydicom import Dataset, Sequence
from pydicom.filewriter import dcmwrite
from pydicom.uid import CTImageStorage, MRImageStorage, SecondaryCaptureImageStorage, UltrasoundImageStorage

from prichexy.errors import Quarantined
from prichexy.imaging import DecodeLimits, decode, sniff
from tests.imaging.dx import CANARY, dx_file, header, picture, written


def refusal(data: bytes, limits: DecodeLimits | None = None) -> Quarantined:
    with pytest.raises(Quarantined) as caught:
        decode(data, limits or DecodeLimits())
    assert caught.value.stage == "decode"
    return caught.value


def reason(**elements) -> str:
    return refusal(dx_file(picture(12), 12, **elements)).reason


def region(code: str, meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodeMeaning = code, meaning
    return Sequence([item])


@pytest.mark.parametrize(
    ("modality", "sop_class"),
    [
        ("CT", CTImageStorage),
        ("MR", MRImageStorage),
        ("US", UltrasoundImageStorage),
        ("DX", CTImageStorage),
        ("CT", None),
    ],
)
def test_other_modalities_are_refused(modality, sop_class):
    elements = {"Modality": modality} | ({"SOPClassUID": sop_class} if sop_class else {})
    assert reason(**elements) == "NotAChestRadiograph"


@pytest.mark.parametrize(
    "elements", [{"Modality": "CR"}, {"Modality": "RG", "SOPClassUID": SecondaryCaptureImageStorage}]
)
def test_radiographs_of_other_origin_are_accepted(elements):
    assert decode(dx_file(picture(12), 12, **elements)).bit_depth == 12


def test_x_ray_class_stands_in_for_an_absent_modality():
    assert decode(dx_file(picture(12), 12, Modality="")).bit_depth == 12
    assert reason(Modality="", SOPClassUID=SecondaryCaptureImageStorage) == "NotAChestRadiograph"


@pytest.mark.parametrize("part", ["CHEST", "Thorax", "RIBS", "LUNG", "CXR", "", None, "TORAX PA"])
def test_chest_is_recognized(part):
    assert decode(dx_file(picture(12), 12, BodyPartExamined=part)).view == "PA"


@pytest.mark.parametrize("part", ["HAND", "ABDOMEN", "CSPINE", "THORACIC SPINE", "SKULL"])
def test_other_body_parts_are_refused(part):
    assert reason(BodyPartExamined=part) == "NotAChestRadiograph"


def test_anatomic_region_counts_as_body_part():
    absent = {"BodyPartExamined": None}
    assert reason(AnatomicRegionSequence=region("T-D8700", "Hand"), **absent) == "NotAChestRadiograph"
    for code, meaning in (("51185008", "Brustkorb"), ("99", "Chest")):
        assert decode(dx_file(picture(12), 12, AnatomicRegionSequence=region(code, meaning), **absent)).view == "PA"


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"NumberOfFrames": 3}, "MultiFrame"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "ColourPhotograph"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "ColourPhotograph"),
        ({"HighBit": 16}, "UnsupportedPixels"),
        ({"BitsStored": 17, "HighBit": 16}, "UnsupportedPixels"),
        ({"RescaleSlope": 0}, "Corrupt"),
    ],
)
def test_unfit_image_is_refused(elements, expected):
    assert reason(**elements) == expected


def test_one_frame_named_as_such_is_accepted():
    assert decode(dx_file(picture(12), 12, NumberOfFrames=1)).bit_depth == 12


def test_float_pixels_and_32_bits_are_refused():
    data_set = pydicom.dcmread(BytesIO(dx_file(picture(12), 12)))
    data_set.FloatPixelData = data_set.PixelData
    del data_set.PixelData
    assert refusal(written(data_set)).reason == "UnsupportedPixels"
    assert refusal(dx_file(picture(12).astype(np.uint32), 12)).reason == "UnsupportedPixels"


def test_object_without_image_is_refused():
    data_set = pydicom.dcmread(
        BytesIO(dx_file(picture(12), 12, Modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11"))
    )
    for keyword in ("PixelData", "Rows", "Columns"):
        del data_set[keyword]
    assert refusal(written(data_set)).reason == "NoPixelData"


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        ("1.2.840.10008.1.2.4.100", "MPEG2 Main Profile"),
        ("1.2.840.10008.1.2.4.55", "Process 10 and 12"),
        (f"1.2.3.{77}", "unknown"),
    ],
)
def test_unsupported_transfer_syntax_is_named(syntax, name):
    data_set = pydicom.dcmread(BytesIO(dx_file(picture(12), 12)))
    file = written(data_set)
    old = b"UI\x14\x001.2.840.10008.1.2.1\0"
    assert file.count(old) == 1
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    error = refusal(file.replace(old, b"UI" + len(value).to_bytes(2, "little") + value))
    assert error.reason == "UnsupportedTransferSyntax"
    assert name in error.message
    assert "1.2.3" not in error.message


def test_size_is_checked_before_pixels():
    file = dx_file(picture(12, height=64, width=70), 12)
    assert decode(file).pixels.shape == (64, 70)
    assert refusal(file, DecodeLimits(min_side=65)).reason == "TooSmall"
    assert refusal(file, DecodeLimits(max_pixels=4000)).reason == "DecompressionBomb"


def test_deflated_bomb_is_refused():
    file = dx_file(np.zeros((1024, 1024), np.uint16), 12, "1.2.840.10008.1.2.1.99")
    assert len(file) < 10_000
    assert decode(file).pixels.shape == (1024, 1024)
    assert refusal(file, DecodeLimits(max_bytes=100_000)).reason == "DecompressionBomb"


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"])
def test_data_set_without_preamble_is_recognized(syntax):
    image, bare = picture(12), BytesIO()
    data_set = pydicom.dcmread(BytesIO(dx_file(image, 12, syntax, WindowCenter=2048, WindowWidth=4096)))
    del data_set.file_meta
    data_set.preamble = None
    implicit, little = syntax.endswith(".1.2"), not syntax.endswith(".2.2")
    dcmwrite(bare, data_set, implicit_vr=implicit, little_endian=little)
    data = bare.getvalue()
    assert data[128:132] != b"DICM"
    assert sniff(data) == "dicom"
    np.testing.assert_array_equal(decode(data).pixels, image)


@pytest.mark.parametrize(
    ("view", "kept"), [("PA", "PA"), ("AP", "AP"), ("LL", "LL"), ("ERECT SMITH", None), ("", None)]
)
def test_only_defined_views_are_kept(view, kept):
    assert decode(dx_file(picture(12), 12, ViewPosition=view)).view == kept


@pytest.mark.parametrize(
    ("elements", "kept"),
    [({"ImageLaterality": "U"}, "U"), ({"Laterality": "L"}, "L"), ({"Laterality": "SMITH"}, None), ({}, None)],
)
def test_only_defined_laterality_is_kept(elements, kept):
    assert decode(dx_file(picture(12), 12, **elements)).laterality == kept


@pytest.mark.parametrize(
    ("elements", "key"),
    [
        ({}, ("", f"{CANARY}-77")),
        ({"IssuerOfPatientID": "CLINIC", "PatientID": "a1"}, ("CLINIC", "a1")),
        ({"PatientID": "a1  "}, ("", "a1")),
        ({"PatientID": ""}, None),
        ({"PatientID": "   "}, None),
        ({"PatientID": None}, None),
    ],
)
def test_patient_key_is_issuer_and_id(elements, key):
    assert decode(dx_file(picture(12), 12, **elements)).patient_key == key


def test_truncated_pixel_data_is_refused_at_every_cut():
    file = dx_file(picture(12), 12)
    start = len(file) - picture(12).nbytes
    for cut in (len(file) - 2, len(file) - 5000, start + 2, start, start - 30):
        assert refusal(file[:cut]).reason == "Truncated"


def test_header_cut_anywhere_is_refused():
    file = dx_file(picture(12), 12)
    reasons = {refusal(file[:cut]).reason for cut in range(1, len(file) - picture(12).nbytes, 7)}
    assert reasons <= {"Truncated", "Corrupt", "NoPixelData", "NotAnImage"}
    assert "Truncated" in reasons


def test_header_helper_holds_the_canary():
    assert CANARY in str(header().PatientName)
