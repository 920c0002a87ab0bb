"""Where text is burned into a radiograph, and which of it is a laterality mark."""

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from prichexy.deid.burned_in.networks import Grey, read_line, text_probability
from prichexy.imaging.radiograph import Pixels

CORE = 0.2
"""Probability from which a pixel belongs to the core of a line."""
SCORE = 0.5
"""Least mean probability of a core's pixels."""
GROWTH = 0.6
"""How far a box goes beyond its core, in units of the core's shorter side: cores are about half as high as lines."""
MARGIN = 3
"""And further on each side, in pixels at the detector's resolution: outlines and anti-aliasing."""
HALVED_FROM = 769
"""Longer side, in pixels, from which the detector sees half the resolution: about a third of the work. It still finds
text of 10 px; of text that differs by 12 to 30 of 255 levels from what lies around it, it misses more (7 to 23 %,
against 0 to 10 % at full resolution)."""
TILE, OVERLAP = 1024, 128
"""Side of the largest piece the detector sees at once, and what neighbours share, in pixels: bounds its memory."""
CONFIDENT = 0.9
"""Least probability of the letter of a laterality mark; below, it is covered like any text."""
_LEAST_SIGN = 0.01
"""Least box of a shape beside the letter, in units of the crop's area; smaller ones are noise."""
_INSETS = (0, 3 / 32, 3 / 16, 1 / 4, 5 / 16)
"""How much is cut from each side of a mark, one after the other, until a letter reads well: a letter in a ring reads as
an odd sign ("0", a circled digit) until the cut lies inside the ring."""
_LINE = 48
"""Height of a line as the reading network wants it, in pixels."""


@dataclass(frozen=True, slots=True)
class Region:
    """A box around burned-in text.

    Attributes:
        x: column of its left edge, in pixels of the image.
        y: row of its upper edge.
        width: in pixels.
        height: in pixels.
        kind: "text", or "laterality" for a mark that reads exactly L or R.
        score: mean probability of text in the box's core, 0 to 1; of the letter, for a laterality mark.
        letter: "L" or "R" for a laterality mark, else None. No other text is ever kept.
    """

    x: int
    y: int
    width: int
    height: int
    kind: Literal["text", "laterality"]
    score: float
    letter: Literal["L", "R"] | None = None


def detect(pixels_HW: Pixels, bit_depth: int, full_resolution: bool = False) -> list[Region]:
    """The boxes of burned-in text; recall before precision.

    Args:
        pixels_HW: (H, W) np.uint8 or np.uint16, grey levels 0 .. 2**bit_depth - 1.
        bit_depth: 8 to 16.
        full_resolution: also large images are looked at as they are, which takes about three times as long.

    Returns:
        Regions inside the image, from top to bottom; they may overlap.

    Raises:
        UsageError: the text networks are not installed.
    """
    height, width = pixels_HW.shape
    scale = 0.5 if max(height, width) >= HALVED_FROM and not full_resolution else 1.0
    found: dict[tuple[int, int, int, int], Region] = {}
    for grey_HW in _windows(pixels_HW, bit_depth):
        seen = (max(1, round(width * scale)), max(1, round(height * scale)))
        small_HW = grey_HW if scale == 1 else cv2.resize(grey_HW, seen, interpolation=cv2.INTER_AREA)
        for x, y, w, h, score in _boxes(_probability_map(small_HW), scale, height, width):
            letter, certainty = _laterality(grey_HW[y : y + h, x : x + w])
            region = (
                Region(x, y, w, h, "laterality", certainty, letter) if letter else Region(x, y, w, h, "text", score)
            )
            found.setdefault((y, x, h, w), region)
    return [found[place] for place in sorted(found)]


def _windows(pixels_HW: Pixels, bit_depth: int) -> list[Grey]:
    """8-bit views: the whole range, and the range of nearly all pixels where that is a small part of it.

    Text drawn at the level of its surroundings plus a little is lost in the whole range of a 16-bit image, and text
    far above the anatomy is lost where the range is cut; so such images are looked at twice.
    """
    top = 2**bit_depth - 1
    whole = pixels_HW if bit_depth == 8 else np.rint(pixels_HW * np.float32(255 / top)).astype(np.uint8)
    low, high = np.percentile(pixels_HW[::4, ::4], [1, 99])
    if high - low >= top / 3 or high <= low:
        return [whole]
    narrow = np.clip((pixels_HW.astype(np.float32) - low) * (255 / (high - low)), 0, 255)
    return [whole, np.rint(narrow).astype(np.uint8)]


def _probability_map(grey_HW: Grey) -> NDArray[np.float32]:
    height, width = grey_HW.shape
    joined_HW = np.zeros((height, width), np.float32)
    for top in range(0, max(1, height - OVERLAP), TILE - OVERLAP):
        for left in range(0, max(1, width - OVERLAP), TILE - OVERLAP):
            tile = grey_HW[top : top + TILE, left : left + TILE]
            h, w = tile.shape
            padded = np.pad(tile, ((0, -h % 32), (0, -w % 32)), mode="edge")
            view = joined_HW[top : top + h, left : left + w]
            np.maximum(view, text_probability(padded)[:h, :w], out=view)
    return joined_HW


def _boxes(
    probability_HW: NDArray[np.float32], scale: float, height: int, width: int
) -> list[tuple[int, int, int, int, float]]:
    """(x, y, width, height, score) in pixels of the image for each core in the map."""
    core_HW = probability_HW > CORE
    number, labels, statistics, _ = cv2.connectedComponentsWithStats(core_HW.astype(np.uint8))
    areas = np.maximum(statistics[:, cv2.CC_STAT_AREA], 1)
    scores = np.bincount(labels.ravel(), probability_HW.ravel(), minlength=number) / areas
    boxes = []
    for k in range(1, number):
        if scores[k] < SCORE:
            continue
        left, top, w, h = (int(v) for v in statistics[k, :4])
        grown = GROWTH * min(w, h) + MARGIN
        x, y = max(0, int((left - grown) / scale)), max(0, int((top - grown) / scale))
        right = min(width, int(np.ceil((left + w + grown) / scale)))
        bottom = min(height, int(np.ceil((top + h + grown) / scale)))
        boxes.append((x, y, right - x, bottom - y, float(scores[k])))
    return boxes


def _laterality(crop_HW: Grey) -> tuple[Literal["L", "R"] | None, float]:
    """The letter of a mark that holds exactly L or R, and its probability; a ring around the letter is allowed."""
    height, width = crop_HW.shape
    # A technician's initials beside the letter are often overlooked by the reading network: they count as shapes.
    if not 0.4 <= width / height <= 1.7 or _signs(crop_HW) > 1:
        return None, 0.0
    text, certainty = "", 0.0
    for inset in _INSETS:
        dy, dx = int(height * inset), int(width * inset)
        text, certainty = _read(crop_HW[dy : height - dy, dx : width - dx])
        if certainty >= CONFIDENT and text in ("L", "R"):
            break
        if len(text) > 1:
            return None, 0.0  # a word; what its middle alone would say is of no interest
    if certainty < CONFIDENT or text not in ("L", "R"):
        return None, 0.0
    return ("L" if text == "L" else "R"), certainty


def _signs(crop_HW: Grey) -> int:
    """How many separate shapes a crop holds, light or dark, whichever are more.

    What lies inside another shape (the letter in a ring, the eye of an R) or reaches the crop's border doesn't count.
    """
    _, light_HW = cv2.threshold(crop_HW, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    height, width = crop_HW.shape
    most = 0
    for shapes_HW in (light_HW, 1 - light_HW):
        outlines, _ = cv2.findContours(shapes_HW, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        inside = 0
        for x, y, w, h in map(cv2.boundingRect, outlines):
            at_border = x == 0 or y == 0 or x + w == width or y + h == height
            inside += not at_border and w * h >= _LEAST_SIGN * height * width
        most = max(most, inside)
    return most


def _read(crop_HW: Grey) -> tuple[str, float]:
    height, width = crop_HW.shape
    used = max(1, round(_LINE * width / height))
    line: NDArray[Any] = cv2.resize(crop_HW, (used, _LINE), interpolation=cv2.INTER_LINEAR)
    # At least twice as wide as high: single letters read best with empty space after them.
    grey_3HW = np.zeros((3, _LINE, max(2 * _LINE, used)), np.float32)
    grey_3HW[:, :, :used] = line.astype(np.float32) / 127.5 - 1
    return read_line(grey_3HW)
