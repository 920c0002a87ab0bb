"""What lies on and in a bedside patient: electrodes with their cables, an endotracheal tube."""

import numpy as np

from prichexy.cohort.phantom.anatomy import Stream, generator
from prichexy.cohort.phantom.chest import Chest
from prichexy.cohort.phantom.projection import Field, Points, band, spline


def draw_devices(chest: Chest, seed: int, patient: int, study: int) -> Field:
    """Attenuation (nepers) of the study's electrodes, cables and tube, (H, W)."""
    p, q = chest.projection, chest.projection.acquisition
    out = p.blank()
    rng = generator(seed, patient, study, Stream.DEVICES)
    spots = [(-9.0, -6.5), (9.5, -6.0), (10.5, 9.0), (-10.0, 10.0)]
    leave = rng.uniform(-16, 16)
    for x, y in spots[: q.electrodes]:
        x, y = x + rng.normal(0, 1.2), y + rng.normal(0, 1.2)
        disc, snap = _disc(x, y, 0.75), _disc(x, y, 0.32)
        p.polygons(out, [(disc, 0.22), (snap, 0.9)], 0.03)
        cable = spline(
            [
                (x, y),
                (x + rng.normal(0, 1.5), y + 4),
                (0.5 * x + rng.normal(0, 3), y + 9 + rng.normal(0, 2)),
                (leave + rng.normal(0, 1), 22),
                (leave, 30),
            ]
        )
        p.polygons(out, [(band(cable, np.full(len(cable), 0.07)), 0.28)], 0.02)
    if q.tube:
        tip = p.level(-3.5) + rng.normal(0, 1.0)
        wall = spline([(0.4, -24), (0.3, -14), (0.0, -8), (-0.2, tip)])
        p.polygons(
            out, [(band(wall, np.full(len(wall), 0.5)), 0.13), (band(wall, np.full(len(wall), 0.36)), 0.03)], 0.02
        )
        p.polygons(out, [(band(wall + np.array([0.3, 0.0]), np.full(len(wall), 0.05)), 0.5)], 0.0)
    return out


def _disc(x: float, y: float, radius: float) -> Points:
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)
