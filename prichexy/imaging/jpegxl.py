"""Reads JPEG XL (ISO/IEC 18181): the size of any stream, and images of the one plain kind that is published.

Decoders pass over what a file holds beside its pixels: boxes around the codestream, and in it a preview, more frames,
names, profiles, extensions, or bytes behind the end. A publication must hold none of it, so its headers are read here
bit by bit, and whatever our encoder would not write is refused.
"""

import struct
from typing import NamedTuple

import imagecodecs

from prichexy.imaging.radiograph import DecodeLimits, Radiograph, check_size, refused

SIGNATURE = b"\xff\x0a"
_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x14ftypjxl \0\0\0\0jxl " + b"\0\0\0\x09jxll\x0a"
"""What stands before the codestream's box where a pixel has more than 12 bits: the file's type (part 2), and level 10,
which decoders have to be told of (part 1, annex M)."""

_RATIOS = ((1, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_SIDES = ((1, 9), (1, 13), (1, 18), (1, 30))
_DEPTHS = ((8, 0), (10, 0), (12, 0), (1, 6))
_ENUM = ((0, 0), (1, 0), (2, 4), (18, 6))
_UPSAMPLING = ((1, 0), (2, 0), (4, 0), (8, 0))
_BLEND_MODE = ((0, 0), (1, 0), (2, 0), (3, 2))
_PASSES = ((1, 0), (2, 0), (3, 0), (4, 3))
_NAME_LENGTH = ((0, 0), (0, 4), (16, 5), (48, 10))
_SECTION_SIZE = ((0, 10), (1024, 14), (17_408, 22), (4_211_712, 30))
"""The four forms of a number, as U32 of part 1, annex B: what is added, and how many bits follow."""

_GREY, _D65, _LINEAR, _SRGB = 1, 1, 8, 13
"""Of the enumerations of colour spaces, white points and transfer functions (part 1, annex E, ColourEncoding)."""
_FROM_TWO = 2
"""Which of the forms of `_ENUM` both curves have."""


class PlainJpegXl(NamedTuple):
    """What a plain file says of its image: rows, columns, significant bits of a pixel."""

    height: int
    width: int
    bit_depth: int


class _Bits:
    """The fields of a codestream, least significant bit first (part 1, annex B)."""

    def __init__(self, data: bytes, first: int) -> None:
        self.data, self.position = data, 8 * first

    def take(self, count: int) -> int:
        first, self.position = self.position, self.position + count
        if self.position > 8 * len(self.data):
            raise refused("Truncated", "the JPEG XL stream ends within its header")
        some = self.data[first // 8 : (self.position + 7) // 8]
        return int.from_bytes(some, "little") >> first % 8 & ((1 << count) - 1)

    def number(self, forms: tuple[tuple[int, int], ...]) -> int:
        start, count = forms[self.take(2)]
        return start + self.take(count)

    def expect(self, *fields: tuple[int, int]) -> None:
        """Fields of so many bits that have to hold these values."""
        if any(self.take(count) != value for count, value in fields):
            raise refused("Corrupt", "the JPEG XL stream holds more than a grey image")

    def expect_number(self, forms: tuple[tuple[int, int], ...], value: int) -> None:
        if self.number(forms) != value:
            raise refused("Corrupt", "the JPEG XL stream holds more than a grey image")

    def to_byte(self) -> int:
        """Skip what is left of a byte, which has to be zero; at which byte this is."""
        self.expect((-self.position % 8, 0))
        return self.position // 8

    def size(self) -> tuple[int, int]:
        """Height and width (SizeHeader, part 1, annex D)."""
        small = self.take(1)
        height = self._side(small)
        ratio = self.take(3)
        if ratio == 0:
            return height, self._side(small)
        over, under = _RATIOS[ratio]
        return height, height * over // under

    def _side(self, small: int) -> int:
        return 8 * (self.take(5) + 1) if small else self.number(_SIDES)


def jpegxl_size(data: bytes) -> tuple[int, int]:
    """Height and width of any JPEG XL stream, raw or in its container.

    Args:
        data: the stream.

    Returns:
        (height, width) in pixels.

    Raises:
        Quarantined: ``Corrupt`` when there is no such header, ``Truncated`` when the data end within it.
    """
    return _Bits(data, 2 + (0 if data.startswith(SIGNATURE) else _codestream_at(data))).size()


def _codestream_at(data: bytes) -> int:
    position = 0
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        header = 8
        if length == 1 and position + 16 <= len(data):
            header, length = 16, struct.unpack_from(">Q", data, position + 8)[0]
        if kind in (b"jxlc", b"jxlp"):
            return position + header + (4 if kind == b"jxlp" else 0)
        if length < header:
            break
        position += length
    raise refused("Corrupt", "the pixel data don't begin with a JPEG XL header")


def plain_jpegxl(data: bytes, limits: DecodeLimits) -> PlainJpegXl:
    """Size and depth of a file that holds one grey image and nothing beside it.

    The headers are those of part 1, annexes D (SizeHeader, ImageMetadata), E (ColourEncoding) and F (FrameHeader, TOC);
    the sections that the table of contents lists have to end where the file ends. What stands within a section is for
    the decoder. Where sections stand in another order (effort 2 of libjxl, sides of more than 2,048 pixels), the table
    is coded like pixels, and the decoder is asked where the image ends.

    Args:
        data: the file.
        limits: sizes allowed.

    Raises:
        Quarantined: ``Truncated`` or ``Corrupt``, it holds something else, or more; ``TooSmall`` or
            ``DecompressionBomb``.
    """
    bits = _Bits(data, _begin(data))
    image = _image(bits)
    check_size(image.height, image.width, limits)
    bits.expect_number(_ENUM, _SRGB)
    bits.number(_ENUM)  # rendering intent
    bits.expect((2, 0), (1, 1))  # no extensions; no transforms of one's own
    bits.to_byte()
    bits.expect((1, 0), (2, 0), (1, 1), (2, 0), (1, 0))  # a regular modular frame, no flags, no YCbCr
    bits.expect_number(_UPSAMPLING, 1)
    group = 128 << bits.take(2)
    bits.expect_number(_PASSES, 1)
    bits.expect((1, 0))  # the whole image
    bits.expect_number(_BLEND_MODE, 0)
    bits.expect((1, 1))  # the last frame
    bits.expect_number(_NAME_LENGTH, 0)
    bits.expect((1, 0), (1, 0), (2, 0), (2, 0), (2, 0))  # no filters, no extensions
    is_permuted = bool(bits.take(1))
    if not (_misses_its_last_byte(data) if is_permuted else _ends_with_its_sections(bits, image, group)):
        raise refused("Corrupt", "the JPEG XL file does not end where its image does")
    return image


def with_display_levels(data: bytes) -> bytes:
    """A plain file whose grey levels are declared to be display values (the curve of sRGB), as PNG takes them for.

    imagecodecs says of 16-bit levels that they are linear light, and viewers would show them far too bright. Both
    curves are written in as many bits.

    Args:
        data: a file of our encoder.

    Raises:
        Quarantined: the headers are not those of a plain file with one of these curves.
    """
    bits = _Bits(data, _begin(data))
    _image(bits)
    bits.expect((2, _FROM_TWO))
    byte, shift = divmod(bits.position, 8)
    if bits.take(4) not in (_LINEAR - 2, _SRGB - 2):
        raise refused("Corrupt", "the JPEG XL stream has another curve than our encoder writes")
    two = int.from_bytes(data[byte : byte + 2], "little") & ~(15 << shift) | (_SRGB - 2) << shift
    return data[:byte] + two.to_bytes(2, "little") + data[byte + 2 :]


def _image(bits: _Bits) -> PlainJpegXl:
    """Size and depth, read up to the transfer function of the colour encoding."""
    height, width = bits.size()
    bits.expect((1, 0), (1, 0))  # not all default; no orientation, intrinsic size, preview, animation, tone mapping
    bits.expect((1, 0))  # integers
    bit_depth = bits.number(_DEPTHS)
    bits.take(1)  # whether 16-bit buffers do
    bits.expect((2, 0), (1, 0))  # no extra channel; not XYB
    bits.expect((1, 0), (1, 0))  # a colour encoding that is written out; no ICC profile
    bits.expect_number(_ENUM, _GREY)
    bits.expect_number(_ENUM, _D65)
    bits.expect((1, 0))  # no gamma, but a curve by name
    return PlainJpegXl(height, width, bit_depth)


def _begin(data: bytes) -> int:
    """Where the codestream's headers begin: behind its signature, raw or in the one container that is plain."""
    if data.startswith(SIGNATURE):
        return 2
    box = len(_CONTAINER)
    length = len(data) - box
    if not data.startswith(_CONTAINER) or data[box : box + 10] != struct.pack(">I", length) + b"jxlc" + SIGNATURE:
        raise refused("Corrupt", "the file doesn't begin as plain JPEG XL")
    return box + 10


def _ends_with_its_sections(bits: _Bits, image: PlainJpegXl, group: int) -> bool:
    bits.to_byte()
    sizes = [bits.number(_SECTION_SIZE) for _ in range(_sections(image, group, len(bits.data)))]
    return bits.to_byte() + sum(sizes) == len(bits.data)


def _misses_its_last_byte(data: bytes) -> bool:
    try:
        imagecodecs.jpegxl_decode(data[:-1], numthreads=1)
    except imagecodecs.JpegxlError:
        return True
    return False


def _sections(image: PlainJpegXl, group: int, at_most: int) -> int:
    """How many sections a frame of one pass has, whose groups have sides of so many pixels (part 1, annex F)."""
    groups = -(-image.height // group) * -(-image.width // group)
    if groups == 1:
        return 1
    if groups > at_most:  # each section's size takes more than a byte
        raise refused("Truncated", "the JPEG XL stream ends within its header")
    return 2 + groups + -(-image.height // (8 * group)) * -(-image.width // (8 * group))


def decode_plain_jpegxl(data: bytes, limits: DecodeLimits) -> Radiograph:
    """The radiograph in a plain JPEG XL file.

    Args:
        data: the file.
        limits: sizes allowed.

    Raises:
        Quarantined: ``Truncated``, ``Corrupt``, ``TooSmall`` or ``DecompressionBomb``.
    """
    header = plain_jpegxl(data, limits)
    try:
        # Levels as they are in the codestream: other readers scale them to the full range of 16 bits.
        pixels = imagecodecs.jpegxl_decode(data, numthreads=1)
    except imagecodecs.JpegxlError:
        raise refused("Corrupt", "the JPEG XL stream can't be decoded") from None
    depth = header.bit_depth
    if pixels.shape != (header.height, header.width) or pixels.dtype.itemsize != (1 if depth == 8 else 2):
        raise refused("Corrupt", "the decoded JPEG XL doesn't have the size that its header announces")
    return Radiograph(pixels, depth, None, None, "jpeg-xl")
