"""The way from stored values to what a radiologist sees (PS3.3 C.11.1, C.11.2; PS3.4 N.2), as one lookup table.

A pixel of up to 16 bits has at most 65,536 stored values, so the whole pipeline is computed once a value, in float64,
and a picture of any size takes one table lookup.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from prichexy.imaging.radiograph import Pixels, refused

Values = NDArray[np.float64]

_ROWS_AT_ONCE = 64
"""Rows looked up at a time: NumPy widens indices to 64 bits, and those of 64 rows stay in the cache: twice as fast."""


def as_displayed(data_set: Dataset, codes: Pixels, stored_bits: int, signed: bool) -> Pixels:
    """The image as a radiologist sees it, 0 black.

    Modality LUT or rescale; VOI LUT, else the first window, else the range of the pixels that are not padding;
    inversion for MONOCHROME1 or Presentation LUT Shape INVERSE (once: PS3.3 C.8.11.3 asks for both together). Padding
    is black.

    Args:
        data_set: the header (PS3.3 C.7.6.3, C.7.5.1.1.2, C.11).
        codes: (H, W), stored bits of each pixel, 0 .. 2**stored_bits - 1.
        stored_bits: 1 to 16.
        signed: whether the codes are two's complement.

    Returns:
        (H, W) of depth max(8, stored_bits): np.uint8 at depth 8, else np.uint16, spanning 0 .. 2**depth - 1.

    Raises:
        Quarantined: ``Corrupt`` for a rescale or lookup table that can't be applied.
    """
    stored = stored_values(stored_bits, signed)
    padding = padding_mask(data_set, stored)
    values = modality_values(data_set, stored)
    brightness = voi_brightness(data_set, values)
    if brightness is None:
        brightness = _over_range(values, _present(codes, stored_bits) & ~padding)
    if data_set.get("PhotometricInterpretation") == "MONOCHROME1" or data_set.get("PresentationLUTShape") == "INVERSE":
        brightness = 1 - brightness
    brightness[padding] = 0
    depth = max(8, stored_bits)
    table = np.rint(brightness * (2**depth - 1)).astype(np.uint8 if depth == 8 else np.uint16)
    return _look_up(table, codes)


def stored_values(bits: int, signed: bool) -> Values:
    """(2**bits,) the stored value of each code."""
    values = np.arange(2**bits, dtype=np.float64)
    if signed:
        values[2 ** (bits - 1) :] -= 2**bits
    return values


def padding_mask(data_set: Dataset, stored: Values) -> NDArray[np.bool_]:
    """Which stored values are padding (PS3.3 C.7.5.1.1.2): Pixel Padding Value, or all from it to the range limit.

    Args:
        data_set: the header.
        stored: (codes,) stored values.

    Returns:
        (codes,) booleans.
    """
    first = _number(data_set, "PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, dtype=bool)
    limit = _number(data_set, "PixelPaddingRangeLimit")
    ends = [_in_range_of(stored, first), _in_range_of(stored, first if limit is None else limit)]
    return (stored >= min(ends)) & (stored <= max(ends))


def _in_range_of(values: Values, number: float) -> float:
    """The 16-bit number with the sign that the values have; implicit VR leaves open whether it was US or SS."""
    if number > values.max() and number - 65536 >= values.min():
        return number - 65536
    if number < 0 <= values.min():
        return number + 65536
    return number


def modality_values(data_set: Dataset, stored: Values) -> Values:
    """Output of the Modality LUT, or of rescale slope and intercept (PS3.3 C.11.1).

    Args:
        data_set: the header.
        stored: (codes,) stored values.

    Returns:
        (codes,) modality values.

    Raises:
        Quarantined: ``Corrupt``.
    """
    if items := data_set.get("ModalityLUTSequence"):
        return _look_up_values(items[0], stored)[0]
    slope, intercept = (
        _number(data_set, name) if data_set.get(name) not in (None, "") else neutral
        for name, neutral in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    )
    if slope is None or intercept is None or slope == 0:
        raise refused("Corrupt", "the rescale slope or intercept is not a number that can be applied")
    return stored * slope + intercept


def voi_brightness(data_set: Dataset, values: Values) -> Values | None:
    """Brightness by the first VOI LUT, or the first window (PS3.3 C.11.2).

    Args:
        data_set: the header.
        values: (codes,) modality values.

    Returns:
        (codes,) in [0, 1], or None where there is neither, or the window makes no sense.

    Raises:
        Quarantined: ``Corrupt`` for a lookup table that can't be applied.
    """
    if items := data_set.get("VOILUTSequence"):
        outputs, bits = _look_up_values(items[0], values)
        return np.asarray(np.clip(outputs / (2**bits - 1), 0, 1))
    center, width = _number(data_set, "WindowCenter"), _number(data_set, "WindowWidth")
    if center is None or width is None:
        return None
    return windowed(values, center, width, str(data_set.get("VOILUTFunction") or "LINEAR").strip())


def windowed(values: Values, center: float, width: float, function: str) -> Values | None:
    """Brightness by a window (PS3.3 C.11.2.1.2.1, C.11.2.1.3.1, C.11.2.1.3.2).

    Args:
        values: (codes,) modality values.
        center: window center, in modality values.
        width: window width, in modality values.
        function: LINEAR_EXACT, SIGMOID, or anything else for LINEAR.

    Returns:
        (codes,) in [0, 1]; None for a width that the standard doesn't allow (under 1 for LINEAR, 0 and less otherwise).
    """
    if width <= 0 or (width < 1 and function not in ("LINEAR_EXACT", "SIGMOID")):
        return None
    if function == "SIGMOID":
        exponent = np.clip(
            -4 * (values - center) / width, -700, 700
        )  # beyond, exp overflows and the brightness is 0 or 1
        return np.asarray(1 / (1 + np.exp(exponent)))
    if function == "LINEAR_EXACT":
        return np.asarray(np.clip((values - center) / width + 0.5, 0, 1))
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return np.asarray(np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1))


def _over_range(values: Values, counted: NDArray[np.bool_]) -> Values:
    """The counted values' range stretched to [0, 1]; all 0 where they are all the same."""
    seen = values[counted]
    low, high = (seen.min(), seen.max()) if seen.size else (0.0, 0.0)
    if high <= low:
        return np.zeros_like(values)
    return np.clip((values - low) / (high - low), 0, 1)


def _present(codes: Pixels, bits: int) -> NDArray[np.bool_]:
    present = np.zeros(2**bits, dtype=bool)
    for row in range(0, codes.shape[0], _ROWS_AT_ONCE):
        present[codes[row : row + _ROWS_AT_ONCE]] = True
    return present


def _look_up(table: Pixels, codes: Pixels) -> Pixels:
    out = np.empty(codes.shape, table.dtype)
    for row in range(0, codes.shape[0], _ROWS_AT_ONCE):
        np.take(table, codes[row : row + _ROWS_AT_ONCE], out=out[row : row + _ROWS_AT_ONCE], mode="clip")
    return out


def _look_up_values(item: Dataset, values: Values) -> tuple[Values, int]:
    """Values through a LUT item (PS3.3 C.11.1.1, C.11.2.1.1), clamped to its ends, and the bits of its entries."""
    try:
        entries, first, bits = (int(part) for part in item.LUTDescriptor)
        entries = entries % 65536 or 65536  # 0 stands for 2**16; a wrong sign for 32,768 and more
        table = _lut_data(item.LUTData, entries, bits, little_endian=item.original_encoding[1] is not False)
    except Exception:
        table, first, bits = np.empty(0), 0, 0
    if not 8 <= bits <= 16 or not table.size:
        raise refused("Corrupt", "the lookup table doesn't hold what its descriptor announces")
    index = np.clip(np.rint(values - _in_range_of(values, first)), 0, table.size - 1).astype(np.int64)
    return table[index].astype(np.float64), bits


def _lut_data(data: Any, entries: int, bits: int, little_endian: bool) -> NDArray[Any]:
    """(entries,) the LUT Data, as numbers or bytes; shorter ones come back empty."""
    if isinstance(data, bytes):
        eight_bit = bits == 8 and len(data) < 2 * entries
        numbers = np.frombuffer(
            data[: len(data) // 2 * 2], np.uint8 if eight_bit else "<u2" if little_endian else ">u2"
        )
    else:
        numbers = np.atleast_1d(np.asarray(data, dtype=np.int64)) & 0xFFFF
    return numbers[:entries] if numbers.size >= entries else np.empty(0)


def _number(data_set: Dataset, keyword: str) -> float | None:
    """The element's first number; None where it is absent, empty, no number, or not finite."""
    try:
        value = data_set.get(keyword)
        if value is not None and not isinstance(value, (int, float, str)):
            value = value[0] if len(value) else None
        number = float(value) if value is not None else math.nan
    except Exception:
        return None
    return number if math.isfinite(number) else None
