"""Bytes to radiograph, or the reason why not: the one door by which files of unknown origin come in."""

from prichexy.errors import Quarantined
from prichexy.imaging.dicom import decode_dicom
from prichexy.imaging.formats import DISPLAY_NAMES, sniff
from prichexy.imaging.jpeg import decode_jpeg
from prichexy.imaging.png import decode_png
from prichexy.imaging.radiograph import DecodeLimits, Radiograph, refused
from prichexy.imaging.silence import quiet

_DECODERS = {"png": decode_png, "jpeg": decode_jpeg, "dicom": decode_dicom}
_NO_LIMITS_GIVEN = DecodeLimits()


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
    try:
        with quiet():
            return _decode(data, limits)
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
