"""Encodes grey levels as lossless PNG that any viewer shows right."""

import struct
import zlib

import imagecodecs
import numpy as np

from prichexy.imaging.radiograph import Pixels

_IHDR_END = 8 + 25
_LEVEL = 1
_HUFFMAN_ONLY = 2
_FILTER_UP, _FILTER_AVERAGE = 0x20, 0x40


def encode_png(pixels: Pixels, bit_depth: int) -> bytes:
    """A PNG file of the pixels, the same bytes for the same pixels, without text or time.

    Depth 8 becomes 8-bit grey. Depths 9 to 16 become 16-bit grey, scaled to the full range by left bit replication,
    with an sBIT chunk that names the depth (W3C PNG sections 12.4 and 11.3.2.7): a viewer shows the right brightness,
    and a shift to the right gives the pixels back.

    Huffman coding without string search was the best trade on real 1024 x 1024 radiographs. 8 bits, average filter:
    8 to 10 ms and 307 KB, against 10 to 14 ms and 310 KB with run lengths, 20 ms and 400 KB at level 1 as it comes,
    130 ms and 357 KB at level 6. 12 bits, up filter: 20 ms and 1,114 KB, against 22 ms and 1,243 KB with the average
    filter, 58 ms and 1,248 KB at level 1 as it comes.

    Args:
        pixels: (H, W), np.uint8 for depth 8, else np.uint16 holding 0 .. 2**bit_depth - 1.
        bit_depth: 8 to 16.

    Returns:
        The file's bytes.

    Raises:
        ValueError: the pixels don't have the dtype or range of the depth.
    """
    if not 8 <= bit_depth <= 16 or pixels.ndim != 2 or pixels.dtype != (np.uint8 if bit_depth == 8 else np.uint16):
        raise ValueError(f"expected (H, W) of uint8 at depth 8 or uint16 at depths 9 to 16, not depth {bit_depth}")
    if bit_depth in (8, 16):
        return _png(pixels)
    if pixels.size and int(pixels.max()) >> bit_depth:
        raise ValueError(f"a pixel is above {2**bit_depth - 1}")
    file = _png((pixels << (16 - bit_depth)) | (pixels >> (2 * bit_depth - 16)))
    body = b"sBIT" + bytes([bit_depth])
    chunk = struct.pack(">I", 1) + body + struct.pack(">I", zlib.crc32(body))
    return file[:_IHDR_END] + chunk + file[_IHDR_END:]


def _png(pixels: Pixels) -> bytes:
    line_filter = _FILTER_AVERAGE if pixels.dtype == np.uint8 else _FILTER_UP
    contiguous = np.ascontiguousarray(pixels)
    return bytes(imagecodecs.png_encode(contiguous, level=_LEVEL, strategy=_HUFFMAN_ONLY, filter=line_filter))
