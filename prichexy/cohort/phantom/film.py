"""From attenuation to grey values: scatter, noise, the device's processing, shutter and lead marks."""

import cv2
import numpy as np
from numpy.typing import NDArray

from prichexy.cohort.phantom.anatomy import Acquisition
from prichexy.cohort.phantom.projection import Field, Projection


def expose(attenuation_HW: Field, projection: Projection, rng: np.random.Generator) -> Field:
    """The image plate's answer in [0, 1], (H, W): 0 black (air), 1 white.

    Beer-Lambert intensities get scattered radiation (a wide blur of the primary beam), quantum noise that grows as
    the beam weakens, and the device's blur; the logarithm is shown through an S-shaped characteristic curve with
    edge enhancement.
    """
    q = projection.acquisition
    height, width = attenuation_HW.shape
    primary = np.exp(-attenuation_HW)
    small = cv2.resize(primary, (max(8, width // 8), max(8, height // 8)), interpolation=cv2.INTER_AREA)
    haze = cv2.GaussianBlur(np.minimum(small, np.float32(0.35)), (0, 0), max(1.0, 3.5 / (8 * projection.pixel_cm)))
    haze = cv2.resize(haze, (width, height), interpolation=cv2.INTER_LINEAR)
    intensity = primary + np.float32(q.scatter) * haze
    dose = np.sqrt(intensity)
    grain = rng.standard_normal((height, width), dtype=np.float32)
    sharp = max(0.25, q.blur_cm / projection.pixel_cm)
    signal = cv2.GaussianBlur(np.log(intensity), (0, 0), sharp)
    grain = cv2.GaussianBlur(grain, (0, 0), 0.55)
    size = np.float32(np.clip(0.076 / projection.pixel_cm, 0.35, 1.6))  # larger pixels collect more quanta
    depth = -signal + np.float32(q.noise * 0.55) * size * grain / dose
    depth += _shading(projection)
    halo = cv2.resize(depth, (max(8, width // 4), max(8, height // 4)), interpolation=cv2.INTER_AREA)
    halo = cv2.GaussianBlur(halo, (0, 0), max(0.8, 1.1 / (4 * projection.pixel_cm)))
    halo = cv2.resize(halo, (width, height), interpolation=cv2.INTER_LINEAR)
    depth += np.float32(0.5 * q.enhancement) * np.clip(depth - halo, -0.6, 0.6)
    return _characteristic(depth, q)


def _shading(projection: Projection) -> Field:
    q = projection.acquisition
    v = np.linspace(-1, 1, projection.height, dtype=np.float32)[:, None]
    u = np.linspace(-1, 1, projection.width, dtype=np.float32)[None, :]
    shade = np.float32(q.vignette) * (u * u + v * v) + np.float32(q.heel) * v
    if q.grid_lines:
        shade = (
            shade
            + np.float32(q.grid_lines)
            * np.sin(np.arange(projection.width, dtype=np.float32) * np.float32(2.1))[None, :]
        )
    return np.asarray(shade, dtype=np.float32)


def _characteristic(depth: Field, q: Acquisition) -> Field:
    u = (depth - np.float32(q.centre)) / np.float32(q.latitude)
    curve = 1 / (1 + np.exp(-np.float32(4.6) * u))
    floor = np.float32(1 / (1 + np.exp(4.6 * q.centre / q.latitude)))
    return np.asarray(
        np.float32(0.93) * np.clip((curve - floor) / (1 - floor), 0, 1) ** np.float32(q.gamma), dtype=np.float32
    )


def shutter(projection: Projection) -> NDArray[np.bool_]:
    """True where the collimator's shutter covers the image, (H, W)."""
    q = projection.acquisition
    height, width = projection.height, projection.width
    left, top, right, bottom = q.collimation
    covered = np.zeros((height, width), np.bool_)
    covered[: round(top * height)] = True
    covered[height - round(bottom * height) :] = True
    covered[:, : round(left * width)] = True
    covered[:, width - round(right * width) :] = True
    return covered


def stamp_marks(image_HW: Field, projection: Projection) -> None:
    """Draws the lead letter (and the bedside words) into the image in place; styles vary with the room."""
    q = projection.acquisition
    height, width = image_HW.shape
    unit = min(height, width)
    u = 1 - q.marker_u if q.marker_side > 0 else q.marker_u
    centre = (u * width, q.marker_v * height)
    letter = "L" if q.marker_side > 0 else "R"
    _letters(image_HW, letter, centre, 0.042 * unit, q.marker_turn, ring=q.marker_style == 1)
    if q.view == "AP" and q.marker_style != 2:
        for line, word in enumerate(("AP", "PORTABLE")):
            # kept on the image's side of the shutter
            _letters(
                image_HW,
                word,
                (float(np.clip(u, 0.12, 0.88)) * width, centre[1] + (0.07 + 0.028 * line) * unit),
                0.017 * unit,
                0.0,
            )


def _letters(
    image_HW: Field, text: str, centre: tuple[float, float], tall: float, turn: float, ring: bool = False
) -> None:
    """Opaque lead letters of a height in pixels around a centre, antialiased by supersampling."""
    font = cv2.FONT_HERSHEY_DUPLEX
    thick = 5
    (wide, high), _ = cv2.getTextSize(text, font, 3.0, thick)
    side = int(1.6 * max(wide, high))
    plate = np.zeros((side, side), np.uint8)
    cv2.putText(plate, text, ((side - wide) // 2, (side + high) // 2), font, 3.0, 255, thick, cv2.LINE_AA)
    if ring:
        cv2.circle(plate, (side // 2, side // 2), int(0.46 * side), 255, thick, cv2.LINE_AA)
    scale = tall / high
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), turn, scale)
    matrix[:, 2] += np.array(centre) - side / 2
    height, width = image_HW.shape
    lead = (
        cv2.warpAffine(cv2.GaussianBlur(plate, (0, 0), max(0.1, 0.3 / scale)), matrix, (width, height)).astype(
            np.float32
        )
        / 255
    )
    np.maximum(image_HW, np.float32(0.995) * lead, out=image_HW)


def quantize(image_HW: Field, bit_depth: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Grey values of ``bit_depth`` bits from [0, 1]: uint8 for 8 bits, uint16 (right-aligned) above."""
    top = (1 << bit_depth) - 1
    values = np.rint(np.clip(image_HW, 0, 1) * np.float32(top))
    if bit_depth == 8:
        return np.asarray(values, dtype=np.uint8)
    return np.asarray(values, dtype=np.uint16)
