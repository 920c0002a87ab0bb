"""Reads the headers of compressed images, so that sizes are known before a decoder allocates anything."""

import re
import struct
from dataclasses import dataclass

from prichexy.imaging.radiograph import refused

_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
JPEG_LOSSLESS = 0xC3
JPEG_LS = 0xF7
EOI = 0xD9
SOS = 0xDA
APP1 = 0xE1


@dataclass(frozen=True, slots=True)
class Frame:
    """What a codestream says of itself.

    Attributes:
        height: rows.
        width: columns.
        precision: bits a sample.
        components: samples a pixel.
        process: the JPEG frame marker's second byte (0xC0 baseline, 0xC3 lossless, 0xF7 JPEG-LS), 0 for JPEG 2000.
        complete: whether the end marker is there.
        exif: the payload of the Exif APP1 segment from its TIFF header on, or b"".
    """

    height: int
    width: int
    precision: int
    components: int
    process: int
    complete: bool
    exif: bytes = b""


def jpeg_frame(data: bytes) -> Frame:
    """Header of a JPEG or JPEG-LS stream (ITU-T T.81 annex B, T.87 annex C).

    Args:
        data: the stream, from SOI on.

    Returns:
        Its frame; `complete` is False when no EOI follows the last scan.

    Raises:
        Quarantined: ``Truncated`` when the data end before the frame header, ``Corrupt`` when the segments don't chain.
    """
    frame: tuple[int, int, int, int, int] | None = None
    exif, position = b"", 2
    while position + 2 <= len(data):
        if data[position] != 0xFF:
            raise refused("Corrupt", "the JPEG segments are not in order")
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker == EOI:
            if frame is None:
                raise refused("Corrupt", "the JPEG stream holds no image")
            return Frame(*frame, complete=True, exif=exif)
        elif marker in _STANDALONE:
            position += 2
        else:
            segment = data[position + 4 : position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")]
            if marker in _FRAME_MARKERS and frame is None:
                if len(segment) < 6:
                    raise refused("Truncated", "the JPEG stream ends within its header")
                precision, height, width, components = struct.unpack_from(">BHHB", segment)
                frame = (height, width, precision, components, marker)
            elif marker == APP1 and segment.startswith(b"Exif\0\0") and not exif:
                exif = segment[6:]
            position += 4 + len(segment)
            if marker == SOS:
                position = _end_of_scan(data, position, frame)
    if frame is None:
        raise refused("Truncated", "the JPEG stream ends within its header")
    return Frame(*frame, complete=False, exif=exif)


def _end_of_scan(data: bytes, position: int, frame: tuple[int, int, int, int, int] | None) -> int:
    if frame is None:
        raise refused("Corrupt", "the JPEG stream has a scan before its frame header")
    if frame[4] == JPEG_LS:  # bits are stuffed differently there, and its decoder notices missing data
        end = data.rfind(b"\xff\xd9", position)
        return len(data) if end < 0 else end
    found = _MARKER_AFTER_SCAN.search(data, position)
    return found.start() if found else len(data)


def jpeg2000_frame(data: bytes) -> Frame:
    """Header of a JPEG 2000 or HTJ2K stream, raw or in a JP2 box (ITU-T T.800 A.5.1, SIZ marker).

    Args:
        data: the stream.

    Returns:
        Its frame, in pixels of the reference grid; `complete` is False when EOC is not the last marker.

    Raises:
        Quarantined: ``Truncated`` or ``Corrupt`` when there is no whole SIZ segment.
    """
    start = data[:4096].find(b"\xff\x4f\xff\x51")
    if start < 0:
        raise refused("Corrupt", "the pixel data don't begin with a JPEG 2000 header")
    if len(data) < start + 43:
        raise refused("Truncated", "the JPEG 2000 stream ends within its header")
    right, bottom, left, top = struct.unpack_from(">IIII", data, start + 8)
    components, depth = struct.unpack_from(">HB", data, start + 40)
    if right <= left or bottom <= top:
        raise refused("Corrupt", "the JPEG 2000 header announces no pixels")
    complete = data[-64:].rstrip(b"\0\xff").endswith(b"\xff\xd9")  # either pads to an even length
    return Frame(bottom - top, right - left, (depth & 0x7F) + 1, components, 0, complete)
