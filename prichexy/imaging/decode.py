"""Bytes to radiograph, or the reason why not: the one door by which files of unknown origin come in."""

from collections.abc import Callable

from prichexy.errors import Quarantined
from prichexy.imaging.dicom import decode_dicom
from prichexy.imaging.formats import DISPLAY_NAMES, sniff
from prichexy.imaging.jpeg import decode_jpeg
from prichexy.imaging.jpegxl import decode_plain_jpegxl
from prichexy.imaging.png import decode_png
from prichexy.imaging.radiograph import DecodeLimits, Radiograph, refused
from prichexy.imaging.silence import quiet

_DECODERS = {"png": decode_png, "jpeg": decode_jpeg, "dicom": decode_dicom}
_NO_LIMITS_GIVEN = DecodeLimits()
_PUBLISHED = DecodeLimits(min_side=1)
"""A job's own limits may have let smaller images through."""


def decode(data: bytes, limits: DecodeLimits = _NO_LIMITS_GIVEN) -> Radiograph:
    """The radiograph that a file holds.

    The same bytes always give the same result. Safe to call from several threads. No text of a library, which may
    quote header values, leaves it: neither as exception nor as warning nor as log record.

    Args:
        data: the file: PNG, JPEG or DICOM, whatever its name.
        limits: sizes allowed.

    Returns:
        The radiograph.

    Raises:
        Quarantined: stage ``decode``, and nothing else, whatever the bytes. Reasons: ``Empty``, ``NotAnImage``,
            ``TooLarge``, ``Truncated``, ``Corrupt``, ``UnsupportedFormat``, ``UnsupportedTransferSyntax``,
            ``UnsupportedPixels``, ``NoPixelData``, ``NotAChestRadiograph``, ``MultiFrame``, ``ColourPhotograph``,
            ``TooSmall``, ``DecompressionBomb``.
    """
    return _guarded(_decode, data, limits)


def decode_published(data: bytes, limits: DecodeLimits = _PUBLISHED) -> Radiograph:
    """The radiograph in a published image: PNG, or JPEG XL of the plain kind that our encoder writes.

    Arguments and errors are those of `decode`.
    """
    return _guarded(_decode_published, data, limits)


def _guarded(decoded: Callable[[bytes, DecodeLimits], Radiograph], data: bytes, limits: DecodeLimits) -> Radiograph:
    try:
        with quiet():
            return decoded(data, limits)
    except Quarantined as error:
        refusal = refused(error.reason, error.message)
    except MemoryError:
        refusal = refused("DecompressionBomb", "decoding the file needs more memory than there is")
    except Exception:
        refusal = refused("Corrupt", "the file is damaged: it can't be decoded")
    raise refusal  # out here, and made anew, it carries no context that quotes the file


def _decode(data: bytes, limits: DecodeLimits) -> Radiograph:
    if len(data) > limits.max_bytes:
        raise refused("TooLarge", f"the file has {len(data):,} bytes; {limits.max_bytes:,} are allowed")
    kind = sniff(data)
    if kind in _DECODERS:
        return _DECODERS[kind](data, limits)
    if kind == "empty":
        raise refused("Empty", "the file has no bytes")
    if kind in DISPLAY_NAMES:
        raise refused("UnsupportedFormat", f"the file is {DISPLAY_NAMES[kind]}; PNG, JPEG and DICOM are read")
    raise refused("NotAnImage", "the file is text" if kind == "text" else "the file is no image that is known")


def _decode_published(data: bytes, limits: DecodeLimits) -> Radiograph:
    decoders = {"png": decode_png, "jpegxl": decode_plain_jpegxl}
    kind = sniff(data)
    if kind not in decoders:
        raise refused("UnsupportedFormat", "the image is neither PNG nor JPEG XL")
    return decoders[kind](data, limits)
