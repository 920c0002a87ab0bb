"""Encodes grey levels, losslessly, so that any viewer shows them right: as PNG, or as JPEG XL."""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import imagecodecs
import numpy as np

from prichexy.imaging.jpegxl import with_display_levels
from prichexy.imaging.radiograph import Pixels

_IHDR_END = 8 + 25
_LEVEL = 1
_HUFFMAN_ONLY = 2
_FILTER_UP, _FILTER_AVERAGE = 0x20, 0x40
_FAST_DEPTH = 14


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
    _check(pixels, bit_depth)
    if bit_depth in (8, 16):
        return _png(pixels)
    file = _png((pixels << (16 - bit_depth)) | (pixels >> (2 * bit_depth - 16)))
    body = b"sBIT" + bytes([bit_depth])
    chunk = struct.pack(">I", 1) + body + struct.pack(">I", zlib.crc32(body))
    return file[:_IHDR_END] + chunk + file[_IHDR_END:]


def encode_jpegxl(pixels: Pixels, bit_depth: int) -> bytes:
    """A JPEG XL file of the pixels, with nothing beside them.

    The codestream carries the depth: imagecodecs gives the levels back as they are, other readers scaled to the full
    range of 16 bits, where a shift to the right gives them back as with `encode_png`. Above 12 bits the codestream
    stands in the standard's container, which names the level that decoders need; else it stands alone.

    The same pixels give the same bytes on processors of one kind. At effort 1, libjxl makes other files, of the same
    pixels, of images of some sizes where it finds other vector instructions (AVX-512 or none); at effort 2 it did not.

    Effort 1 was the best trade on three real 1024 x 1024 radiographs (2026-11-28, libjxl 0.11.2, one thread of a Xeon).
    8 bits: 4 ms and 342 KB, against 26 ms and 298 KB at effort 2, 59 ms and 283 KB at effort 3, 10 ms and 315 KB by
    `encode_png`. The same, smoothed to 12 bits with a detector's noise: 3 ms and 744 KB, against 42 ms and 727 KB,
    71 ms and 693 KB, 21 ms and 1,053 KB by `encode_png`. Decoding takes 11 to 16 ms at effort 1, 35 to 46 at effort 3.

    15 and 16 bits are left to effort 2 (16 bits: 31 ms and 1,287 KB, 23 ms and 1,553 KB by `encode_png`): effort 1
    writes behind its buffer when such an image is mostly noise, and takes the process down. Of up to 14 bits, 17,900
    images of noise, edges and constants came back as they were, with the heap under watch.

    Arguments and errors are those of `encode_png`.
    """
    _check(pixels, bit_depth)
    file = imagecodecs.jpegxl_encode(
        np.ascontiguousarray(pixels),
        lossless=True,
        effort=1 if bit_depth <= _FAST_DEPTH else 2,
        bitspersample=bit_depth,
        usecontainer=False,
        numthreads=1,
    )
    return with_display_levels(bytes(file))


@dataclass(frozen=True)
class Encoding:
    """How published images are encoded.

    Attributes:
        title: as a person calls the format.
        suffix: of the images' names.
        media_type: for metadata.
        encode: pixels and bit depth to a file's bytes.
    """

    title: str
    suffix: str
    media_type: str
    encode: Callable[[Pixels, int], bytes]


ENCODINGS = {
    "png": Encoding("PNG", ".png", "image/png", encode_png),
    "jpeg-xl": Encoding("JPEG XL", ".jxl", "image/jxl", encode_jpegxl),
}
"""Those that may be chosen, by the setting's values."""


def _check(pixels: Pixels, bit_depth: int) -> None:
    if not 8 <= bit_depth <= 16 or pixels.ndim != 2 or pixels.dtype != (np.uint8 if bit_depth == 8 else np.uint16):
        raise ValueError(f"expected (H, W) of uint8 at depth 8 or uint16 at depths 9 to 16, not depth {bit_depth}")
    if 8 < bit_depth < 16 and pixels.size and int(pixels.max()) >> bit_depth:
        raise ValueError(f"a pixel is above {2**bit_depth - 1}")


def _png(pixels: Pixels) -> bytes:
    line_filter = _FILTER_AVERAGE if pixels.dtype == np.uint8 else _FILTER_UP
    contiguous = np.ascontiguousarray(pixels)
    return bytes(imagecodecs.png_encode(contiguous, level=_LEVEL, strategy=_HUFFMAN_ONLY, filter=line_filter))
