"""De-identified DICOM files: the published header around the anonymized pixels."""

import uuid
from copy import copy
from io import BytesIO
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from prichexy.deid.statement import coded_entry
from prichexy.errors import Quarantined
from prichexy.imaging.silence import quiet

Syntax = Literal["uncompressed", "rle", "jpeg-ls", "jpeg-2000"]

TRANSFER_SYNTAXES: dict[Syntax, UID] = {
    "uncompressed": ExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg-ls": JPEGLSLossless,
    "jpeg-2000": JPEG2000Lossless,
}
"""The lossless transfer syntaxes that are offered."""

IMPLEMENTATION_CLASS_UID = UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_DNS, 'prichexy').int}")
"""Names this software as the writer (PS3.7 D.3.3.2)."""

_CLASSES = {
    ComputedRadiographyImageStorage: "CR",
    DigitalXRayImageStorageForPresentation: "DX",
    SecondaryCaptureImageStorage: "OT",
}
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing")


def dicom_bytes(
    header: Dataset,
    pixels_HW: NDArray[np.uint8] | NDArray[np.uint16],
    bit_depth: int,
    syntax: Syntax = "uncompressed",
    derivation: str = "Anatomy obfuscated by prichexy",
) -> bytes:
    """A DICOM file (PS3.10) of a CR, DX or Secondary Capture image, for presentation.

    The pixels are display values: MONOCHROME2, no modality LUT but the identity, a window over the whole range. Pixel
    spacing follows a change of size. Preamble and file meta are new.

    Args:
        header: what `prichexy.deid.deidentify` returned; not changed.
        pixels_HW: (H, W), black 0, white 2**bit_depth - 1; np.uint8 at depth 8, else np.uint16.
        bit_depth: 8 to 16.
        syntax: how the pixels are stored.
        derivation: Derivation Description: what was done to the pixels, without any identifier.

    Raises:
        Quarantined: ``NotARadiograph`` for a header of another object; ``NotEncodable`` where the file can't be
            written.
    """
    if header.get("SOPClassUID") not in _CLASSES:
        raise Quarantined("deidentify", "NotARadiograph", "only CR, DX and Secondary Capture objects are written")
    try:
        with quiet():
            return _written(_with_pixels(header, pixels_HW, bit_depth, derivation), pixels_HW, syntax)
    except MemoryError:
        raise
    except Exception:
        pass
    raise Quarantined("deidentify", "NotEncodable", "the de-identified DICOM file can't be written")


def _with_pixels(
    header: Dataset, pixels_HW: NDArray[np.uint8] | NDArray[np.uint16], bit_depth: int, derivation: str
) -> Dataset:
    """A copy whose Image Pixel (PS3.3 C.7.6.3), VOI LUT (C.11.2) and General Image (C.7.6.1) modules fit the pixels."""
    image = Dataset()
    for element in header:
        image.add(copy(element))
    _rescale_spacing(image, *pixels_HW.shape)
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows, image.Columns = pixels_HW.shape
    image.BitsAllocated = 8 if bit_depth == 8 else 16
    image.BitsStored, image.HighBit, image.PixelRepresentation = bit_depth, bit_depth - 1, 0
    image.WindowCenter, image.WindowWidth = 2 ** (bit_depth - 1), 2**bit_depth  # C.11.2.1.2.1: the identity
    second = image.ImageType[1] if len(image.get("ImageType") or "") == 2 else "PRIMARY"
    image.ImageType = ["DERIVED", second]
    image.DerivationDescription = derivation[:1024]
    steps = list(image.get("DerivationCodeSequence") or [])
    image.DerivationCodeSequence = [*steps, coded_entry("113085", "DCM", "Spatial resampling")]  # PS3.16 CID 7203
    if not image.get("Modality"):
        image.Modality = _CLASSES[image.SOPClassUID]
    if image.SOPClassUID == DigitalXRayImageStorageForPresentation:
        _dx_presentation(image)
    else:
        image.pop("PixelIntensityRelationship", None)
        image.pop("PresentationIntentType", None)
    return image


def _dx_presentation(image: Dataset) -> None:
    """DX Series and DX Image (PS3.3 C.8.11.1, C.8.11.3): display values, white for little radiation."""
    image.PresentationIntentType = "FOR PRESENTATION"
    image.PresentationLUTShape = "IDENTITY"
    image.RescaleIntercept, image.RescaleSlope, image.RescaleType = 0, 1, "US"
    image.PixelIntensityRelationship = image.get("PixelIntensityRelationship") or "LOG"
    image.PixelIntensityRelationshipSign = -1
    image.LossyImageCompression = image.get("LossyImageCompression") or "00"


def _rescale_spacing(image: Dataset, height: int, width: int) -> None:
    """Spacing (row, column; PS3.3 10.7.1.3) of the published size; without any, the aspect ratio if it changed."""
    rows, columns = image.get("Rows"), image.get("Columns")
    if not rows or not columns or (rows, columns) == (height, width):
        return
    spaced = False
    for keyword in _SPACINGS:
        spacing = image.get(keyword)
        if spacing and len(spacing) == 2:
            scaled = float(spacing[0]) * rows / height, float(spacing[1]) * columns / width
            image.add_new(keyword, "DS", [f"{value:.8g}" for value in scaled])
            spaced = True
        else:
            image.pop(keyword, None)
    tall, wide = rows * width, columns * height  # a pixel's height and width, in one unit
    image.pop("PixelAspectRatio", None)
    if not spaced and tall != wide:
        divisor = int(np.gcd(tall, wide))
        image.PixelAspectRatio = [tall // divisor, wide // divisor]


def _written(image: Dataset, pixels_HW: NDArray[np.uint8] | NDArray[np.uint16], syntax: Syntax) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = image.SOPClassUID
    meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = "PRICHEXY"
    image.file_meta = meta
    if syntax == "uncompressed":
        stored = np.ascontiguousarray(pixels_HW, pixels_HW.dtype.newbyteorder("<")).tobytes()
        image.add_new("PixelData", "OB" if image.BitsAllocated == 8 else "OW", stored + b"\0" * (len(stored) % 2))
    else:
        # Named, since pydicom prefers GDCM where that is installed, whose RLE encoder aborts the process on odd sizes.
        image.compress(
            TRANSFER_SYNTAXES[syntax],
            np.ascontiguousarray(pixels_HW),
            encoding_plugin="pydicom" if syntax == "rle" else "",
            generate_instance_uid=False,
        )
    buffer = BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
