"""Covers regions with what surrounds them: smooth background, and noise as strong as the neighbourhood's.

Nothing of a covered pixel reaches the result: it depends on the regions and on the pixels outside them only.
"""

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from prichexy.deid.burned_in.detection import Region
from prichexy.imaging.radiograph import Pixels

_RING = 24
"""How far around a region its background is looked at, in pixels."""
_TINY = np.float32(1e-6)

Mask = NDArray[np.bool_]
Levels = NDArray[np.float32]


def text_mask(shape: tuple[int, ...], regions: Iterable[Region]) -> Mask:
    """Where an image of this shape (H, W) is covered: True in each box of text, laterality marks left out."""
    covered_HW = np.zeros(shape, bool)
    for region in regions:
        if region.kind == "text":
            covered_HW[region.y : region.y + region.height, region.x : region.x + region.width] = True
    return covered_HW


def redact(pixels_HW: Pixels, bit_depth: int, regions: Iterable[Region]) -> Pixels:
    """The image with its text covered; laterality marks stay, except where a box of text overlaps them.

    Args:
        pixels_HW: (H, W) np.uint8 or np.uint16, grey levels 0 .. 2**bit_depth - 1; left as they are.
        bit_depth: 8 to 16.
        regions: as `detect` finds them.

    Returns:
        (H, W) of the same type and range; a copy. The same input gives the same pixels everywhere.
    """
    cleaned_HW = pixels_HW.copy()
    covered_HW = text_mask(pixels_HW.shape, regions)
    near_HW = cv2.dilate(covered_HW.astype(np.uint8), np.ones((2 * _RING + 1, 2 * _RING + 1), np.uint8))
    number, labels, statistics, _ = cv2.connectedComponentsWithStats(near_HW)
    for k in range(1, number):
        x, y, w, h = (int(v) for v in statistics[k, :4])
        place = (slice(y, y + h), slice(x, x + w))
        hidden_HW = covered_HW[place] & (labels[place] == k)
        known_HW = ~covered_HW[place]
        filled = _filled(cleaned_HW[place].astype(np.float32), known_HW, seed=(y, x, h, w))
        filled = np.clip(np.rint(filled), 0, 2**bit_depth - 1).astype(pixels_HW.dtype)
        cleaned_HW[place][hidden_HW] = filled[hidden_HW]
    return cleaned_HW


def _filled(levels_HW: Levels, known_HW: Mask, seed: tuple[int, ...]) -> Levels:
    """Background everywhere: where the levels are known they weigh in, elsewhere they don't."""
    if not known_HW.any():
        return np.zeros_like(levels_HW)  # the whole image is text: black
    weight_HW = known_HW.astype(np.float32)
    smooth_HW = _pull_push(levels_HW * weight_HW, weight_HW)
    filled_HW: Levels = smooth_HW + _noise(levels_HW, known_HW, seed)
    return filled_HW


def _pull_push(weighted_HW: Levels, weight_HW: Levels) -> Levels:
    """Smooth interpolation: averages of known levels at ever coarser resolution fill what finer ones leave open.

    Gortler et al., "The Lumigraph", SIGGRAPH 1996, section 3.4. Each value is a mean of known ones, so none lies
    outside their range.
    """
    height, width = weight_HW.shape
    fine_HW = (weighted_HW / np.maximum(weight_HW, _TINY)).astype(np.float32, copy=False)
    if weight_HW.min() >= 1 or max(height, width) <= 1:
        return fine_HW
    half = ((width + 1) // 2, (height + 1) // 2)
    level = cv2.resize(cv2.blur(weighted_HW, (3, 3)), half, interpolation=cv2.INTER_LINEAR).reshape(half[::-1])
    weight = cv2.resize(cv2.blur(weight_HW, (3, 3)), half, interpolation=cv2.INTER_LINEAR).reshape(half[::-1])
    saturated = np.minimum(weight * 2, 1)  # a pixel with half its neighbourhood known is known
    coarse = _pull_push(level / np.maximum(weight, _TINY) * saturated, saturated)
    coarse_HW = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width)
    joined_HW: Levels = fine_HW * weight_HW + coarse_HW * (1 - weight_HW)
    return joined_HW


def _noise(levels_HW: Levels, known_HW: Mask, seed: tuple[int, ...]) -> Levels:
    """Gaussian noise of the known pixels' strength, by the median of a difference that cancels slopes."""
    a, b, c = levels_HW[:, :-2], levels_HW[:, 1:-1], levels_HW[:, 2:]
    usable = known_HW[:, :-2] & known_HW[:, 1:-1] & known_HW[:, 2:]
    if not usable.any():
        return np.zeros_like(levels_HW)
    second_difference = np.abs(a - 2 * b + c)[usable]
    # The second difference of white noise has sqrt(6) times its deviation; a median of magnitudes is 0.6745 of it.
    deviation = float(np.median(second_difference)) / (0.6745 * np.sqrt(6))
    noise_HW = np.random.default_rng(seed).standard_normal(levels_HW.shape, np.float32)
    return noise_HW * np.float32(deviation)
