"""Bones and implants, as attenuation added to the soft tissue."""

import numpy as np

from prichexy.cohort.phantom.anatomy import APEX_Y
from prichexy.cohort.phantom.chest import Chest
from prichexy.cohort.phantom.projection import Field, Points, band, spline


def draw_bones(chest: Chest) -> Field:
    """Attenuation (nepers) of spine, ribs, clavicles, scapulae and humeri, (H, W)."""
    out = chest.projection.blank()
    _spine(chest, out)
    for side in (-1, 1):
        _scapula_and_arm(chest, out, side)
        for index in range(chest.anatomy.rib_pairs):
            _rib(chest, out, side, index)
        _clavicle(chest, out, side)
    return out


def _oval(centre: tuple[float, float], width: float, height: float, power: float = 2.0, turn: float = 0.0) -> Points:
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** (2 / power) * width / 2
    y = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** (2 / power) * height / 2
    cos, sin = np.cos(turn), np.sin(turn)
    return np.stack([centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos], axis=1)


def _spine(chest: Chest, out: Field) -> None:
    """Vertebral bodies with end plates and disc spaces, pedicles, transverse and spinous processes."""
    p, a = chest.projection, chest.anatomy
    density = a.bone_density
    y = -24.0
    while y < 24:
        step = 2.25 + 0.028 * (y + 12) * (y > -12)
        width = a.vertebra_width * (0.78 + 0.014 * (y + 24))
        x = float(chest.spine_x(np.array([y]))[0])
        lean = float(np.diff(chest.spine_x(np.array([y - 0.5, y + 0.5])))[0])
        body, inner = 0.84 * step, 0.84 * step - 0.28
        layers = [
            (_oval((x, y), width, body, 4, -lean), 0.18 * density),
            (_oval((x, y), width - 0.3, inner, 4, -lean), 0.115 * density),
        ]
        p.polygons(out, layers, 0.07)
        for side in (-1, 1):
            pedicle = (x + side * 0.3 * width, y - 0.12 * step)
            p.polygons(out, [(_oval(pedicle, 0.62, 0.95), 0.10 * density), (_oval(pedicle, 0.36, 0.66), 0.03)], 0.05)
            process = spline([(x + side * 0.4 * width, y - 0.2), (x + side * (0.5 * width + 1.3), y - 0.55)])
            p.tube(out, process, 0.8, 0.08 * density, 0.05 * density, 0.12, 0.1)
        p.polygons(out, [(_oval((x, y + 0.42 * step), 0.55, 1.3), 0.10 * density)], 0.08)
        y += step


def rib_axis(chest: Chest, side: int, index: int) -> tuple[Points, int]:
    """Centre line (K, 2) of a rib from the spine to its anterior end (cm), and where it turns forward at the wall.

    The rib runs on an ellipse around the thorax in a plane that falls from back to front: seen from the front its
    posterior part slopes down outwards, its anterior part down inwards.
    """
    a, q = chest.anatomy, chest.projection.acquisition
    spacing = a.lung_height / 9.6 * a.rib_spacing * (0.25 + 0.75 * q.breath)
    start = APEX_Y - 0.2 + index * spacing + a.rib_jitter[2 * index + (side > 0)]
    drop = a.rib_slope * (0.40 + 0.60 * min(1.0, index / 4.5)) * (1.1 - 0.2 * (q.breath - 0.9))
    end = np.radians(158 if index < 7 else 140 - 12 * (index - 7))
    theta = np.linspace(0.02, max(end, 1.1), 64)
    part = theta / np.pi
    y = (
        start
        + drop * ((1 - a.rib_bend) * part + a.rib_bend * part**2 * 1.4)
        - 0.75 * np.sin(np.minimum(theta * 1.8, np.pi))
    )
    lateral = float(chest.half_width(np.array([start + 0.42 * drop]))[0]) + 0.35
    if index == 0:
        lateral = min(lateral, 0.50 * a.half_width)
    x = side * (1.2 + (lateral - 1.2) * np.sin(theta) ** 0.92)
    swing = np.array([chest.projection.swing(-0.32 * a.depth * np.cos(t)) for t in theta])
    curve = a.scoliosis * np.sin(y * 0.16 + a.scoliosis_phase) * np.clip(1 - part * 1.6, 0, 1)
    return np.stack([x + swing + curve, y], axis=1), int(np.searchsorted(theta, np.pi / 2))


def _rib(chest: Chest, out: Field, side: int, index: int) -> None:
    p, a = chest.projection, chest.anatomy
    axis, turn = rib_axis(chest, side, index)
    width = a.rib_width * (0.86 if index in (0, 11, 12) else 1.0)
    density = a.bone_density
    back, front = axis[: turn + 2], axis[turn - 1 :]
    broad = width * np.linspace(0.92, 1.0, len(back))
    fade = (side * 0.6, side * 4.2)  # behind the spine's processes
    p.tube(out, back, broad, 0.235 * density, 0.125 * density, 0.12, 0.04, fade)
    if len(front) > 6:
        flare = width * np.linspace(1.0, 1.22, len(front))
        end = float(front[-1, 0])
        p.tube(
            out, front, flare, 0.165 * density, 0.095 * density, 0.12, 0.06, fade=(end - side * 0.6, end + side * 2.2)
        )
        if a.age > 45 and 0 < index < 8:  # calcified costal cartilage
            speck = (end - side * 0.5, float(front[-1, 1]) + 0.25)
            p.polygons(out, [(_oval(speck, 1.5, 0.9, 2, 0.4 * side), 0.1 * min(2.0, (a.age - 45) / 20))], 0.14)


def _clavicle(chest: Chest, out: Field, side: int) -> None:
    p, a, q = chest.projection, chest.anatomy, chest.projection.acquisition
    swing = p.swing(0.34 * a.depth)
    rise = -7.4 - (a.shoulder_y - 0.6 * q.shrug - 0.55 * a.clavicle_rise)
    inner, outer = (side * 1.9 + swing, -7.2), (side * (a.shoulder_x - 1.6) + 0.3 * swing, -7.4 - rise)
    points = [
        inner,
        (side * 4.2 + swing, -7.75 - 0.3 * rise - 0.25 * a.clavicle_bow),
        (side * 8.0 + 0.7 * swing, -7.8 - 0.72 * rise - 0.5 * a.clavicle_bow),
        (side * (0.5 * a.shoulder_x + 3.4), -7.6 - 0.95 * rise + 0.1 * a.clavicle_bow),
        outer,
    ]
    axis = spline(points)
    part = np.linspace(0, 1, len(axis))
    width = (
        a.clavicle_width
        * (0.82 + 0.75 * np.exp(-part / 0.08) + 0.25 * part**2)
        * np.sqrt(np.clip((1.02 - part) / 0.06, 0.05, 1))
    )
    p.tube(out, axis, width, 0.31 * a.bone_density, 0.18 * a.bone_density, 0.16, 0.05)


def _scapula_and_arm(chest: Chest, out: Field, side: int) -> None:
    p, a, q = chest.projection, chest.anatomy, chest.projection.acquisition
    density = a.bone_density
    inward = 1.9 if q.view == "AP" else 0.4  # the shoulders are rolled forward for a PA film
    joint = np.array([side * a.shoulder_x, a.shoulder_y - 0.6 * q.shrug])
    glenoid = joint + np.array([-side * 2.3, 0.7])

    def at(dx: float, dy: float) -> tuple[float, float]:
        return float(glenoid[0] - side * (dx + inward * 0.25)), float(glenoid[1] + dy)

    t = a.scapula_tilt
    tip = at(1.6 + inward - 4 * t, 12.6)
    blade = spline(
        [
            at(0.2, -1.4),
            at(2.4 + inward, -2.9),
            at(4.4 + inward, 1.2),
            at(4.3 + inward - 1.5 * t, 7.0),
            tip,
            at(0.7, 6.2),
            at(0.1, 1.6),
        ],
        closed=True,
    )
    shrunk = blade.mean(axis=0) + (blade - blade.mean(axis=0)) * 0.955
    p.polygons(out, [(blade, 0.12 * density), (shrunk, 0.065 * density)], 0.06)
    p.tube(out, spline([at(0.2, 1.8), at(0.9, 6.0), tip]), 0.7, 0.16 * density, 0.1 * density, 0.14, 0.07)
    ridge = spline(
        [
            at(4.3 + inward, 0.4),
            at(2.2, -1.3),
            (float(joint[0] - side * 1.2), float(joint[1] - 2.5)),
            (float(joint[0] + side * 1.0), float(joint[1] - 2.1)),
        ]
    )
    p.tube(out, ridge, np.linspace(0.5, 1.9, len(ridge)), 0.22 * density, 0.13 * density, 0.13, 0.06)
    p.polygons(out, [(_oval(at(0.9, -1.2), 1.5, 1.9, 2, 0.5 * side), 0.2 * density)], 0.12)
    direction = np.array([side * np.sin(q.arm_angle), np.cos(q.arm_angle)])
    shaft = np.stack([joint + direction * s for s in np.linspace(1.9, 34, 40)])
    reach = np.linspace(0, 1, 40)
    p.tube(out, shaft, 2.15 + 0.9 * np.exp(-reach / 0.05), 0.34 * density, 0.17 * density, 0.34, 0.06)
    head = (float(joint[0] - side * 0.35), float(joint[1] + 0.75))
    p.polygons(
        out,
        [
            (_oval(head, 4.4, 4.6, 2.2, 0.3 * side), 0.25 * density),
            (_oval(head, 4.05, 4.25, 2.2, 0.3 * side), 0.19 * density),
        ],
        0.08,
    )


def draw_implants(chest: Chest) -> Field:
    """Attenuation (nepers) of pacemaker, port, sternal wires and granuloma, (H, W)."""
    p, a = chest.projection, chest.anatomy
    out = p.blank()
    swing = p.swing(0.3 * a.depth)
    box = chest.heart_box()
    if a.pacemaker:
        centre = (9.3, p.level(-4.6))
        case = _oval(centre, 4.6, 4.1, 3.2, 0.3)
        p.polygons(
            out,
            [(case, 1.5), (_oval(centre, 4.2, 3.7, 3.2, 0.3), 1.15), (_oval((9.5, centre[1] + 0.4), 2.6, 2.0, 4), 1.6)],
            0.03,
        )
        start = [(8.6, centre[1] - 1.9), (6.0, -8.6), (1.0, -8.0), (-1.7, -3.5)]
        ventricle = [(-2.2, box[1] + 3.0), (-1.3, box[3] - 3.2), (1.6, box[3] - 1.5), (0.62 * box[2], box[3] - 2.2)]
        atrium = [(-2.0, box[1] + 3.5), (-1.3, box[1] + 5.6), (-2.2, box[1] + 6.0), (0.7 * box[0], box[1] + 4.6)]
        for path in (ventricle, atrium):
            lead = spline([*start, *path])
            p.polygons(out, [(band(lead, np.full(len(lead), 0.075)), 0.6)], 0.02)
            p.polygons(out, [(band(lead[-10:], np.full(10, 0.12)), 0.7)], 0.02)
    if a.port:
        centre = (-8.6, p.level(-3.6))
        p.polygons(
            out,
            [(_oval(centre, 2.7, 2.9, 2.6), 0.65), (_oval(centre, 1.7, 1.7), 1.25), (_oval(centre, 1.1, 1.1), 0.8)],
            0.03,
        )
        line = spline([(-8.2, centre[1] - 1.3), (-6.4, -9.6), (-3.4, -9.3), (-2.3, -4.5), (-2.2, p.level(2.6))])
        p.polygons(out, [(band(line, np.full(len(line), 0.13)), 0.4)], 0.02)
    for index in range(a.sternal_wires):
        y = p.level(-5.6 + index * 2.6)
        x = swing + 0.12 * np.sin(7.0 * index)
        loop = spline(
            [
                (x - 0.75, y - 0.3),
                (x, y - 0.5),
                (x + 0.8, y - 0.2),
                (x + 0.25, y + 0.35),
                (x - 0.3, y + 0.2),
                (x + 0.1, y + 0.75),
            ]
        )
        p.polygons(out, [(band(loop, np.full(len(loop), 0.055)), 1.5)], 0.0)
    if a.granuloma:
        side, u, v = a.granuloma
        p.polygons(out, [(_oval(chest.place(int(side), u, v), 0.55, 0.5), 0.4)], 0.05)
    return out
