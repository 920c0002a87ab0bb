"""What the bytes of a published image may be: pixels of the stated size and depth, and nothing beside them."""

import struct
import zlib
from typing import Any

from prichexy.errors import Quarantined
from prichexy.imaging import ENCODINGS, DecodeLimits, decode_published

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHUNKS = {b"IHDR", b"sBIT", b"IDAT", b"IEND"}
"""What our encoder writes; any other chunk (text, time, EXIF, colour profile) could carry an identifier."""


def image_is_sound(row: dict[str, Any], encoding: str) -> bool:
    """Whether an image decodes to the stated size and depth, holds nothing but pixels, and has a neutral name.

    Args:
        row: of a data shard; `image_id`, `image`, `width`, `height` and `bit_depth` are looked at.
        encoding: of the job; an image of another is not sound.
    """
    is_sound = {"png": _png_is_sound, "jpeg-xl": _jpegxl_is_sound}.get(encoding)
    if is_sound is None:
        return False
    try:
        return row["image"]["path"] == f"{row['image_id']}{ENCODINGS[encoding].suffix}" and is_sound(
            row["image"]["bytes"], row["width"], row["height"], row["bit_depth"]
        )
    except (AttributeError, TypeError, KeyError, struct.error, zlib.error, Quarantined):
        return False


def _png_is_sound(png: bytes, width: int, height: int, bit_depth: int) -> bool:
    """Chunks and checksums are walked here, since decoders pass over what they don't know."""
    if not png.startswith(PNG_SIGNATURE):
        return False
    position, kind, compressed, header = len(PNG_SIGNATURE), b"", [], None
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", png, position)
        body = png[position + 8 : position + 8 + length]
        (stored,) = struct.unpack_from(">I", png, position + 8 + length)
        if kind not in PNG_CHUNKS or zlib.crc32(kind + body) != stored:
            return False
        if kind == b"IHDR":
            header = struct.unpack(">IIBBBBB", body)
        elif kind == b"IDAT":
            compressed.append(body)
        position += 12 + length
    depth = 8 if bit_depth == 8 else 16
    size = height * (1 + width * depth // 8)
    inflate = zlib.decompressobj()
    pixels = inflate.decompress(b"".join(compressed), size + 1)
    sound = len(pixels) == size and inflate.eof and not inflate.unused_data
    return sound and position == len(png) and header == (width, height, depth, 0, 0, 0, 0)


def _jpegxl_is_sound(jxl: bytes, width: int, height: int, bit_depth: int) -> bool:
    """The format has no checksums: that the pixels are those that were written, only the shard's hash proves."""
    radiograph = decode_published(jxl, DecodeLimits(min_side=1, max_pixels=height * width))
    sound = radiograph.pixels.shape == (height, width) and radiograph.bit_depth == bit_depth
    return sound and radiograph.source_format == "jpeg-xl"
