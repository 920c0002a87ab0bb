"""Changes the size of an image, and the scale of its grey levels between integers and [0, 1]."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from prichexy.imaging.radiograph import Pixels


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """The image at another size, by Pillow's bilinear filter: a triangle that widens with the reduction (antialiased).

    That filter is what the published method used (torchvision's Resize on Pillow images). 8 bits go through mode L,
    exactly Pillow's integer arithmetic; 16 bits through mode F, then rounded to the nearest level.

    Args:
        pixels: (H, W), np.uint8 or np.uint16.
        height: rows of the result, at least 1.
        width: columns of the result, at least 1.

    Returns:
        (height, width), same dtype; the input itself if it has that size.
    """
    if pixels.shape == (height, width):
        return pixels
    if pixels.dtype == np.uint8:
        return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    real = Image.fromarray(pixels.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(np.rint(np.asarray(real)).clip(0, 65535), dtype=pixels.dtype)


def to_unit(pixels: Pixels, bit_depth: int) -> NDArray[np.float32]:
    """Grey levels as numbers in [0, 1].

    Args:
        pixels: any shape, integers 0 .. 2**bit_depth - 1.
        bit_depth: 8 to 16.

    Returns:
        The same shape, float32, pixels / (2**bit_depth - 1).
    """
    return pixels.astype(np.float32) / np.float32(2**bit_depth - 1)


def from_unit(x: NDArray[np.floating], bit_depth: int) -> Pixels:
    """Numbers in [0, 1] as grey levels: values outside are clipped, then rounded to the nearest level (ties to even).

    Args:
        x: any shape, floating point.
        bit_depth: 8 to 16.

    Returns:
        The same shape, np.uint8 at depth 8, else np.uint16.

    Raises:
        ValueError: a value is NaN.
    """
    if np.isnan(x).any():
        raise ValueError("the image holds NaN")
    levels = np.rint(np.clip(x, 0, 1) * np.float32(2**bit_depth - 1))
    return np.asarray(levels, dtype=np.uint8 if bit_depth == 8 else np.uint16)
