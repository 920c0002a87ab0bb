"""The pulmonary vessels and the lung's fine texture."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from prichexy.cohort.phantom.anatomy import Stream, generator
from prichexy.cohort.phantom.chest import Chest
from prichexy.cohort.phantom.projection import Field, Points


@dataclass(frozen=True)
class _Tree:
    """Vessels as centre lines in the mean adult's frame: K vessels of nine points."""

    axes: Points  # (K, 9, 2)
    widths: Points  # (K,), cm
    depths: NDArray[np.int64]  # (K,), 0 at the hilum


def draw_vessels(chest: Chest, seed: int, patient: int) -> Field:
    """Thickness (cm) of blood in hilar and lung vessels, (H, W): a tree a patient keeps for life, moved by breath."""
    p, a = chest.projection, chest.anatomy
    tree = _tree(seed, patient, a.hilum_y)
    axes = _breathe(chest, tree.axes)
    order = np.argsort(tree.widths)
    top = p.blank()
    for chosen in (order[tree.depths[order] >= 2], order[tree.depths[order] < 2]):  # twigs, then stems over them
        canvas = np.zeros((p.height, p.width), np.uint8)
        values = np.minimum(0.85, 0.10 + 0.9 * tree.widths[chosen])
        p.strokes(canvas, axes[chosen, :5], 0.82 * tree.widths[chosen], values)
        p.strokes(canvas, axes[chosen, 4:], 0.70 * tree.widths[chosen], 0.95 * values)
        top += canvas.astype(np.float32) * np.float32(1 / 255)
    top = cv2.GaussianBlur(top, (0, 0), max(0.35, (0.05 + chest.changes.blur_vessels) / p.pixel_cm))
    room = np.clip(chest.lung_HW / np.float32(7.5), 0, 1)
    return np.asarray(top * room * np.float32(2.15 * a.markings * chest.changes.markings), dtype=np.float32)


def _breathe(chest: Chest, axes: Points) -> Points:
    stretch = chest.anatomy.lung_height / 23 * chest.projection.acquisition.breath
    moved = axes.copy()
    y = axes[..., 1]
    moved[..., 1] = np.where(y > 0, y * (1.35 * stretch - 0.35), y * (0.6 + 0.4 * stretch))
    moved[..., 0] *= chest.anatomy.half_width / 13.6
    return moved


@lru_cache(maxsize=64)
def _tree(seed: int, patient: int, hilum_y: float) -> _Tree:
    """A patient's vessels. A daughter has about 0.75 of its mother's width (Murray's law says 2^(-1/3) = 0.79)."""
    rng = generator(seed, patient, None, Stream.VESSELS)
    headings = np.tile([-1.35, -1.0, -0.62, -0.2, 0.18, 0.5, 0.82, 1.1, 1.36], 2)
    side = np.repeat([-1.0, 1.0], 9)
    root = np.stack([side * np.where(side < 0, 3.0, 3.4), hilum_y + np.where(side < 0, 0.6, -0.3)], axis=1)
    angle = headings + rng.normal(0, 0.1, 18)
    begin = root + np.stack([side * rng.normal(0.2, 0.25, 18), 1.6 * np.sin(angle) + rng.normal(0, 0.25, 18)], axis=1)
    width = rng.uniform(0.55, 0.85, 18) * np.where(headings > 0.7, 1.15, np.where(headings < -0.5, 0.75, 0.85))
    length = rng.uniform(3.0, 4.4, 18)
    depth = np.zeros(18, np.int64)
    part = np.linspace(0, 1, 9)
    hilum = root[::9, None, :] + np.stack(
        [np.outer([-1, 1], np.linspace(-0.3, 0.7, 9)), np.tile(np.linspace(-1.5, 3.4, 9), (2, 1))], axis=2
    )
    dots = np.repeat(root[::9], 9, axis=0) + rng.normal(0, 1.0, (18, 2)) * np.array([1.3, 2.0])  # vessels seen end on
    dots += np.stack([side * 1.6, np.full(18, 0.5)], axis=1)
    axes = [hilum, np.repeat(dots[:, None, :], 9, axis=1) + np.outer(part, [0.03, 0.03])]
    widths, depths = [np.full(2, 0.62), rng.uniform(0.25, 0.5, 18)], [np.zeros(2, np.int64), np.full(18, 4)]
    while len(begin):
        count = len(begin)
        bend = rng.normal(0, 0.26, count)
        heading = angle[:, None] + bend[:, None] * part + 0.05 * np.sin(part * 6 + angle[:, None])
        step = length[:, None] / 8
        axis = begin[:, None, :] + np.stack(
            [side[:, None] * np.cumsum(np.cos(heading) * step, axis=1), np.cumsum(np.sin(heading) * step, axis=1)],
            axis=2,
        )
        axes.append(axis)
        widths.append(width)
        depths.append(depth)
        on = (depth < 5) & (width >= 0.12)
        fork = np.flatnonzero(on)
        off = np.flatnonzero(on & (depth < 3) & (rng.random(count) < 0.75))
        spread = rng.uniform(0.26, 0.48, len(fork))
        turns = [sign * spread * rng.uniform(0.6, 1.3, len(fork)) for sign in (-1.0, 1.0)]
        sideways = rng.choice([-1.0, 1.0], len(off)) * rng.uniform(0.6, 0.95, len(off))
        mothers = np.concatenate([fork, fork, off])
        begin = np.concatenate([axis[fork, -1], axis[fork, -1], axis[off, 4]])
        angle = np.concatenate(
            [(angle + bend)[fork] + turns[0], (angle + bend)[fork] + turns[1], angle[off] + sideways]
        )
        thin = np.concatenate([rng.uniform(0.68, 0.8, 2 * len(fork)), np.full(len(off), 0.5)])
        short = np.concatenate([rng.uniform(0.7, 0.88, 2 * len(fork)), np.full(len(off), 0.6)])
        width, length, side = width[mothers] * thin, length[mothers] * short, side[mothers]
        depth = depth[mothers] + np.repeat([1, 2], [2 * len(fork), len(off)])
    return _Tree(np.concatenate(axes), np.concatenate(widths), np.concatenate(depths))


def cloud(chest: Chest, rng: np.random.Generator, scale_cm: float) -> Field:
    """Smooth random field (H, W), mean 0 and deviation near 1, with blotches of about ``scale_cm``.

    It is drawn on a lattice of the patient's plane and interpolated: its place in the chest doesn't depend on pixels.
    """
    p = chest.projection
    cells = max(8, int(np.ceil(140 / scale_cm)))
    lattice = cv2.GaussianBlur(rng.standard_normal((cells, cells)).astype(np.float32), (0, 0), 1.1)
    lattice *= np.float32(1 / 0.256)  # the deviation of white noise after that blur: 1 / (2 sqrt(pi) 1.1)
    step = np.float32((cells - 1) / 70)
    cos, sin = np.float32(np.cos(0.6)), np.float32(np.sin(0.6))  # askew, so that no grain follows the pixel rows
    u = (p.x_HW * cos - p.y_HW * sin + np.float32(35)) * step
    v = (p.x_HW * sin + p.y_HW * cos + np.float32(35)) * step
    return np.asarray(cv2.remap(lattice, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT), dtype=np.float32)


def draw_texture(chest: Chest, seed: int, patient: int) -> Field:
    """Fine lung structure (H, W), cm of tissue: unresolved small vessels and septa, a patient's own."""
    rng = generator(seed, patient, None, Stream.TEXTURE)
    fine = sum(
        (cloud(chest, rng, scale) * weight for scale, weight in ((0.3, 0.035), (0.6, 0.05), (1.3, 0.06))),
        chest.projection.blank(),
    )
    return np.asarray(fine * np.sqrt(chest.lung_HW / np.float32(10)), dtype=np.float32)
