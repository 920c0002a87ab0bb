"""Decodes PNG (W3C Portable Network Graphics, third edition) of every colour type and bit depth."""

import struct
import zlib
from collections.abc import Iterator

import imagecodecs

from prichexy.imaging.greyscale import to_grey
from prichexy.imaging.radiograph import DecodeLimits, Radiograph, check_size, refused

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_NEEDED = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bit depths allowed for each colour type (section 11.2.1, table 12)."""


def decode_png(data: bytes, limits: DecodeLimits) -> Radiograph:
    """The radiograph in a PNG file.

    The chunks are walked and their checksums verified here; the decoder sees only those that make pixels, so neither a
    compressed profile nor a text chunk can swell or speak. Gamma is not applied: radiographs are stored as display
    values.

    Args:
        data: the file.
        limits: sizes allowed.

    Returns:
        Depth 8 for files of up to 8 bits, 16 for 16-bit files, or 9 to 15 where sBIT says so (section 11.3.2.7).

    Raises:
        Quarantined: ``Truncated``, ``Corrupt``, ``TooSmall``, ``DecompressionBomb``, ``MultiFrame``,
            ``ColourPhotograph``.
    """
    parts, significant = [SIGNATURE], b""
    header: tuple[int, ...] | None = None
    for kind, payload, whole in _chunks(data):
        if header is None:
            header = _header(kind, payload, limits)
        if kind == b"acTL":
            raise refused("MultiFrame", "the PNG is animated; one image a file is expected")
        if kind == b"sBIT":
            significant = payload
        if kind in _NEEDED:
            parts.append(whole)
    assert header is not None  # a file without chunks was refused while walking
    pixels = to_grey(imagecodecs.png_decode(b"".join(parts)))
    if pixels.shape != (header[1], header[0]):
        raise refused("Corrupt", "the decoded PNG doesn't have the size that its header announces")
    if pixels.dtype.itemsize == 1:
        return Radiograph(pixels, 8, None, None, "png")
    depth = significant[0] if significant and len(set(significant)) == 1 and 9 <= significant[0] <= 15 else 16
    return Radiograph(pixels >> (16 - depth), depth, None, None, "png")


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """(type, payload, whole chunk) up to and with IEND; what follows it is ignored, as decoders do."""
    position, kind = len(SIGNATURE), b""
    while kind != b"IEND":
        if position + 12 > len(data):
            raise refused("Truncated", "the PNG ends before its last chunk")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            # A wrong length in a whole file reaches beyond the end as well; only a sane type makes it a cut.
            reason = "Truncated" if kind.isalpha() else "Corrupt"
            raise refused(reason, "a chunk of the PNG reaches beyond the end of the file")
        whole = data[position:end]
        if zlib.crc32(whole[4:-4]) != int.from_bytes(whole[-4:], "big"):
            raise refused("Corrupt", "a chunk of the PNG doesn't match its checksum")
        yield kind, whole[8:-4], whole
        position = end


def _header(kind: bytes, payload: bytes, limits: DecodeLimits) -> tuple[int, ...]:
    if kind != b"IHDR" or len(payload) != 13:
        raise refused("Corrupt", "the PNG doesn't begin with its header")
    width, height, depth, colour, *methods = struct.unpack(">IIBBBBB", payload)
    if depth not in _DEPTHS.get(colour, ()) or methods[:2] != [0, 0] or methods[2] > 1:
        raise refused("Corrupt", "the PNG header names a bit depth, colour type or method that PNG doesn't have")
    check_size(height, width, limits)
    return width, height, depth, colour
