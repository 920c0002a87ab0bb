"""Decodes DICOM pixel data to stored values, whatever the transfer syntax."""

from collections.abc import Callable
from dataclasses import dataclass

import imagecodecs
import numpy as np
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from prichexy.errors import Quarantined
from prichexy.imaging.codestreams import Frame, jpeg2000_frame, jpeg_frame
from prichexy.imaging.jpeg import jpeg_samples
from prichexy.imaging.jpegxl import jpegxl_size
from prichexy.imaging.radiograph import Pixels, refused

JPEGXL = tuple(UID(f"1.2.840.10008.1.2.4.11{last}") for last in "012")
"""JPEG XL Lossless, JPEG XL JPEG Recompression, JPEG XL (PS3.5 A.4.15, Supplement 232)."""

NATIVE = frozenset(
    {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
)
_JPEG = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1})
_JPEG_LS = frozenset({JPEGLSLossless, JPEGLSNearLossless})
_JPEG_2000 = frozenset({JPEG2000Lossless, JPEG2000})
_HTJ2K = frozenset({HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K})
SUPPORTED = NATIVE | _JPEG | _JPEG_LS | _JPEG_2000 | _HTJ2K | {RLELossless, *JPEGXL}


@dataclass(frozen=True, slots=True)
class Layout:
    """The Image Pixel module of a single-frame grey image (PS3.3 C.7.6.3).

    Attributes:
        rows: height in pixels.
        columns: width in pixels.
        allocated: bits a stored sample takes, 8 or 16.
        stored: bits of it that are the pixel's.
        high_bit: position of the highest of them.
        signed: whether they are two's complement.
        syntax: the transfer syntax.
    """

    rows: int
    columns: int
    allocated: int
    stored: int
    high_bit: int
    signed: bool
    syntax: UID


def stored_codes(data_set: Dataset, layout: Layout) -> Pixels:
    """The stored bits of each pixel, as an unsigned code; what lies beside them (overlays, sign) is masked out.

    Args:
        data_set: holds PixelData.
        layout: how to read it; its transfer syntax is one of `SUPPORTED`.

    Returns:
        (rows, columns), np.uint8 or np.uint16, 0 .. 2**stored - 1; signed pixels in two's complement of `stored` bits.

    Raises:
        Quarantined: ``Truncated`` or ``Corrupt``.
    """
    if layout.syntax in NATIVE:
        samples, precision = _native(data_set, layout), layout.allocated
    else:
        samples, precision = _encapsulated(data_set, layout)
    if samples.shape != (layout.rows, layout.columns) or samples.dtype.kind not in "iu" or samples.dtype.itemsize > 2:
        raise refused("Corrupt", "the decoded pixel data don't have the size that the header announces")
    codes = samples.view(f"u{samples.dtype.itemsize}")
    shift = layout.high_bit + 1 - layout.stored
    if shift and precision > layout.high_bit:
        codes = codes >> shift
    if layout.stored < 8 * codes.dtype.itemsize:
        codes = codes & codes.dtype.type(2**layout.stored - 1)
    return codes


def _native(data_set: Dataset, layout: Layout) -> Pixels:
    """Uncompressed samples (PS3.5 8.1.1, A.1 to A.3, A.5)."""
    element = data_set["PixelData"]
    count, size = layout.rows * layout.columns, layout.allocated // 8
    data: bytes = element.value
    if len(data) < count * size:
        raise refused("Truncated", f"the pixel data have {len(data):,} bytes of {count * size:,}")
    if layout.syntax != ExplicitVRBigEndian:
        return np.frombuffer(data, f"<u{size}", count).reshape(layout.rows, layout.columns)
    if size == 2:
        return np.frombuffer(data, ">u2", count).astype(np.uint16).reshape(layout.rows, layout.columns)
    # 8-bit samples in 16-bit words: the words were swapped, and with them each pair of samples (PS3.5 D.2)
    words = element.VR == "OW" and len(data) % 2 == 0
    samples = np.frombuffer(data, "<u2").byteswap().view(np.uint8) if words else np.frombuffer(data, np.uint8)
    return samples[:count].reshape(layout.rows, layout.columns)


def _encapsulated(data_set: Dataset, layout: Layout) -> tuple[Pixels, int]:
    """Compressed samples and their precision in bits (PS3.5 A.4): the fastest right decoder first, then the next."""
    stream = next(generate_frames(data_set.PixelData, number_of_frames=1), b"")
    if not stream:
        raise refused("Truncated", "the pixel data hold no frame")
    frame, decoders = _decoders(data_set, layout, stream)
    if frame is not None:
        _check_frame(frame, layout)
    for decoder in decoders:
        try:
            return decoder(), frame.precision if frame else layout.allocated
        except Quarantined:
            raise
        except Exception:
            continue
    raise refused("Corrupt", "the pixel data can't be decompressed")


def _decoders(data_set: Dataset, layout: Layout, stream: bytes) -> tuple[Frame | None, list[Callable[[], Pixels]]]:
    """The stream's own header, where it has one to speak of, and its decoders by speed.

    Measured on 2500 x 3000 pixels of 12 bits: JPEG lossless and JPEG-LS are 1.7 to 3.5 times faster by imagecodecs,
    JPEG 2000 by pydicom with pylibjpeg. Where two are named they agree to the last bit.

    Two decoders are never asked, since one damaged file must not take a worker down. GDCM ends the process on some
    damaged JPEG streams (a C++ exception that nobody catches). imagecodecs' HTJ2K decoder, though faster, loses errors
    and ran without end on a damaged stream.
    """
    syntax = layout.syntax
    if syntax in _JPEG:
        frame = jpeg_frame(stream)
        return frame, [lambda: jpeg_samples(stream, frame)]
    if syntax in _JPEG_LS:
        charls = lambda: imagecodecs.jpegls_decode(stream)  # noqa: E731
        return jpeg_frame(stream), [charls, lambda: _by_pydicom(data_set, layout, "pyjpegls")]
    if syntax in _JPEG_2000:
        openjpeg = lambda: imagecodecs.jpeg2k_decode(stream)  # noqa: E731
        return jpeg2000_frame(stream), [lambda: _by_pydicom(data_set, layout, "pylibjpeg"), openjpeg]
    if syntax in _HTJ2K:
        return jpeg2000_frame(stream), [lambda: _by_pydicom(data_set, layout, "pylibjpeg")]
    if syntax in JPEGXL:
        height, width = jpegxl_size(stream)
        frame = Frame(height, width, layout.stored, 1, 0, complete=True)  # its decoder notices missing data
        return frame, [lambda: imagecodecs.jpegxl_decode(stream)]
    return None, [lambda: _by_pydicom(data_set, layout, "pydicom")]


def _check_frame(frame: Frame, layout: Layout) -> None:
    if (frame.height, frame.width) != (layout.rows, layout.columns):
        raise refused("Corrupt", "the compressed image doesn't have the size that the header announces")
    if frame.components != 1:
        raise refused(
            "Corrupt", f"the compressed image has {frame.components} components where the header announces one"
        )
    if frame.precision > layout.allocated:
        raise refused(
            "Corrupt", f"the compressed image has {frame.precision} bits in {layout.allocated} allocated ones"
        )
    if not frame.complete:
        raise refused("Truncated", "the compressed image ends before its end marker")


def _by_pydicom(data_set: Dataset, layout: Layout, plugin: str) -> Pixels:
    decoder = get_decoder(layout.syntax)
    samples, _ = decoder.as_array(data_set, raw=True, decoding_plugin=plugin)
    return samples
