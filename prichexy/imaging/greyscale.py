"""Turns decoded raster samples into grey levels, and refuses colour photographs."""

import cv2
import numpy as np

from prichexy.imaging.radiograph import Pixels, refused

COLOUR_TOLERANCE = 16 / 255
"""Largest difference between a grey pixel's channels, as a share of full scale (why: `to_grey`)."""

COLOUR_SHARE = 0.001
"""Share of pixels that may differ by more: specks of compression noise, not content."""


def to_grey(samples: Pixels) -> Pixels:
    """Grey levels of an image with 1 to 4 channels.

    Alpha is composited over black, which is what a viewer shows. A picture whose channels are nearly equal is a
    radiograph saved as RGB, and its luma (ITU-R BT.601) is returned; equal channels come back exactly.

    The tolerance was measured: radiographs saved as RGB JPEG come back with equal channels at any quality, since their
    chroma is zero; with independent noise of 3 levels (standard deviation) in each channel 0.03 % of the pixels differ
    by over 16, saved as JPEG none. Of two colour photographs 60 % and 93 % of the pixels do, and with seven tenths of
    their colour taken away still 13 % and 60 %. A tinted scan of film is refused as well.

    Args:
        samples: (H, W), or (H, W, C) with C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA; np.uint8 or np.uint16.

    Returns:
        (H, W), same dtype.

    Raises:
        Quarantined: ``ColourPhotograph``.
    """
    if samples.ndim == 2:
        return samples
    channels = samples.shape[2]
    if channels in (2, 4):
        samples = _over_black(samples[..., :-1], samples[..., -1])
        channels -= 1
    if channels == 1:
        return np.ascontiguousarray(samples[..., 0])
    _check_colour(samples)
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(samples), cv2.COLOR_RGB2GRAY))


def _over_black(colour: Pixels, alpha: Pixels) -> Pixels:
    full = int(np.iinfo(alpha.dtype).max)
    if (alpha == full).all():
        return colour
    product = colour.astype(np.uint64) * alpha[..., None]
    return ((product + full // 2) // full).astype(colour.dtype)


def _check_colour(rgb: Pixels) -> None:
    first, second, third = (rgb[..., channel] for channel in range(3))
    spread = np.maximum(np.maximum(first, second), third) - np.minimum(np.minimum(first, second), third)
    coloured = np.count_nonzero(spread > COLOUR_TOLERANCE * np.iinfo(rgb.dtype).max)
    if coloured > COLOUR_SHARE * spread.size:
        raise refused("ColourPhotograph", "the image is in colour; a radiograph is grey")
