"""Decodes JPEG (ITU-T T.81): baseline, extended 8 and 12 bit, progressive, lossless; grey or YCbCr."""

from io import BytesIO

import imagecodecs
import numpy as np
from PIL import Image

from prichexy.imaging.codestreams import JPEG_LOSSLESS, JPEG_LS, Frame, jpeg_frame
from prichexy.imaging.greyscale import to_grey
from prichexy.imaging.radiograph import DecodeLimits, Pixels, Radiograph, check_size, expand_bits, refused

_ORIENTATION_TAG = 0x0112
_UNSEEN = {0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF}
"""Frame markers of the hierarchical and the arithmetic lossless processes; no decoder here reads them."""


def decode_jpeg(data: bytes, limits: DecodeLimits) -> Radiograph:
    """The radiograph in a JPEG file, turned upright as its Exif orientation says.

    Args:
        data: the file.
        limits: sizes allowed.

    Returns:
        Depth 8 for up to 8 bits, else the stream's precision (12; 9 to 16 for the lossless process).

    Raises:
        Quarantined: ``Truncated``, ``Corrupt``, ``TooSmall``, ``DecompressionBomb``, ``ColourPhotograph``,
            ``UnsupportedFormat``.
    """
    frame = jpeg_frame(data)
    if frame.process == JPEG_LS:
        raise refused("UnsupportedFormat", "the file is JPEG-LS; PNG, JPEG and DICOM are read")
    if frame.process in _UNSEEN:
        raise refused("UnsupportedFormat", "the JPEG uses a hierarchical or arithmetic lossless process")
    if frame.components == 4:
        raise refused("ColourPhotograph", "the JPEG has four colour components; a radiograph is grey")
    if frame.components not in (1, 3):
        raise refused("Corrupt", f"the JPEG has {frame.components} components")
    check_size(frame.height, frame.width, limits)
    if not frame.complete:
        raise refused("Truncated", "the JPEG ends before its end marker")
    pixels = _upright(to_grey(jpeg_samples(data, frame)), frame.exif)
    if frame.precision < 8:
        return Radiograph(expand_bits(pixels, frame.precision), 8, None, None, "jpeg")
    return Radiograph(pixels, frame.precision, None, None, "jpeg")


def jpeg_samples(data: bytes, frame: Frame) -> Pixels:
    """Samples of a complete JPEG stream.

    A decoder fills blocks that are missing with mid-grey and only murmurs about it. A stream whose last block is
    exactly mid-grey is therefore taken as cut off, even though an end marker was put behind the cut.

    Args:
        data: the stream.
        frame: its header.

    Returns:
        (H, W) grey or (H, W, 3) RGB, np.uint8 up to 8 bits of precision, else np.uint16.

    Raises:
        Quarantined: ``Truncated`` or ``Corrupt``.
    """
    samples: Pixels = imagecodecs.jpeg8_decode(data)
    if samples.shape[:2] != (frame.height, frame.width):
        raise refused("Corrupt", "the decoded JPEG doesn't have the size that its header announces")
    if frame.process != JPEG_LOSSLESS:
        last_block = samples[(frame.height - 1) // 8 * 8 :, (frame.width - 1) // 8 * 8 :]
        if (last_block == 1 << (frame.precision - 1)).all():
            raise refused("Truncated", "the JPEG's last blocks are missing")
    return samples


def _upright(pixels: Pixels, exif: bytes) -> Pixels:
    """Applies Exif tag 274; an unreadable Exif block is taken as 1, upright."""
    turned = {
        2: lambda: pixels[:, ::-1],
        3: lambda: pixels[::-1, ::-1],
        4: lambda: pixels[::-1],
        5: lambda: pixels.T,
        6: lambda: pixels.T[:, ::-1],
        7: lambda: pixels[::-1, ::-1].T,
        8: lambda: pixels.T[::-1],
    }.get(_orientation(exif))
    return np.ascontiguousarray(turned()) if turned else pixels


def _orientation(exif: bytes) -> int:
    if not exif:
        return 1
    try:
        tags = Image.Exif()
        tags.load_from_fp(BytesIO(exif))
        return int(tags.get(_ORIENTATION_TAG, 1))
    except Exception:
        return 1
