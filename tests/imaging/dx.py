"""Writes small chest radiographs: a smooth synthetic picture, and DX files of it in any transfer syntax."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
from pydicom import Dataset, FileMetaDataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
)

CANARY = "ZEBRAFISH"
JPEG_XL = "1.2.840.10008.1.2.4.110"

CODECS: dict[str, Callable[[np.ndarray, int], bytes]] = {
    "1.2.840.10008.1.2.4.50": lambda image, bits: imagecodecs.jpeg8_encode(image, level=98),
    "1.2.840.10008.1.2.4.51": lambda image, bits: imagecodecs.jpeg8_encode(image, level=98, bitspersample=bits),
    "1.2.840.10008.1.2.4.57": lambda image, bits: imagecodecs.jpeg8_encode(
        image, lossless=True, predictor=4, bitspersample=bits
    ),
    "1.2.840.10008.1.2.4.70": lambda image, bits: imagecodecs.jpeg8_encode(
        image, lossless=True, predictor=1, bitspersample=bits
    ),
    "1.2.840.10008.1.2.4.80": lambda image, bits: imagecodecs.jpegls_encode(image),
    "1.2.840.10008.1.2.4.81": lambda image, bits: imagecodecs.jpegls_encode(image, level=2),
    "1.2.840.10008.1.2.4.90": lambda image, bits: imagecodecs.jpeg2k_encode(
        image, codecformat="j2k", reversible=True, level=0, bitspersample=bits
    ),
    "1.2.840.10008.1.2.4.201": lambda image, bits: imagecodecs.htj2k_encode(image, reversible=True),
    "1.2.840.10008.1.2.4.110": lambda image, bits: imagecodecs.jpegxl_encode(image, lossless=True, effort=1),
}


def picture(bits: int = 12, height: int = 96, width: int = 80, seed: int = 0) -> np.ndarray:
    """(height, width): smooth waves and a little noise, over the middle of the range; no two rows or columns alike."""
    y_HW, x_HW = np.mgrid[:height, :width]
    wave = 0.5 + 0.2 * np.sin(x_HW / 13 + seed) + 0.2 * np.cos(y_HW / 17)
    noise = np.random.default_rng(seed).normal(0, 0.01, (height, width))
    return np.rint((wave + noise).clip(0, 1) * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


def header(**elements: Any) -> Dataset:
    """A DX header with planted identifiers and no pixels; `elements` override it, None removes one."""
    data_set = Dataset()
    data_set.SOPClassUID = DigitalXRayImageStorageForPresentation
    data_set.SOPInstanceUID = "2.25.1"
    data_set.Modality = "DX"
    data_set.PatientName = f"{CANARY}^ANNA"
    data_set.PatientID = f"{CANARY}-77"
    data_set.BodyPartExamined = "CHEST"
    data_set.ViewPosition = "PA"
    data_set.SamplesPerPixel = 1
    data_set.PhotometricInterpretation = "MONOCHROME2"
    data_set.PixelRepresentation = 0
    for keyword, value in elements.items():
        if value is None:
            del data_set[keyword]
        else:
            setattr(data_set, keyword, value)
    return data_set


def dx_file(image: np.ndarray, bits: int, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> bytes:
    """The bytes of a DX file that stores `image` (signed or unsigned, `bits` stored) in the given transfer syntax."""
    data_set = header(**elements)
    data_set.Rows, data_set.Columns = image.shape
    data_set.BitsAllocated = 8 * image.dtype.itemsize
    data_set.BitsStored = elements.get("BitsStored", bits)
    data_set.HighBit = elements.get("HighBit", bits - 1)
    data_set.PixelRepresentation = int(image.dtype.kind == "i")
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = UID(syntax)
    if syntax in CODECS:
        data_set.PixelData = encapsulate([CODECS[syntax](image, bits)])
    else:
        big = syntax == ExplicitVRBigEndian
        data_set.PixelData = image.astype(image.dtype.newbyteorder(">" if big else "<")).tobytes()
        data_set.PixelData += b"\0" * (len(data_set.PixelData) % 2)
    data_set["PixelData"].VR = "OB" if syntax in CODECS or image.dtype.itemsize == 1 else "OW"
    return written(data_set)


def written(data_set: Dataset) -> bytes:
    """The bytes of a data set with file meta information."""
    file = BytesIO()
    syntax = data_set.file_meta.TransferSyntaxUID
    if syntax == JPEG_XL:  # pydicom does not know it yet; HTJ2K is laid out the same
        data_set.file_meta.TransferSyntaxUID = HTJ2KLossless
    data_set.file_meta.MediaStorageSOPClassUID = data_set.get("SOPClassUID", UID("1.2.3"))
    data_set.file_meta.MediaStorageSOPInstanceUID = data_set.get("SOPInstanceUID", UID("2.25.1"))
    data_set.save_as(
        file,
        enforce_file_format=True,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
    )
    return file.getvalue().replace(HTJ2KLossless.encode(), syntax.encode(), 1) if syntax == JPEG_XL else file.getvalue()


def compressed(data: bytes, syntax: str) -> bytes:
    """A DX file, its pixels compressed by pydicom."""
    data_set = dcmread(BytesIO(data))
    data_set.compress(UID(syntax), generate_instance_uid=False)
    return written(data_set)
