"""Published DICOM files: pixels, description, and the judgement of dciodvfy and dcmdump."""

import re
import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import UID

from prichexy.deid import TRANSFER_SYNTAXES, ProfileOptions, Syntax, deidentify, dicom_bytes, header_bytes, read_header
from prichexy.imaging import decode
from tests.deid.headers import KEYS, phantom_file, phantom_header

CR = "1.2.840.10008.5.1.4.1.1.1"
FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def errors(file: Path) -> set[str]:
    """What dciodvfy calls an error, without the values it quotes."""
    told = subprocess.run(["dciodvfy", file], capture_output=True, text=True, check=False).stderr
    return {
        re.sub(r"(?<!Element=)(?<!Module=)<[^>]*>|\d+ dec", "", line)
        for line in told.splitlines()
        if line.startswith("Error")
    }


def published(header: Dataset, bits: int = 12, syntax: Syntax = "uncompressed", height: int = 96) -> Dataset:
    return dcmread(BytesIO(dicom_bytes(header, picture(bits, height), bits, syntax)))


def picture(bits: int, height: int = 96, width: int = 80) -> np.ndarray:
    random = np.random.default_rng(bits)
    return random.integers(0, 2**bits, (height, width)).astype(np.uint8 if bits == 8 else np.uint16)


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES)
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_pixels_come_back_exactly(syntax: Syntax, bits: int) -> None:
    data = dicom_bytes(deidentify(phantom_header(), KEYS), picture(bits), bits, syntax)
    radiograph = decode(data)
    assert radiograph.bit_depth == bits
    assert np.array_equal(radiograph.pixels, picture(bits))
    assert dcmread(BytesIO(data)).file_meta.TransferSyntaxUID == TRANSFER_SYNTAXES[syntax]


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_image_description_fits_display_values(bits: int) -> None:
    image = published(deidentify(phantom_header(), KEYS), bits)
    assert (image.BitsAllocated, image.BitsStored, image.HighBit) == (8 if bits == 8 else 16, bits, bits - 1)
    assert (image.PhotometricInterpretation, image.PixelRepresentation, image.SamplesPerPixel) == ("MONOCHROME2", 0, 1)
    assert (image.RescaleIntercept, image.RescaleSlope, image.PresentationLUTShape) == (0, 1, "IDENTITY")
    assert (image.WindowCenter, image.WindowWidth) == (2 ** (bits - 1), 2**bits)
    assert image.PixelIntensityRelationshipSign == -1
    assert image.ImageType == ["DERIVED", "PRIMARY"]
    assert image.DerivationDescription == "Anatomy obfuscated by prichexy"
    assert [item.CodeValue for item in image.DerivationCodeSequence] == ["113085"]
    for gone in ("VOILUTSequence", "ModalityLUTSequence", "PixelPaddingValue", "SmallestImagePixelValue"):
        assert gone not in image


def test_odd_number_of_pixels_is_padded() -> None:
    data = dicom_bytes(deidentify(phantom_header(), KEYS), np.zeros((65, 67), np.uint8), 8)
    assert len(dcmread(BytesIO(data)).PixelData) == 65 * 67 + 1


def test_header_is_left_as_it_was() -> None:
    header = deidentify(phantom_header(), KEYS)
    before = header.to_json()
    dicom_bytes(header, picture(12, 48), 12, "rle")
    assert header.to_json() == before


def test_header_travels_as_bytes() -> None:
    header = deidentify(phantom_header(), KEYS)
    travelled = read_header(header_bytes(header))
    assert dicom_bytes(travelled, picture(12), 12) == dicom_bytes(header, picture(12), 12)


def test_file_meta_is_new() -> None:
    source = dcmread(BytesIO(phantom_file()))
    image = published(deidentify(read_header(phantom_file()), KEYS))
    assert image.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID != source.SOPInstanceUID
    assert image.preamble == bytes(128)
    assert {element.keyword for element in image.file_meta} == {
        "FileMetaInformationGroupLength",
        "FileMetaInformationVersion",
        "MediaStorageSOPClassUID",
        "MediaStorageSOPInstanceUID",
        "TransferSyntaxUID",
        "ImplementationClassUID",
        "ImplementationVersionName",
    }


def test_spacing_follows_a_change_of_size() -> None:
    source = phantom_header()
    source.ImagerPixelSpacing = ["0.2", "0.2"]
    image = published(deidentify(source, KEYS), height=48)
    assert [float(value) for value in image.ImagerPixelSpacing] == [0.4, 0.2]
    assert "PixelAspectRatio" not in image
    del source.ImagerPixelSpacing
    image = published(deidentify(source, KEYS), height=48)
    assert list(image.PixelAspectRatio) == [2, 1]


def test_image_for_processing_is_published_for_presentation() -> None:
    source = phantom_header()
    source.SOPClassUID, source.PresentationIntentType = FOR_PROCESSING, "FOR PROCESSING"
    image = published(deidentify(source, KEYS))
    assert image.SOPClassUID == "1.2.840.10008.5.1.4.1.1.1.1"
    assert image.PresentationIntentType == "FOR PRESENTATION"


@pytest.mark.parametrize(
    ("cleaned", "source_says", "removed", "burned_in"),
    [
        (True, "NO", "YES", "NO"),
        (True, None, "YES", "NO"),
        (False, "NO", "NO", "NO"),
        (False, "YES", "NO", "YES"),
        (False, None, "NO", "YES"),
        (False, "FRED", "NO", "YES"),
    ],
)
def test_flags_say_what_was_done(cleaned: bool, source_says: str | None, removed: str, burned_in: str) -> None:
    source = phantom_header()
    source.PatientIdentityRemoved, source.DeidentificationMethod = "YES", "someone else's"
    if source_says is None:
        del source.BurnedInAnnotation
    else:
        source.BurnedInAnnotation = source_says
    header = deidentify(source, KEYS, ProfileOptions(pixels_cleaned=cleaned))
    assert (header.PatientIdentityRemoved, header.BurnedInAnnotation) == (removed, burned_in)
    codes = [item.CodeValue for item in header.DeidentificationMethodCodeSequence]
    assert codes == ["113100", *(["113101"] if cleaned else []), "113107", "113108"]
    assert header.LongitudinalTemporalInformationModified == "MODIFIED"
    assert "someone else's" not in str(header)


def test_options_that_are_off_are_not_claimed() -> None:
    off = ProfileOptions(modified_dates=False, patient_characteristics=False)
    header = deidentify(phantom_header(), KEYS, off)
    assert [item.CodeValue for item in header.DeidentificationMethodCodeSequence] == ["113100"]
    assert header.LongitudinalTemporalInformationModified == "REMOVED"
    on = ProfileOptions(device_identity=True, safe_private=frozenset({("ACME", 0x0019, 0x10)}))
    codes = [item.CodeValue for item in deidentify(phantom_header(), KEYS, on).DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113107", "113108", "113109", "113111"]


def test_private_attributes_pass_by_creator_only() -> None:
    source = phantom_header()
    for creator in ("ACME", "OTHER"):
        block = source.private_block(0x0019, creator, create=True)
        block.add_new(0x10, "DS", "1.5")
        block.add_new(0x11, "LO", "Fred")
        block.add_new(0x12, "UN", b"Fred")
    allowed = frozenset({("ACME", 0x0019, 0x10), ("ACME", 0x0019, 0x12), ("ABSENT", 0x0019, 0x11)})
    header = deidentify(source, KEYS, ProfileOptions(safe_private=allowed))
    private = {(element.tag.group, element.tag.element): element.value for element in header if element.tag.is_private}
    assert private == {(0x0019, 0x0010): "ACME", (0x0019, 0x1010): 1.5}


def test_codes_pass_in_the_words_of_the_standard_only() -> None:
    source = phantom_header()
    source.ViewCodeSequence[0].CodeMeaning = "Fred's view"
    source.AnatomicRegionSequence[0].CodingSchemeDesignator = "99FRED"
    source.AnatomicRegionSequence[0].CodeMeaning = "Thorax of Fred"
    header = deidentify(source, KEYS)
    assert header.ViewCodeSequence[0].CodeMeaning == "postero-anterior"
    assert header.AnatomicRegionSequence[0].CodeMeaning == "Chest"
    source.AnatomicRegionSequence[0].CodeMeaning = "Fred"
    assert deidentify(source, KEYS).AnatomicRegionSequence[0].CodeMeaning == "Unknown"
    source.ViewCodeSequence[0].CodeValue, source.ViewCodeSequence[0].CodeMeaning = "L17", "Chest of Fred"
    assert deidentify(source, KEYS).ViewCodeSequence[0].CodeMeaning == "Unknown"
    source.ViewCodeSequence[0].CodeValue, source.ViewCodeSequence[0].CodingSchemeDesignator = "R-10206", "SNM3"
    view = deidentify(source, KEYS).ViewCodeSequence[0]
    assert (view.CodeValue, view.CodingSchemeDesignator, view.CodeMeaning) == ("R-10206", "SRT", "antero-posterior")


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy (Debian: dicom3tools)")
@pytest.mark.parametrize("options", [ProfileOptions(), ProfileOptions(False, False)], ids=["defaults", "no options"])
@pytest.mark.parametrize("sop_class", ["DX", CR, SECONDARY_CAPTURE])
def test_dciodvfy_finds_no_error_that_the_source_did_not_have(
    options: ProfileOptions, sop_class: str, tmp_path: Path
) -> None:
    source = dcmread(BytesIO(phantom_file()))
    if sop_class != "DX":
        source.SOPClassUID = source.file_meta.MediaStorageSOPClassUID = UID(sop_class)
        source.Modality = "CR"
        source.Laterality = ""
        source.ConversionType = "DI"
        for keyword in ("ImageLaterality", "PresentationLUTShape", "PixelIntensityRelationship", "ImagerPixelSpacing"):
            del source[keyword]
    source.save_as(tmp_path / "source.dcm", enforce_file_format=True)
    before = errors(tmp_path / "source.dcm")
    for syntax in TRANSFER_SYNTAXES:
        header = deidentify(source, KEYS, options)
        file = tmp_path / f"{syntax}.dcm"
        file.write_bytes(dicom_bytes(header, picture(12), 12, syntax))
        assert errors(file) - before == set()
        if shutil.which("dcmdump"):
            dump = subprocess.run(["dcmdump", file], capture_output=True, text=True, check=False)
            assert (dump.returncode, dump.stderr) == (0, "")


def test_header_of_another_object_is_refused() -> None:
    source = phantom_header()
    source.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    with pytest.raises(Exception, match="only CR, DX and Secondary Capture"):
        dicom_bytes(deidentify(source, KEYS), picture(8), 8)
