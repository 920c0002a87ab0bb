"""What a decoded radiograph is, and the limits that its file has to keep."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prichexy.errors import Quarantined

Pixels = NDArray[Any]
"""(H, W) grey levels: np.uint8 at depth 8, np.uint16 holding 0 .. 2**depth - 1 at depths 9 to 16."""


@dataclass(frozen=True, slots=True, eq=False)
class Radiograph:
    """A radiograph as a radiologist sees it: black is 0, white is 2**bit_depth - 1.

    Attributes:
        pixels: (H, W), np.uint8 when `bit_depth` is 8, else np.uint16 holding 0 .. 2**bit_depth - 1.
        bit_depth: 8 to 16.
        view: DICOM View Position if it is one of the defined terms of PS3.3 C.8.1.1 (AP, PA, LL, ...), else None.
        laterality: "L", "R", "B" or "U" (PS3.3 C.8.11.2, C.7.3.1), else None.
        source_format: "png", "jpeg" or "dicom"; "jpeg-xl" for a published image.
        patient_key: (Issuer of Patient ID, Patient ID) as the file has them, None without a Patient ID. An identifier:
            it is left out of `repr`, and must be turned into a pseudonym before it goes anywhere.
        declares_text: whether the file says that its pixels hold identifying text (Burned In Annotation YES).
    """

    pixels: Pixels = field(repr=False)
    bit_depth: int
    view: str | None
    laterality: str | None
    source_format: str
    patient_key: tuple[str, str] | None = field(default=None, repr=False)
    declares_text: bool = False


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What a file may ask of the machine that decodes it.

    Attributes:
        min_side: shortest side of an image, in pixels; smaller ones are thumbnails.
        max_pixels: height x width; checked against the header before any pixel is decoded.
        max_bytes: bytes of one file, also after a deflated data set was inflated.
        accept_declared_text: also decode files that say that their pixels hold identifying text (Burned In Annotation
            YES, PS3.3 C.7.6.1); for callers that cover it.
    """

    min_side: int = 64
    max_pixels: int = 100_000_000
    max_bytes: int = 1 << 30
    accept_declared_text: bool = False


def refused(reason: str, message: str) -> Quarantined:
    """The exception that sends an image to quarantine from the decode stage.

    Args:
        reason: CamelCase class.
        message: a fixed sentence of ours; at most sizes, bits and names of the standard are filled in.
    """
    return Quarantined("decode", reason, message)


def check_size(height: int, width: int, limits: DecodeLimits) -> None:
    """Refuse a size read from a header, before anything is allocated for it.

    Args:
        height: rows, in pixels.
        width: columns, in pixels.
        limits: what is allowed.

    Raises:
        Quarantined: ``TooSmall`` or ``DecompressionBomb``.
    """
    if height * width > limits.max_pixels:
        raise refused(
            "DecompressionBomb",
            f"the header announces {width} x {height} pixels; {limits.max_pixels:,} in all are allowed",
        )
    if min(height, width) < limits.min_side:
        raise refused(
            "TooSmall", f"the image has {width} x {height} pixels; each side needs at least {limits.min_side}"
        )


def expand_bits(levels: Pixels, bits: int) -> Pixels:
    """Grey levels of 1 to 7 bits as 8 bits: 0 stays black and the highest level becomes 255.

    Args:
        levels: (H, W) integers 0 .. 2**bits - 1.
        bits: 1 to 7.

    Returns:
        (H, W) np.uint8, round(level * 255 / (2**bits - 1)).
    """
    table = np.rint(np.arange(2**bits) * (255 / (2**bits - 1))).astype(np.uint8)
    return np.take(table, levels)
