"""Draws what a modality or a person burns into radiographs: names, dates and numbers, and one laterality mark."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "STIXGeneral",
    None,  # Pillow's own
)
STYLES = ("plain", "boxed", "outlined", "grey")
FAMILY_NAMES = ("MUELLER", "SMITH", "OKAFOR", "Nguyen", "de la Cruz", "KOWALSKI", "Johansson", "TANAKA", "O'BRIEN")
GIVEN_NAMES = ("Anna", "JOHN", "Maria", "WEI", "Fatima", "Lars", "IVAN", "Chloe")

Grey = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Drawn:
    """A text in the image: its ink with outline (H, W), of how many pixels its letters are, and how it looks."""

    ink: Mask
    size: int
    style: str


@dataclass(frozen=True)
class Marked:
    """An image with drawn text.

    Attributes:
        pixels: (H, W) np.uint8.
        texts: what was drawn; they don't overlap.
        letter: of the laterality mark, "L" or "R", drawn well away from them, often in a ring.
        mark: its ink, (H, W).
    """

    pixels: Grey
    texts: list[Drawn]
    letter: str
    mark: Mask


def marked(image_HW: Grey, seed: int, texts: int = 4, sizes: tuple[int, int] = (10, 60)) -> Marked:
    """The image with a laterality mark near a corner and texts in corners and over the anatomy.

    Args:
        image_HW: (H, W) np.uint8; left as it is.
        seed: of everything drawn.
        texts: how many; fewer where there is no room.
        sizes: least and greatest size of their fonts, in pixels.
    """
    rng = np.random.default_rng(seed)
    pixels = image_HW.copy()
    taken = np.zeros(pixels.shape, bool)
    letter, mark = _laterality_mark(pixels, taken, rng)
    drawn = [_text(pixels, taken, rng, sizes) for _ in range(texts)]
    return Marked(pixels, [text for text in drawn if text], letter, mark)


def glyphs(text: str, size: int, font: str | None, outline: int) -> tuple[Grey, Grey]:
    """Coverage 0 .. 255 of the letters, and of the letters with their outline, in boxes of the same shape."""
    folder = Path(matplotlib.get_data_path()) / "fonts/ttf"
    face: Any = ImageFont.truetype(str(folder / f"{font}.ttf"), size) if font else ImageFont.load_default(size)
    left, top, right, bottom = face.getbbox(text, stroke_width=outline)
    shape = (int(right - left) + 4, int(bottom - top) + 4)
    layers = []
    for width in (0, outline):
        layer = Image.new("L", shape)
        ImageDraw.Draw(layer).text((2 - left, 2 - top), text, 255, font=face, stroke_width=width)
        layers.append(np.asarray(layer))
    return layers[0], layers[1]


def words(rng: np.random.Generator) -> str:
    """A name, a date or a number, as burned-in texts have them."""
    family, given = rng.choice(FAMILY_NAMES), rng.choice(GIVEN_NAMES)
    day, month, year = rng.integers(1, 29), rng.integers(1, 13), rng.integers(1925, 2025)
    kinds = (
        f"{family}, {given}",
        f"{family}^{given}",
        f"{day:02d}.{month:02d}.{year}",
        f"{year}-{month:02d}-{day:02d}",
        f"{month:02d}/{day:02d}/{year} {rng.integers(24):02d}:{rng.integers(60):02d}",
        f"{rng.integers(10**6, 10**9)}",
        f"MRN {rng.integers(10**5, 10**8)}",
        f"DOB {day:02d}.{month:02d}.{year} {'MF'[rng.integers(2)]}",
    )
    return kinds[rng.integers(len(kinds))]


def _laterality_mark(pixels: Grey, taken: Mask, rng: np.random.Generator) -> tuple[str, Mask]:
    letter, size = "LR"[rng.integers(2)], int(rng.integers(30, 61))
    letters, outlined = glyphs(letter, size, FONTS[rng.integers(len(FONTS))], max(2, size // 14))
    style = STYLES[rng.integers(3)]
    if rng.integers(3) == 0:
        letters, outlined = _ringed(letters, max(2, size // 14))
        style = "outlined"
    place = _room(pixels, taken, letters.shape, True, rng)
    assert place, "an empty image has room for one mark"
    mark = _paste(pixels, letters, outlined, place, style, rng)
    (top, left), (height, width) = place, letters.shape
    taken[max(0, top - size) : top + height + size, max(0, left - size) : left + width + size] = True
    return letter, mark


def _ringed(letters: Grey, thickness: int) -> tuple[Grey, Grey]:
    side = int(max(letters.shape) * 1.5)
    ring, disc = np.zeros((side, side), np.uint8), np.zeros((side, side), np.uint8)
    top, left = (side - letters.shape[0]) // 2, (side - letters.shape[1]) // 2
    ring[top : top + letters.shape[0], left : left + letters.shape[1]] = letters
    cv2.circle(ring, (side // 2, side // 2), side // 2 - 3, 255, thickness)
    cv2.circle(disc, (side // 2, side // 2), side // 2 - 1, 255, -1)
    return ring, disc


def _text(pixels: Grey, taken: Mask, rng: np.random.Generator, sizes: tuple[int, int]) -> Drawn | None:
    size = int(rng.integers(sizes[0], sizes[1] + 1))
    letters, outlined = glyphs(words(rng), size, FONTS[rng.integers(len(FONTS))], max(1, size // 14))
    style = STYLES[rng.integers(len(STYLES))]
    if style == "boxed":
        letters, outlined = (np.pad(layer, max(2, size // 5)) for layer in (letters, outlined))
    if rng.integers(5) == 0:  # upwards or downwards
        turns = int(rng.choice([1, 3]))
        letters, outlined = np.rot90(letters, turns), np.rot90(outlined, turns)
    place = _room(pixels, taken, letters.shape, bool(rng.integers(2)), rng)
    if place is None:
        return None
    (top, left), (height, width) = place, letters.shape
    ink = _paste(pixels, letters, outlined, place, style, rng)
    taken[top : top + height, left : left + width] = True
    return Drawn(ink, size, style)


def _room(
    pixels: Grey, taken: Mask, shape: tuple[int, ...], corner: bool, rng: np.random.Generator
) -> tuple[int, int] | None:
    """Top and left of a free place, 14 pixels away from what is there; None if 60 tries find none."""
    free = np.array(pixels.shape) - shape
    if (free < 8).any():
        return None
    for _ in range(60):
        if corner:
            offset = np.minimum([rng.integers(4, max(5, side // 6)) for side in pixels.shape], free)
            top, left = np.where(rng.integers(2, size=2) == 1, offset, free - offset)
        else:
            top, left = (rng.integers(4, room) for room in free)
        if not taken[max(0, top - 14) : top + shape[0] + 14, max(0, left - 14) : left + shape[1] + 14].any():
            return int(top), int(left)
    return None


def _paste(
    pixels: Grey, letters: Grey, outlined: Grey, place: tuple[int, int], style: str, rng: np.random.Generator
) -> Mask:
    """Draw in place, and tell where there is ink."""
    (top, left), (height, width) = place, letters.shape
    view = pixels[top : top + height, left : left + width]
    levels, inked, light = view.astype(float), letters, bool(rng.integers(2))
    if style == "plain":  # as far from what lies below as a reader needs
        below = float(np.median(levels))
        level = rng.uniform(min(255, below + 90), 256) if below < 128 else rng.uniform(0, max(1, below - 90))
    elif style == "boxed":
        levels[:], level = (rng.uniform(0, 30), rng.uniform(200, 255)) if light else (rng.uniform(225, 255), 25.0)
    else:
        around, level = (0.0, 255.0) if light else (255.0, 0.0)
        if style == "grey":
            around, level = (rng.uniform(0, 40), rng.uniform(140, 200)) if light else (235.0, rng.uniform(60, 120))
        levels += (around - levels) * (outlined / 255)
        inked = outlined
    levels += (level - levels) * (letters / 255)
    view[:] = np.rint(np.clip(levels, 0, 255)).astype(np.uint8)
    ink = np.zeros(pixels.shape, bool)
    ink[top : top + height, left : left + width] = inked > 32
    return ink
