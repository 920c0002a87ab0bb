"""What must be found in published data, what must not, and that findings never quote it."""

import time
from collections.abc import Callable
from io import BytesIO

import cv2
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, generate_fragments

from prichexy.cohort.phantom.cohort import PhantomStudy, render
from prichexy.deid import TRANSFER_SYNTAXES, ProfileOptions, Syntax, deidentify, dicom_bytes, read_header
from prichexy.deid.burned_in import detect
from prichexy.deid.profile import known_codes
from prichexy.deid.scan import dicom_problems, text_identifiers, text_in_image
from prichexy.findings import FINDINGS
from prichexy.imaging.silence import quiet
from tests.deid.drawn_text import glyphs
from tests.deid.headers import KEYS, phantom_header
from tests.deid.test_canaries import ALL_KEPT, NOTHING_KEPT, canary_file

PIXELS = np.random.default_rng(3).integers(0, 4096, (96, 80)).astype(np.uint16)
OPTIONS = {"defaults": ProfileOptions(pixels_cleaned=True), "all": ALL_KEPT, "nothing": NOTHING_KEPT}


# --- patterns -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "texts"),
    {
        "date": [
            "19610312",
            "1961-03-12",
            "born 12.03.1961",
            "3/12/1961",
            "03/12/61",
            "12 March 1961",
            "12-MAR-1961",
            "March 12, 1961",
            "12. Mai 1961",
            "1961年3月12日",
            "1961년 3월 12일",
            "19610312104200.5",
            "2021-07-01T10:42:00",
        ],
        "person name": [
            "MUELLER^ANNA",
            "Roe^",
            "Mueller, Anna",
            "O'BRIEN, J.",
            "Dr. Roe",
            "Patient: x",
            "山田太郎",
            "김철수",
        ],
        "record number": ["4711086", "MRN 0815", "A4711086", "078-05-1120", "943 476 5919", "Acc#4711"],
        "UID": ["1.2.826.0.1.3680043.2.1143.1", "see 1.3.12.2.1107.5.2.6"],
        "path": [
            "/mnt/pacs/roe.dcm",
            "C:\\images\\x",
            "\\\\server\\share",
            "s3://hospital/cxr/1",
            "file:/x",
            "ward3/roe/17",
            "roe_jane.png",
            "roe_jane.jxl",
            "0001.dcm",
        ],
        "e-mail": ["roe@example.org", "a.b+c@x.co.uk"],
        "phone": ["+49 176 1234567", "(555) 123-4567", "0176 12345678", "tel. 4711-12", "089/1234567"],
    }.items(),
)
def test_each_kind_of_identifier_is_found_in_text(kind: str, texts: list[str]) -> None:
    assert [text for text in texts if kind not in text_identifiers(text)] == []
    assert [text for text in texts if kind not in text_identifiers(f"It says {text} there")] == []


@pytest.mark.parametrize(
    "text",
    [
        KEYS.patient_id("", "1"),
        f"{KEYS.image_id('x')}.png",
        f"{KEYS.image_id('x')}.jxl",
        f"{KEYS.image_id('x')}.dcm",
        KEYS.uid("1.2.3"),
        "prichexy-net/3",
        "models:/prichexy-net/3",
        "models:/prichexy-net@champion",
        "1.2.840.10008.5.1.4.1.1.1.1",
        "http://removed.invalid",
        "Anatomy obfuscated by prichexy",
        "Anatomy obfuscated by prichexy, model prichexy-net-2026-11-23/3",
        "PS3.15 2026c Basic Application Level Confidentiality Profile",
        "the file is TIFF; PNG, JPEG and DICOM are read",
        "the file has 1,234,567,890 bytes; 536,870,912 are allowed",
        "the modality is not CR, DX or RG",
        "the header announces 5000 x 4000 pixels; 100,000,000 in all are allowed",
        "the transfer syntax (JPEG Baseline (Process 1)) can't be decoded",
        "8 bits stored in 16, the highest 7, can't be read",
        "Version 10.2.24 of FUJIFILM Corporation, Ltd.",
        "0.139 mm, 1.5e-3, 120.0000001",
        *FINDINGS,
    ],
)
def test_what_we_publish_ourselves_holds_no_identifier(text: str) -> None:
    assert text_identifiers(text) == frozenset()


def test_a_date_or_number_does_not_hide_as_a_pseudonym() -> None:
    assert text_identifiers("2.25.19610312") != frozenset()
    assert "record number" in text_identifiers("4711086" + KEYS.patient_id("", "1").upper())
    assert text_identifiers(f"{KEYS.patient_id('', '1')} 19610312") == {"date"}


@pytest.mark.parametrize(
    "piece", ["a", "A-", "a.", "a+", "1", "1.", "0 ", "A, ", "/a", "a/", "1-", "jan", "(0", "..", "a@"]
)
def test_the_time_for_a_text_grows_with_its_length_only(piece: str) -> None:
    began = time.perf_counter()
    text_identifiers(piece * 30_000)
    assert time.perf_counter() - began < 5  # what grows with the square takes minutes


# --- published DICOM files ------------------------------------------------------------------------------------------


def published(options: ProfileOptions, syntax: Syntax = "uncompressed") -> bytes:
    return dicom_bytes(deidentify(phantom_header(), KEYS, options), PIXELS, 12, syntax)


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_file_that_the_profile_made_has_no_problems(options: ProfileOptions, syntax: Syntax) -> None:
    assert dicom_problems(published(options, syntax), options) == []


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_nor_has_one_whose_source_filled_every_attribute(options: ProfileOptions) -> None:
    source = read_header(canary_file(implicit=False)[0])
    assert dicom_problems(dicom_bytes(deidentify(source, KEYS, options), PIXELS, 12), options) == []


def test_options_that_were_off_are_seen() -> None:
    source = read_header(canary_file(implicit=False)[0])
    everything = dicom_bytes(deidentify(source, KEYS, ALL_KEPT), PIXELS, 12)
    problems = "; ".join(dicom_problems(everything, NOTHING_KEPT))
    for keyword in ("StationName", "DeviceSerialNumber", "PatientAge", "StudyDate", "StudyTime", "Manufacturer"):
        assert f"{keyword} " in problems
    assert "DeidentificationMethodCodeSequence" in problems


def set_value(keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda file: setattr(file, keyword, value)


def add(tag: int, vr: str, value: object) -> Callable[[Dataset], None]:
    return lambda file: file.add_new(tag, vr, value) and None


def nested(change: Callable[[Dataset], None], keyword: str = "ViewCodeSequence") -> Callable[[Dataset], None]:
    return lambda file: change(file[keyword].value[0])


def private(file: Dataset) -> None:
    file.private_block(0x0019, "ACME Roe", create=True).add_new(0x10, "LO", "Roe^Jane")


def image_reference(uid: str) -> Callable[[Dataset], None]:
    def change(file: Dataset) -> None:
        item = Dataset()
        item.ReferencedSOPInstanceUID = uid
        file.ReferencedImageSequence = [item]

    return change


def file_meta(keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda file: setattr(file.file_meta, keyword, value)


def private_meta(file: Dataset) -> None:
    file.file_meta.PrivateInformationCreatorUID, file.file_meta.PrivateInformation = "1.2.3", b"Roe^Jane"


def with_pixel_bits(file: Dataset) -> None:
    file.PixelData = b"Ro" + file.PixelData[2:]


PLANTED: dict[str, Callable[[Dataset], None]] = {
    "PatientName": set_value("PatientName", "Roe^Jane"),
    "PatientID": set_value("PatientID", "4711086"),
    "IssuerOfPatientID": set_value("IssuerOfPatientID", "Roe Clinic"),
    "PatientBirthDate": set_value("PatientBirthDate", "19610312"),
    "AccessionNumber": set_value("AccessionNumber", "4711086"),
    "StudyID": set_value("StudyID", "17"),
    "PatientAge": set_value("PatientAge", "093Y"),
    "PatientComments": set_value("PatientComments", "Roe, Jane"),
    "ReferringPhysicianName": set_value("ReferringPhysicianName", "Roe"),
    "InstitutionName": set_value("InstitutionName", "Roe Clinic"),
    "StudyInstanceUID": set_value("StudyInstanceUID", "1.2.826.0.1.3680043.2.1143.1"),
    "SOPInstanceUID": set_value("SOPInstanceUID", "2.25.19610312"),
    "SOPClassUID": set_value("SOPClassUID", "1.2.826.0.1.3680043.2.1143.1"),
    "StudyDate": set_value("StudyDate", "20231345"),
    "StudyTime": set_value("StudyTime", "Roe"),
    "SeriesNumber": set_value("SeriesNumber", "4711086"),
    "KVP": set_value("KVP", "19610312"),
    "ViewPosition": set_value("ViewPosition", "ROE"),
    "ImageType": set_value("ImageType", ["DERIVED", "PRIMARY", "ROE"]),
    "Manufacturer": set_value("Manufacturer", "Roe Ltd"),
    "DerivationDescription": set_value("DerivationDescription", "Anatomy of Roe, Jane"),
    "DeidentificationMethod": set_value("DeidentificationMethod", "by Roe"),
    "PatientIdentityRemoved": set_value("PatientIdentityRemoved", "NO"),
    "RescaleType": set_value("RescaleType", "Roe"),
    "WindowCenter": set_value("WindowCenter", 1961),
    "WindowCenterWidthExplanation": set_value("WindowCenterWidthExplanation", "Roe"),
    "SpecificCharacterSet": set_value("SpecificCharacterSet", "ISO_IR 100"),
    "ViewCodeSequence > CodeMeaning": nested(set_value("CodeMeaning", "Roe's view")),
    "ViewCodeSequence > CodeValue": nested(set_value("CodeValue", "4711086")),
    "ViewCodeSequence > PatientID": nested(set_value("PatientID", "4711086")),
    "ReferencedImageSequence > ReferencedSOPInstanceUID": image_reference("1.2.826.0.1.3680043.2.1143.1"),
    "DerivationCodeSequence > CodeMeaning": nested(set_value("CodeMeaning", "Roe"), "DerivationCodeSequence"),
    "(0019,0010)": private,
    "(0019,1010)": private,
    "OverlayDescription": add(0x60000022, "LO", "Roe"),
    "OverlayData": add(0x60023000, "OW", b"Roe^Jane"),
    "CurveData": add(0x50003000, "OW", b"Roe^Jane"),
    "(0011,0011)": add(0x00110011, "LO", "Roe"),
    "IconImageSequence": set_value("IconImageSequence", [Dataset()]),
    "EncapsulatedDocument": set_value("EncapsulatedDocument", b"Roe^Jane"),
    "DataSetTrailingPadding": add(0xFFFCFFFC, "OB", b"Roe^Jane"),
    "SourceApplicationEntityTitle": file_meta("SourceApplicationEntityTitle", "ROE"),
    "ImplementationVersionName": file_meta("ImplementationVersionName", "ROE"),
    "PrivateInformation": private_meta,
    "the preamble": lambda file: setattr(file, "preamble", b"Roe^Jane".ljust(128, b"\0")),
    "PixelData has another size": lambda file: setattr(file, "PixelData", file.PixelData + b"Roe^Jane"),
    "PixelData has values above": with_pixel_bits,
}


@pytest.mark.parametrize("place", PLANTED)
def test_what_is_planted_is_found_by_its_place_and_not_quoted(place: str) -> None:
    options = OPTIONS["defaults"]
    file = dcmread(BytesIO(published(options)))
    changed = BytesIO()
    with quiet():  # some of what is planted is invalid
        PLANTED[place](file)
        file.save_as(changed, enforce_file_format=True)
    problems = dicom_problems(changed.getvalue(), options)
    assert [problem for problem in problems if problem.startswith(place)] != []
    told = "; ".join(problems)
    assert not any(value in told for value in ("Roe", "ROE", "Jane", "4711", "1961", "1.2.826", "093Y"))


def test_bytes_that_belong_to_no_element_are_found() -> None:
    options = OPTIONS["defaults"]
    data = published(options)
    told = "the file holds bytes that belong to no element"
    assert dicom_problems(data + b"Roe", options) == [told]
    patient = b"\x10\x00\x20\x00LO"  # made four bytes longer below
    padded = data.replace(patient + b"\x20\x00", patient + b"\x24\x00")
    at = padded.index(patient) + 8 + 32
    assert dicom_problems(padded[:at] + b"\0Ro\0" + padded[at:], options) != []
    assert dicom_problems(padded[:at] + b"\0\0\0\0" + padded[at:], options) == [told]


def test_group_lengths_are_found() -> None:
    data = published(ProfileOptions())
    at = data.index(b"\x10\x00\x10\x00PN")
    length = b"\x10\x00\x00\x00UL\x04\x00" + (19610312).to_bytes(4, "little")
    assert "(0010,0000) may not be there" in dicom_problems(data[:at] + length + data[at:], ProfileOptions())


def test_damaged_and_foreign_files_are_a_problem_and_no_error() -> None:
    options = OPTIONS["defaults"]
    data = published(options)
    for broken in (b"", b"Roe", data[:200], data[:1500], bytes(200) + data):
        assert len(dicom_problems(broken, options)) >= 1


@pytest.mark.parametrize(("syntax", "marker"), [("jpeg-ls", b"\xff\xfe"), ("jpeg-2000", b"\xff\x64")])
def test_comments_in_codestreams_are_found(syntax: Syntax, marker: bytes) -> None:
    options = OPTIONS["defaults"]
    file = dcmread(BytesIO(published(options, syntax)))
    stream = list(generate_fragments(file.PixelData))[1]
    first = 2 if syntax == "jpeg-ls" else 4 + int.from_bytes(stream[4:6], "big")  # JPEG 2000: behind its SIZ segment
    comment = marker + b"\0\x0c\0\1Roe^Jane"

    def problems(changed: bytes) -> list[str]:
        file.PixelData = encapsulate([changed])
        buffer = BytesIO()
        file.save_as(buffer, enforce_file_format=True)
        return dicom_problems(buffer.getvalue(), options)

    assert problems(stream) == []
    told = ["PixelData has comments, or bytes behind its end marker"]
    assert problems(stream[:first] + comment + stream[first:]) == told
    assert problems(stream + b"Roe^Jane") == told


def test_texts_about_devices_are_searched_for_persons_only() -> None:
    source = phantom_header()
    source.DeviceSerialNumber, source.SoftwareVersions = "4711086", "V4 20190512"
    source.StationName = "ROE^JANE"
    data = dicom_bytes(deidentify(source, KEYS, ALL_KEPT), PIXELS, 12)
    assert dicom_problems(data, ALL_KEPT) == ["StationName holds what looks like a person name"]


def test_safe_private_attributes_may_be_there_if_they_were_allowed() -> None:
    source = phantom_header()
    source.private_block(0x0019, "ACME", create=True).add_new(0x10, "DS", "1.5")
    options = ProfileOptions(safe_private=frozenset({("ACME", 0x0019, 0x10)}))
    data = dicom_bytes(deidentify(source, KEYS, options), PIXELS, 12)
    assert dicom_problems(data, options) == []
    assert "(0019,1010) may not be there" in dicom_problems(data, ProfileOptions())


def test_the_standards_codes_pass() -> None:
    source = phantom_header()
    for number, (scheme, value) in enumerate(list(known_codes())[::40]):
        code = source.AnatomicRegionSequence[0]
        code.CodingSchemeDesignator, code.CodeValue, code.CodeMeaning = scheme, value, f"Roe {number}"
        data = dicom_bytes(deidentify(source, KEYS), PIXELS, 12)
        assert dicom_problems(data, ProfileOptions()) == []


# --- images ---------------------------------------------------------------------------------------------------------


def test_text_in_an_image_is_counted_without_laterality_marks() -> None:
    pytest.importorskip("rapidocr", reason="finding burned-in text needs rapidocr's weights")
    study = PhantomStudy(11, 1, 0, (512, 512), "P00001", (), "PA", "F", 50)
    image = render(study, 8)
    assert text_in_image(image, 8) == 0
    letter, _ = glyphs("L", 48, "DejaVuSans-Bold", 1)
    image[40 : 40 + letter.shape[0], 420 : 420 + letter.shape[1]][letter > 127] = 230
    assert detect(image, 8) != []
    assert text_in_image(image, 8) == 0
    cv2.putText(image, "MUELLER 4711086", (120, 480), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 255, 2)
    assert text_in_image(image, 8) >= 1
