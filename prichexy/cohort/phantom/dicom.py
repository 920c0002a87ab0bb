"""Phantom studies as DX DICOM files in many transfer syntaxes and pixel variants."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid as dicom_uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from prichexy.cohort.phantom.anatomy import Stream, generator
from prichexy.cohort.phantom.cohort import BIT_DEPTHS, PhantomStudy, collimated, render
from prichexy.cohort.phantom.header import DX_FOR_PRESENTATION, dx_header
from prichexy.cohort.phantom.identity import Person, invent
from prichexy.errors import UsageError

DEFAULT_TRANSFER_SYNTAXES: tuple[str, ...] = (
    str(dicom_uid.ExplicitVRLittleEndian),
    str(dicom_uid.JPEGLosslessSV1),
    str(dicom_uid.JPEG2000Lossless),
    str(dicom_uid.RLELossless),
    str(dicom_uid.ImplicitVRLittleEndian),
    str(dicom_uid.JPEGLSLossless),
    str(dicom_uid.JPEGBaseline8Bit),
    str(dicom_uid.DeflatedExplicitVRLittleEndian),
    str(dicom_uid.HTJ2KLossless),
    str(dicom_uid.ExplicitVRBigEndian),
)
"""The ten that the files cycle through; all but JPEG baseline keep every pixel value."""

_NATIVE = {
    str(dicom_uid.ImplicitVRLittleEndian),
    str(dicom_uid.ExplicitVRLittleEndian),
    str(dicom_uid.ExplicitVRBigEndian),
    str(dicom_uid.DeflatedExplicitVRLittleEndian),
}
_BY_PYDICOM = {str(dicom_uid.RLELossless), str(dicom_uid.JPEGLSLossless), str(dicom_uid.JPEG2000Lossless)}


@dataclass(frozen=True)
class Variant:
    """How one file stores its pixels.

    Attributes:
        transfer_syntax: UID, one of `DEFAULT_TRANSFER_SYNTAXES`.
        bits: stored bits, 8 to 16.
        inverted: MONOCHROME1 instead of MONOCHROME2.
        voi: ``window``, ``lut`` or ``none``; each shows the pixels as `render` gives them.
        padded: whether the shutter's pixels are declared as padding.
    """

    transfer_syntax: str
    bits: int
    inverted: bool
    voi: str
    padded: bool


def variant(index: int, transfer_syntaxes: tuple[str, ...], without_voi: bool = False) -> Variant:
    """The variant of the ``index``-th file: the cycles have lengths without common factors, so combinations vary.

    Args:
        index: number of the file.
        transfer_syntaxes: UIDs to cycle through.
        without_voi: lets every seventh file have neither window nor LUT, as many real files do against PS3.3 C.8.11.3.
    """
    syntax = transfer_syntaxes[index % len(transfer_syntaxes)]
    bits = (12, 16, 10, 14, 8, 12, 14)[index % 7]
    if syntax == dicom_uid.JPEGBaseline8Bit:
        bits = 8
    if syntax == dicom_uid.HTJ2KLossless and bits != 8:
        bits = 16  # the encoder writes whole bytes' precision
    voi = "none" if without_voi and index % 7 == 3 else "lut" if index % 3 == 1 and 10 <= bits <= 12 else "window"
    return Variant(syntax, bits, index % 9 in (1, 4, 8), voi, index % 2 == 0)


def dicom_file(study: PhantomStudy, how: Variant, burn_in: bool = False) -> tuple[Dataset, dict[str, str]]:
    """A complete DX dataset with file meta, ready for ``save_as(..., enforce_file_format=True)``.

    Args:
        study: the radiograph.
        how: pixel variant and transfer syntax.
        burn_in: also writes the patient's name, number and date into the pixels.

    Returns:
        The dataset, and the planted identifiers (attribute -> value).

    Raises:
        UsageError: for a transfer syntax or bit depth that can't be written.
    """
    if how.bits not in BIT_DEPTHS or how.transfer_syntax not in DEFAULT_TRANSFER_SYNTAXES:
        raise UsageError(
            "the phantom cohort can't write this transfer syntax or bit depth; see DEFAULT_TRANSFER_SYNTAXES."
        )
    person = invent(study)
    lossy = how.transfer_syntax == dicom_uid.JPEGBaseline8Bit
    ds, planted = dx_header(study, person, burn_in, lossy)
    pixels = render(study, how.bits)
    if burn_in:
        pixels, lines = burn_text(pixels, how.bits, person)
        planted |= {f"burned-in line {number}": line for number, line in enumerate(lines)}
    top = (1 << how.bits) - 1
    if how.inverted:
        pixels = np.bitwise_xor(pixels, pixels.dtype.type(top))  # top - pixels: top is all ones
    _describe_pixels(ds, pixels, how, padding=how.padded and bool(collimated(study).any()))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dicom_uid.UID(DX_FOR_PRESENTATION)
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = dicom_uid.UID(how.transfer_syntax)
    ds.file_meta = meta
    _store_pixels(ds, pixels, how)
    return ds, planted


def _describe_pixels(ds: Dataset, pixels: NDArray[np.uint8] | NDArray[np.uint16], how: Variant, padding: bool) -> None:
    """Image Pixel (PS3.3 C.7.6.3), VOI LUT (C.11.2) and presentation attributes (C.8.11.3)."""
    top = (1 << how.bits) - 1
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME1" if how.inverted else "MONOCHROME2"
    ds.Rows, ds.Columns = int(pixels.shape[0]), int(pixels.shape[1])
    ds.BitsAllocated = 8 if how.bits == 8 else 16
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = how.bits, how.bits - 1, 0
    ds.PresentationLUTShape = "INVERSE" if how.inverted else "IDENTITY"
    ds.PixelIntensityRelationshipSign = 1 if how.inverted else -1
    if padding:
        ds.add_new("PixelPaddingValue", "US", top if how.inverted else 0)
    if how.voi == "window":
        ds.WindowCenter, ds.WindowWidth = 1 << (how.bits - 1), 1 << how.bits  # C.11.2.1.2.1: the identity
    elif how.voi == "lut":
        table = Dataset()
        table.add_new("LUTDescriptor", "US", [top + 1, 0, how.bits])
        table.add_new("LUTData", "US", list(range(top + 1)))
        ds.VOILUTSequence = Sequence([table])


def _store_pixels(ds: Dataset, pixels: NDArray[np.uint8] | NDArray[np.uint16], how: Variant) -> None:
    """Pixel Data (PS3.5 8 and A.4), native or encapsulated."""
    syntax = how.transfer_syntax
    if syntax in _NATIVE:
        big = syntax == dicom_uid.ExplicitVRBigEndian
        data = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")).tobytes()
        ds.add_new(
            "PixelData",
            "OB" if how.bits == 8 and syntax != dicom_uid.ImplicitVRLittleEndian else "OW",
            data + b"\0" * (len(data) % 2),
        )
        return
    if syntax in _BY_PYDICOM:
        ds.file_meta.TransferSyntaxUID = dicom_uid.ExplicitVRLittleEndian
        ds.compress(syntax, pixels, generate_instance_uid=False)
        return
    if syntax == dicom_uid.JPEGBaseline8Bit:
        frame = imagecodecs.jpeg8_encode(pixels, level=95)
        ds.LossyImageCompressionRatio = f"{pixels.nbytes / len(frame):.4f}"
        ds.LossyImageCompressionMethod = "ISO_10918_1"
    elif syntax == dicom_uid.JPEGLosslessSV1:
        frame = imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=1, bitspersample=how.bits)
    else:
        frame = imagecodecs.htj2k_encode(pixels, reversible=True)
    ds.add_new("PixelData", "OB", encapsulate([bytes(frame)]))
    ds["PixelData"].is_undefined_length = True


def burn_text(
    pixels_HW: NDArray[np.uint8] | NDArray[np.uint16], bits: int, person: Person
) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], list[str]]:
    """A copy with the patient's name, number, birth date and the study's date written into a corner, and the lines.

    Args:
        pixels_HW: (H, W), bone bright, ``bits`` bits.
        bits: stored bits.
        person: whose name is written.
    """
    family, given = person.name.split("^")
    plain = f"{family}, {given}".encode("ascii", "ignore").decode()
    lines = [plain, person.mrn, f"*{person.birth:%d.%m.%Y}", f"{person.when:%d.%m.%Y %H:%M}"]
    mask = np.zeros(pixels_HW.shape, np.uint8)
    scale = max(0.3, min(pixels_HW.shape) / 1024)
    left, top = int(0.02 * pixels_HW.shape[1]), int(pixels_HW.shape[0] * 0.98) - int(len(lines) * 34 * scale)
    for number, line in enumerate(lines):
        corner = (left, top + int((number + 1) * 34 * scale))
        cv2.putText(
            mask, line, corner, cv2.FONT_HERSHEY_SIMPLEX, 1.05 * scale, 255, max(1, round(2.2 * scale)), cv2.LINE_AA
        )
    shade = cv2.dilate(mask, np.ones((3, 3), np.uint8)).astype(np.float32) / 255  # a dark rim, as consoles draw it
    ink = mask.astype(np.float32) / 255
    out = pixels_HW.astype(np.float32) * (1 - shade) + ink * ((1 << bits) - 1)
    return np.clip(np.rint(out), 0, (1 << bits) - 1).astype(pixels_HW.dtype), lines


def burns_in(study: PhantomStudy, share: float) -> bool:
    """Whether this study carries burned-in text when a ``share`` in [0, 1] of them does."""
    return bool(generator(study.seed, study.patient, study.study, Stream.IDENTITY + 50).random() < share)


def save(ds: Dataset, path: Path) -> None:
    """Writes a DICOM file (PS3.10) with preamble and complete file meta."""
    ds.save_as(path, enforce_file_format=True)
