"""Soft tissue and air: how many centimetres of each the beam crosses at every pixel.

Shape legend: H image height, W image width.
"""

from dataclasses import dataclass

import numpy as np

from prichexy.cohort.phantom.anatomy import APEX_Y
from prichexy.cohort.phantom.projection import Field, Points, Projection, band, spline

# Lateral wall of the thorax: half-width relative to the widest level, by the level between apex (0) and dome (1).
_LEVELS = np.array([-0.02, 0.0, 0.02, 0.05, 0.1, 0.17, 0.26, 0.38, 0.52, 0.68, 0.85, 1.0, 1.15, 1.4])
_BELL = np.array([0.25, 0.36, 0.45, 0.53, 0.62, 0.70, 0.775, 0.84, 0.90, 0.955, 0.99, 1.0, 0.99, 0.97])
_BARREL = np.array([0.28, 0.40, 0.51, 0.62, 0.73, 0.82, 0.895, 0.95, 0.985, 1.0, 0.995, 0.975, 0.95, 0.93])


@dataclass(frozen=True)
class Changes:
    """How the findings change the chest as a whole (the identity by default).

    Attributes:
        heart: factor on the heart's transverse diameter.
        domes: cm by which the right and left dome sink (positive) or rise.
        flatten: 0 for normal domes, 1 for flat ones.
        density: factor on the lung's density.
        markings: factor on the vessels' strength.
        blur_vessels: standard deviation (cm) of the vessels' unsharpness.
    """

    heart: float = 1.0
    domes: tuple[float, float] = (0.0, 0.0)
    flatten: float = 0.0
    density: float = 1.0
    markings: float = 1.0
    blur_vessels: float = 0.0


class Chest:
    """The trunk of one study: thickness of body and lung, and the frame in which findings are placed.

    Attributes:
        body_HW: soft tissue and everything inside it, cm.
        lung_HW: lung along the beam, cm.
        air_HW: trachea, bronchi and bowel gas, cm.
    """

    def __init__(self, projection: Projection, changes: Changes) -> None:
        self.projection = projection
        self.anatomy = projection.anatomy
        self.changes = changes
        a, q = self.anatomy, projection.acquisition
        self._dome_base = APEX_Y + a.lung_height * q.breath
        self.cavity_depth = a.depth - 2 * (1.25 + 0.55 * (a.habitus + 0.9))
        self.heart_right, self.heart_left = self._heart_borders()
        self.x_HW = projection.x_HW - self._spine_field()
        self.body_HW = self._body()
        self.lung_HW = self._lungs()
        self.air_HW = self._airways_and_gas()

    # ---- the frame -------------------------------------------------------------------------------------------------

    def spine_x(self, y: Points) -> Points:
        """Lateral position (cm) of the spine at the levels ``y`` (cm)."""
        a = self.anatomy
        curve = a.scoliosis * np.sin(y * 0.16 + a.scoliosis_phase)
        return np.asarray(curve + self.projection.swing(-0.3 * a.depth), dtype=np.float64)

    def half_width(self, y: Points) -> Points:
        """Inner half-width (cm) of the thorax at the levels ``y`` (cm)."""
        a = self.anatomy
        level = (np.asarray(y, dtype=np.float64) - APEX_Y) / (self._dome_base - APEX_Y)
        shape = (1 - a.thorax_shape) * _BELL + a.thorax_shape * _BARREL
        fine = np.linspace(_LEVELS[0], _LEVELS[-1], 400)
        smooth = np.convolve(np.pad(np.interp(fine, _LEVELS, shape), 12, mode="edge"), np.ones(25) / 25, mode="valid")
        return np.asarray(a.half_width * np.interp(level, fine, smooth), dtype=np.float64)

    def dome_y(self, side: int) -> float:
        """Level (cm) of the summit of a hemidiaphragm; ``side`` +1 is the patient's left."""
        a = self.anatomy
        if side > 0:
            return self._dome_base + a.dome_left + self.changes.domes[1]
        return self._dome_base + a.dome_right + self.changes.domes[0]

    def place(self, side: int, u: float, v: float) -> tuple[float, float]:
        """Patient coordinates (cm) of a point of a lung: ``u`` 0 mediastinum .. 1 wall, ``v`` 0 apex .. 1 dome."""
        y = APEX_Y + v * (self.dome_y(side) - APEX_Y)
        outer = float(self.half_width(np.array([y]))[0])
        inner = self.anatomy.mediastinum
        return side * (inner + u * (outer - inner)) + float(self.spine_x(np.array([y]))[0]), y

    def side_mask(self, side: int) -> Field:
        """1 over one half of the chest, 0 over the other, with a soft border in the midline, (H, W)."""
        return np.asarray(np.clip(0.5 + np.float32(side) * self.x_HW, 0, 1), dtype=np.float32)

    # ---- tissue ----------------------------------------------------------------------------------------------------

    def _spine_field(self) -> Field:
        return self.projection.lookup(self.projection.y_HW, -40, 40, self.spine_x)

    def _body(self) -> Field:
        """Thickness of trunk, neck, shoulders, arms and breasts (cm), blended smoothly where they meet."""
        p, a, q = self.projection, self.anatomy, self.projection.acquisition
        wall = p.lookup(p.y_HW, -40, 40, lambda y: self.half_width(y) + a.wall + 0.5)
        depth = p.lookup(
            p.y_HW,
            -40,
            40,
            lambda y: (
                a.depth * np.clip(0.62 + 0.38 * np.tanh((y + 11.5) / 6.0), 0.0, 1)
                + 2.6 / (1 + np.exp((self._dome_base - 1.5 - y) / 1.2))
            ),  # the belly
        )
        reach = np.abs(p.x_HW) / wall
        total = (depth * np.sqrt(np.maximum(1 - reach**4, 0))) ** 3
        neck = (
            2
            * a.neck_radius
            * p.lookup(p.x_HW, -20, 20, lambda x: np.sqrt(np.maximum(1 - (x / a.neck_radius) ** 2, 0)))
        )
        total += (neck * p.lookup(p.y_HW, -40, 40, lambda y: 1 / (1 + np.exp((y + 6) / 2.2)))) ** 3
        shoulder_y = a.shoulder_y - q.shrug * 0.6
        for side in (-1.0, 1.0):
            joint = (side * a.shoulder_x, shoulder_y + 0.6)
            hand = (joint[0] + side * 40 * np.sin(q.arm_angle), joint[1] + 40 * np.cos(q.arm_angle))
            girth = 4.7 + 0.75 * (a.habitus + 0.4)
            total += self._capsule((side * 3.0, -12.6 + 0.4 * q.shrug), joint, 6.6, girth + 1.9) ** 3
            total += self._capsule(joint, hand, girth + 1.9, girth - 0.8) ** 3
        body = np.cbrt(total)
        for side in (-1, 1):
            if a.breast:
                centre = (side * 0.58 * a.half_width, p.level(a.breast_y))
                mound = p.ellipsoid(None, centre, (a.breast * 1.1, a.breast, 0.7 + 0.17 * a.breast))
                mound *= np.clip((p.y_HW - np.float32(centre[1] - a.breast)) / np.float32(2.0 * a.breast), 0, 1)
                body += np.float32(0.9) * mound
            else:
                p.ellipsoid(body, (side * 0.75 * a.half_width, -4.5), (6.0, 4.6, 0.8), angle=side * -0.5)
        return np.asarray(body, dtype=np.float32)

    def _capsule(self, start: tuple[float, float], stop: tuple[float, float], r0: float, r1: float) -> Field:
        """Thickness (cm) of a limb with a round section between two points, radii ``r0`` and ``r1`` cm."""
        p = self.projection
        axis = np.array(stop) - np.array(start)
        square = float(axis @ axis)
        dx, dy = p.x_HW - np.float32(start[0]), p.y_HW - np.float32(start[1])
        t = np.clip((dx * np.float32(axis[0]) + dy * np.float32(axis[1])) / np.float32(square), 0, 1)
        distance2 = (dx - t * np.float32(axis[0])) ** 2 + (dy - t * np.float32(axis[1])) ** 2
        radius = np.float32(r0) + t * np.float32(r1 - r0)
        return np.asarray(2 * np.sqrt(np.maximum(radius * radius - distance2, 0)), dtype=np.float32)

    def _heart_borders(self) -> tuple[float, float]:
        a, q = self.anatomy, self.projection.acquisition
        width = a.heart_ratio * 2 * a.half_width * self.changes.heart
        width *= (1.07 if q.view == "AP" else 1.0) * (1 + 0.35 * (1 - min(q.breath, 1.0)))
        right = 0.31 * width * a.atrium / 4.0 - 0.6 * self.projection.swing(0.12 * a.depth)
        return -right, width - right

    def heart_box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the heart (cm)."""
        level = self._heart_level()
        return self.heart_right, level - 5.5, self.heart_left, level + 4.6

    def _heart_level(self) -> float:
        return 0.5 * (self.dome_y(-1) + self.dome_y(1)) - 3.7 * (0.5 + 0.5 * self.changes.heart)

    def _mediastinum(self) -> Field:
        """Thickness (cm) of spine, great vessels and heart."""
        p, a = self.projection, self.anatomy
        swing = p.swing(0.12 * a.depth)
        level = self._heart_level()
        size = self.changes.heart
        half = p.lookup(
            p.y_HW, -40, 40, lambda y: a.mediastinum * (1 + 0.018 * np.clip(-y - 3, 0, 9)) - 0.035 * np.clip(y, -2, 10)
        )
        column = np.abs(self.x_HW - np.float32(0.15)) / half
        upper = p.lookup(p.y_HW, -40, 40, lambda y: 12.0 * np.clip((5.5 - y) / 8, 0, 1))
        out = (upper * np.sqrt(np.maximum(1 - column * column, 0))) ** 3
        out += (np.float32(12) * np.maximum(1 - (column / np.float32(1.5)) ** 2, 0) ** np.float32(1.5)) ** 3
        width = self.heart_left - self.heart_right
        p.ellipsoid(out, (self.heart_right + 0.46 * width, level - 1.2), (0.44 * width, 5.4, 4.2), 0.45, cubed=True)
        tilt = float(np.clip(a.heart_tilt + 0.25 * (1 - p.acquisition.breath) * -2, 0.2, 0.95))
        major, minor = 6.6 * a.heart_length * (0.4 + 0.6 * size), 4.7 * (0.55 + 0.45 * size)
        extent = float(np.hypot(major * np.cos(tilt), minor * np.sin(tilt)))
        p.ellipsoid(out, (self.heart_left - extent, level), (major, minor, 5.2), tilt, power=2.2, cubed=True)
        p.ellipsoid(
            out, (self.heart_right + 0.42 * width, level - 0.8), (0.42 * width, 0.5 * width, 4.6), -0.06, cubed=True
        )
        p.ellipsoid(
            out,
            (0.9 + a.pulmonary_artery * 0.4 + swing, level - 5.4),
            (2.5 + 0.25 * a.pulmonary_artery, 4.6, 3.6),
            0.35,
            cubed=True,
        )
        p.ellipsoid(out, (-1.1 + swing, -1.6), (2.2, 7.5, 4.0), 0.03, cubed=True)
        p.ellipsoid(
            out, (1.55 + 0.2 * a.knob, p.level(-3.3)), (a.knob + 0.2, a.knob + 0.35, 3.4), power=2.2, cubed=True
        )
        down = [
            (1.5 + 0.25 * a.knob, -3.2),
            (1.9 + 0.7 * a.unfolding, 2.0),
            (1.7 + 0.8 * a.unfolding, 7.0),
            (1.0, 15.0),
        ]
        union = np.cbrt(out)
        p.polygons(union, [(band(spline(down), np.full(73, 1.25)), 1.6)], 0.12)
        return np.asarray(union, dtype=np.float32)

    def _lungs(self) -> Field:
        """Thickness (cm) of lung: the cavity without mediastinum, below the apices and above the diaphragm."""
        p, a = self.projection, self.anatomy
        half = p.lookup(p.y_HW, -40, 40, self.half_width)
        reach = self.x_HW / half
        cavity = np.float32(self.cavity_depth) * np.power(np.maximum(1 - np.abs(reach) ** 2.6, 0), np.float32(0.48))
        cavity *= p.lookup(p.y_HW, -40, 40, lambda y: np.clip(0.45 + (y - APEX_Y) / 12, 0.0, 1.0))
        off = np.abs(self.x_HW) - np.float32(0.36 * a.half_width)
        top = p.y_HW - np.float32(APEX_Y) - np.float32(0.085) * off * off
        cavity *= np.sqrt(np.clip(top / np.float32(2.6), 0, 1))
        lung = np.maximum(cavity - self._mediastinum(), 0)
        left = np.clip(np.float32(0.5) + self.x_HW / np.float32(5), 0, 1)  # the domes meet smoothly behind the heart
        lung *= self._above_dome(-1) * (1 - left) + self._above_dome(1) * left
        return np.asarray(lung, dtype=np.float32)

    def _above_dome(self, side: int) -> Field:
        """1 above a hemidiaphragm, falling quickly below its summit line, as the dome curves away from the beam."""
        p, a = self.projection, self.anatomy
        bulge = a.dome_curve * (1 - 0.75 * self.changes.flatten)
        summit, width = side * 0.44 * a.half_width, 0.56 * a.half_width

        def sink(x: Points) -> Points:
            outward = side * (x - summit) / width
            lateral = 5.2 * np.clip(outward, 0, None) ** 2.5
            return np.asarray(
                bulge * np.where(outward > 0, lateral, 2.0 * np.clip(-outward, 0, 1.2) ** 2), dtype=np.float64
            )

        below = p.y_HW - np.float32(self.dome_y(side)) - p.lookup(p.x_HW, -25, 25, sink)
        return np.asarray(1 - np.sqrt(np.clip(below / np.float32(2.4), 0, 1)), dtype=np.float32)

    def _airways_and_gas(self) -> Field:
        """Thickness (cm) of air in trachea, main bronchi, stomach and colon."""
        p, a = self.projection, self.anatomy
        air = p.blank()
        x = a.trachea_shift * -1 + p.swing(0.05 * a.depth)
        carina = p.level(0.0)
        trachea = spline([(0.0, -22), (0.3 * x, -13), (x, -6), (x, carina - 0.2)])
        p.polygons(
            air,
            [(band(trachea, np.full(len(trachea), 0.95)), 0.9), (band(trachea, np.full(len(trachea), 0.62)), 2.0)],
            0.1,
        )
        for reach, drop, width in ((-3.2, 3.4, 0.72), (4.3, 2.9, 0.6)):
            bronchus = spline([(x, carina - 0.6), (x + 0.5 * reach, carina + 0.42 * drop), (x + reach, carina + drop)])
            p.polygons(air, [(band(bronchus, np.linspace(width, 0.6 * width, len(bronchus))), 0.9)], 0.1)
        if a.gas:
            centre = (a.gas_x, self.dome_y(1) + 0.55 * a.gas + 1.1)
            bubble = p.ellipsoid(None, centre, (1.35 * a.gas, 0.85 * a.gas, 0.7 * a.gas), power=2.2)
            bubble *= np.clip((np.float32(centre[1] + 0.35 * a.gas) - p.y_HW) / np.float32(0.25), 0, 1)
            air += bubble
        return air
