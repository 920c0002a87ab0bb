"""From centimetres in the patient to pixels: the study's pose, and antialiased primitives that add attenuation.

Shape legend: H image height, W image width, K points.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from prichexy.cohort.phantom.anatomy import APEX_Y, Acquisition, Anatomy

Field = NDArray[np.float32]
Points = NDArray[np.float64]

_SHIFT = 4  # fractional bits of OpenCV's fixed-point vertices
_ONE = 1 << _SHIFT


class Projection:
    """The pose of one study: maps patient coordinates (cm) to pixels, and holds the grid of their inverse.

    Attributes:
        x_HW: patient x (cm) of each pixel's centre, float32.
        y_HW: patient y (cm) of each pixel's centre, float32.
        pixel_cm: edge of a pixel in the patient's plane, cm.
    """

    def __init__(self, anatomy: Anatomy, acquisition: Acquisition, size: tuple[int, int]) -> None:
        self.anatomy = anatomy
        self.acquisition = acquisition
        self.height, self.width = size
        self.pixel_cm = acquisition.field_cm / min(size) / acquisition.magnification
        scale = 1.0 / self.pixel_cm
        cos, sin = np.cos(acquisition.tilt), np.sin(acquisition.tilt)
        self._matrix = np.array([[cos, -sin], [sin, cos]]) * scale
        middle = APEX_Y + 0.54 * anatomy.lung_height * min(acquisition.breath, 1.0)
        centre = np.array([acquisition.shift_x, middle + acquisition.shift_y])
        self._offset = np.array([self.width / 2, self.height / 2]) - self._matrix @ centre
        inverse = np.linalg.inv(self._matrix)
        cols = np.arange(self.width, dtype=np.float64) + 0.5 - self._offset[0]
        rows = np.arange(self.height, dtype=np.float64) + 0.5 - self._offset[1]
        self.x_HW: Field = (inverse[0, 0] * cols[None, :] + inverse[0, 1] * rows[:, None]).astype(np.float32)
        self.y_HW: Field = (inverse[1, 0] * cols[None, :] + inverse[1, 1] * rows[:, None]).astype(np.float32)
        self._turn = float(np.sin(acquisition.turn))

    def swing(self, z: float) -> float:
        """How far (cm) the patient's rotation moves a structure at depth ``z`` (cm, positive towards the sternum)."""
        return self._turn * z

    def pixels(self, points: Points) -> Points:
        """Pixel coordinates (..., 2) of patient points (..., 2) in cm."""
        return np.asarray(points @ self._matrix.T + self._offset, dtype=np.float64)

    def level(self, y: float) -> float:
        """The level (cm) at which a structure of the chest at ``y`` lies with this study's breath."""
        return APEX_Y + (y - APEX_Y) * self.acquisition.breath

    def blank(self) -> Field:
        """A field of zeros (H, W)."""
        return np.zeros((self.height, self.width), np.float32)

    def lookup(self, argument: Field, low: float, high: float, curve: Callable[[Points], Points]) -> Field:
        """``curve(argument)`` by a table of 4096 entries over [low, high] cm, values outside clipped to its ends."""
        table = curve(np.linspace(low, high, 4096)).astype(np.float32)
        index = (argument - np.float32(low)) * np.float32(4095 / (high - low))
        return np.asarray(table[np.clip(index, 0, 4095).astype(np.int16)])

    def ellipsoid(
        self,
        into: Field | None,
        centre: tuple[float, float],
        radii: tuple[float, float, float],
        angle: float = 0.0,
        power: float = 2.0,
        cubed: bool = False,
    ) -> Field:
        """Thickness (cm) of an ellipsoid along the beam, (H, W).

        Args:
            into: a field to which the thickness is added, or None for a new one.
            centre: x and y, cm.
            radii: the two in the image plane and the one along the beam, cm.
            angle: rotation of the first axis, radians.
            power: 2 for an ellipsoid, more for a flatter one.
            cubed: adds the thickness's cube: the cube root of such a sum is the smooth union of its parts.
        """
        out = self.blank() if into is None else into
        reach = max(radii[0], radii[1]) * 1.02
        rows, cols = self.window(
            np.array(
                [
                    [centre[0] - reach, centre[1] - reach],
                    [centre[0] + reach, centre[1] + reach],
                    [centre[0] - reach, centre[1] + reach],
                    [centre[0] + reach, centre[1] - reach],
                ]
            ),
            2,
        )
        dx, dy = self.x_HW[rows, cols] - np.float32(centre[0]), self.y_HW[rows, cols] - np.float32(centre[1])
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        u = (dx * cos + dy * sin) / np.float32(radii[0])
        v = (dy * cos - dx * sin) / np.float32(radii[1])
        inside = u * u + v * v if power == 2.0 else np.abs(u) ** np.float32(power) + np.abs(v) ** np.float32(power)
        thickness = np.float32(2 * radii[2]) * np.sqrt(np.maximum(1 - inside, 0))
        out[rows, cols] += thickness * thickness * thickness if cubed else thickness
        return out

    def window(self, points: Points, margin: int) -> tuple[slice, slice]:
        """Row and column slices of the pixels around patient points (K, 2); empty where they lie outside."""
        pixels = self.pixels(points)
        x0, y0 = np.floor(pixels.min(axis=0)).astype(int) - margin
        x1, y1 = np.ceil(pixels.max(axis=0)).astype(int) + margin
        rows = slice(int(np.clip(y0, 0, self.height)), int(np.clip(y1, 0, self.height)))
        return rows, slice(int(np.clip(x0, 0, self.width)), int(np.clip(x1, 0, self.width)))

    def polygons(
        self,
        into: Field,
        layers: list[tuple[Points, float]],
        blur_cm: float = 0.0,
        fade: tuple[float, float] | None = None,
    ) -> None:
        """Adds filled shapes: each later layer replaces the one below, then the stack is added at once.

        Args:
            into: the field (H, W) that receives the attenuation.
            layers: outlines (K, 2) in cm with the attenuation each shows.
            blur_cm: Gaussian softening, standard deviation in cm.
            fade: patient x (cm) at which the shape vanishes, and at which it is whole.
        """
        top = max(value for _, value in layers)
        margin = 3 + int(np.ceil(3 * blur_cm / self.pixel_cm))
        rows, cols = self.window(np.concatenate([outline for outline, _ in layers]), margin)
        if rows.start >= rows.stop or cols.start >= cols.stop or top <= 0:
            return
        scratch = np.zeros((rows.stop - rows.start, cols.stop - cols.start), np.uint8)
        corner = np.array([cols.start + 0.5, rows.start + 0.5])
        for outline, value in layers:
            vertices = np.rint((self.pixels(outline) - corner) * _ONE).astype(np.int32)
            cv2.fillPoly(scratch, [vertices], round(255 * value / top), cv2.LINE_AA, _SHIFT)
        stack = scratch.astype(np.float32) * np.float32(top / 255)
        if blur_cm > 0.2 * self.pixel_cm:
            stack = cv2.GaussianBlur(stack, (0, 0), blur_cm / self.pixel_cm)
        if fade is not None:
            stack *= np.clip((self.x_HW[rows, cols] - np.float32(fade[0])) / np.float32(fade[1] - fade[0]), 0, 1)
        into[rows, cols] += stack

    def tube(
        self,
        into: Field,
        axis: Points,
        width: float | Points,
        rim: float,
        core: float,
        cortex: float = 0.13,
        blur_cm: float = 0.05,
        fade: tuple[float, float] | None = None,
    ) -> None:
        """Adds a bone seen from the side: bright cortical edges ``rim`` around a fainter ``core``.

        Args:
            into: the field (H, W) that receives the attenuation.
            axis: centre line (K, 2), cm.
            width: full width, cm, a number or one a point.
            rim: attenuation at the cortical edge.
            core: attenuation in the middle.
            cortex: thickness of the cortex, cm.
            blur_cm: softening, cm.
            fade: see `polygons`.
        """
        half = np.broadcast_to(np.asarray(width, dtype=np.float64) / 2, (len(axis),))
        inner = np.maximum(half - cortex, 0.02)
        layers = [
            (band(axis, half), rim),
            (band(axis, inner), 0.45 * rim + 0.55 * core),
            (band(axis, np.maximum(inner - 0.7 * cortex, 0.01)), core),
        ]
        self.polygons(into, layers, blur_cm, fade)

    def strokes(self, canvas: NDArray[np.uint8], axes_KN2: Points, widths_K: Points, values_K: Points) -> None:
        """Draws K centre lines of N points onto an 8-bit canvas, in order, each replacing what it covers.

        A line thinner than a pixel is drawn one pixel wide and fainter, so that it weighs the same at any size.

        Args:
            canvas: (H, W), changed in place.
            axes_KN2: centre lines, cm.
            widths_K: widths, cm.
            values_K: values in [0, 1].
        """
        vertices = np.rint((self.pixels(axes_KN2) - 0.5) * _ONE).astype(np.int32)
        pixels = widths_K / self.pixel_cm
        levels = (255 * np.clip(values_K * np.minimum(1.0, pixels), 0, 1)).astype(int).tolist()
        thick = np.maximum(1, np.rint(pixels)).astype(int).tolist()
        for line, level, breadth in zip(vertices, levels, thick, strict=True):
            cv2.polylines(canvas, [line], False, level, breadth, cv2.LINE_AA, _SHIFT)


def band(axis: Points, half: Points) -> Points:
    """Outline (2K, 2) of a band of half-width ``half`` (K,) around a centre line (K, 2)."""
    tangent = np.gradient(axis, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    return np.concatenate([axis + normal * half[:, None], (axis - normal * half[:, None])[::-1]])


def spline(control: list[tuple[float, float]], points: int = 24, closed: bool = False) -> Points:
    """A smooth curve (about ``points`` a span) through control points: Catmull-Rom."""
    knots = np.asarray(control, dtype=np.float64)
    if closed:
        padded = np.concatenate([knots[-1:], knots, knots[:2]])
    else:
        padded = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    t = np.linspace(0, 1, points, endpoint=False)[:, None]
    spans = []
    for i in range(len(padded) - 3):
        a, b, c, d = padded[i : i + 4]
        spans.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.concatenate(spans if closed else [*spans, knots[-1:]])
