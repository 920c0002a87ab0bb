"""The 14 findings of ChestX-ray14: how often, where, and what each adds to the picture.

Shape legend: H image height, W image width.
"""

from dataclasses import dataclass

import numpy as np

from prichexy.cohort.phantom.anatomy import Stream, generator
from prichexy.cohort.phantom.chest import Changes, Chest
from prichexy.cohort.phantom.projection import Field, Points, band, spline
from prichexy.cohort.phantom.vessels import cloud
from prichexy.findings import FINDINGS

# Share of ChestX-ray14's 112,120 images with each finding (the published label file, rounded); those under 2 %
# are raised to 2 % so that a cohort of a few hundred images holds some of each.
_RATES = (0.103, 0.030, 0.119, 0.150, 0.052, 0.056, 0.020, 0.047, 0.042, 0.021, 0.022, 0.020, 0.030, 0.020)
PREVALENCE = dict(zip(FINDINGS, _RATES, strict=True))

# Chance that a finding is still there in the patient's next study: chronic ones stay, acute ones clear.
_STAYS = (0.35, 0.95, 0.50, 0.40, 0.85, 0.90, 0.30, 0.40, 0.40, 0.40, 0.97, 0.97, 0.92, 0.97)
PERSISTENCE = dict(zip(FINDINGS, _STAYS, strict=True))


@dataclass(frozen=True)
class Lesion:
    """One drawn finding: a side (+1 is the patient's left, 0 both), a place in the lung, a size (cm) and a strength.

    ``u`` runs from mediastinum (0) to wall (1), ``v`` from apex (0) to diaphragm (1); ``strength`` is about 1.
    """

    name: str
    side: int
    u: float
    v: float
    size: float
    strength: float
    entropy: int


def course(seed: int, patient: int, age: int, studies: int) -> list[tuple[str, ...]]:
    """Findings of a patient's studies in order: a two-state chain each, at rest at its prevalence.

    A patient is either burdened or not, which makes findings cluster in patients as they do in a hospital.
    """
    rng = generator(seed, patient, None, Stream.COURSE)
    burdened = rng.random() < 0.62
    factor = (1.25 if burdened else 0.32) * (0.8 + 0.4 * (age > 50))
    present: set[str] = set()
    history: list[tuple[str, ...]] = []
    for index in range(studies):
        draws = dict(zip(FINDINGS, rng.random(len(FINDINGS)), strict=True))
        following: set[str] = set()
        for name in FINDINGS:
            rate = PREVALENCE[name] * factor
            fresh = rate if index == 0 else rate * (1 - PERSISTENCE[name]) / (1 - rate)
            if draws[name] < (PERSISTENCE[name] if name in present else fresh):
                following.add(name)
        present = following
        history.append(tuple(name for name in FINDINGS if name in present))
    return history


def lesions(seed: int, patient: int, study: int, names: tuple[str, ...]) -> list[Lesion]:
    """The lesions of a study: the place belongs to the patient, the strength to the study."""
    out: list[Lesion] = []
    for name in names:
        stream = Stream.FINDING + FINDINGS.index(name)
        fixed = generator(seed, patient, None, stream)
        now = generator(seed, patient, study, stream)
        strength = float(np.clip(now.normal(1.0, 0.15), 0.7, 1.4))
        side = int(fixed.choice([-1, 1]))
        u, v, size = _PLACES[name]
        entropy = int(fixed.integers(0, 2**31))
        count = int(fixed.integers(1, 4)) if name == "Nodule" else 1
        for index in range(count):
            here = side if index == 0 else int(fixed.choice([-1, 1]))
            where = float(fixed.uniform(*u)), float(fixed.uniform(*v))
            out.append(Lesion(name, here, *where, float(fixed.uniform(*size)), strength, entropy + index))
    return out


# Where a finding lies: range of u, of v, and of size in cm.
_PLACES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "Atelectasis": ((0.35, 0.55), (0.80, 0.9), (4.5, 7.0)),
    "Cardiomegaly": ((0, 0), (0, 0), (1.25, 1.45)),
    "Effusion": ((0.6, 0.6), (0.9, 0.9), (3.0, 8.0)),
    "Infiltration": ((0.3, 0.6), (0.35, 0.8), (3.5, 5.5)),
    "Mass": ((0.25, 0.7), (0.25, 0.75), (1.8, 3.0)),
    "Nodule": ((0.25, 0.8), (0.2, 0.85), (0.55, 1.1)),
    "Pneumonia": ((0.3, 0.6), (0.6, 0.85), (3.5, 5.0)),
    "Pneumothorax": ((0.8, 0.8), (0.1, 0.1), (1.6, 4.0)),
    "Consolidation": ((0.35, 0.6), (0.3, 0.8), (3.2, 4.6)),
    "Edema": ((0.2, 0.2), (0.5, 0.5), (6.0, 8.0)),
    "Emphysema": ((0.5, 0.5), (0.5, 0.5), (1.0, 1.5)),
    "Fibrosis": ((0.55, 0.7), (0.75, 0.9), (4.0, 6.0)),
    "Pleural_Thickening": ((0.97, 0.97), (0.4, 0.7), (0.7, 1.3)),
    "Hernia": ((0, 0), (0.86, 0.92), (2.8, 4.2)),
}


def changes(found: list[Lesion]) -> Changes:
    """What the findings do to the chest as a whole."""
    by_name = {lesion.name: lesion for lesion in found}
    heart, flatten, density, markings, blur = 1.0, 0.0, 1.0, 1.0, 0.0
    domes = [0.0, 0.0]
    if "Cardiomegaly" in by_name:
        heart = by_name["Cardiomegaly"].size
    if "Emphysema" in by_name:
        grade = by_name["Emphysema"].size
        heart *= 0.9
        flatten, density, markings = 0.75 * grade, 1 - 0.3 * grade, 1 - 0.4 * grade
        domes = [1.6 * grade, 1.6 * grade]
    if "Atelectasis" in by_name:
        domes[int(by_name["Atelectasis"].side > 0)] -= 1.3
    if "Edema" in by_name:
        heart, markings, blur = heart * 1.06, markings * 1.25, 0.09
    return Changes(heart, (domes[0], domes[1]), min(flatten, 1.0), max(density, 0.5), max(markings, 0.35), blur)


def draw_findings(chest: Chest, found: list[Lesion]) -> tuple[Field, Field]:
    """Tissue that the lesions put into the lung, and the share of lung left inflated with its markings.

    Returns:
        Tissue thickness in cm, (H, W), and a factor in [0, 1] on the vessels, (H, W): 0 where a pneumothorax is.
    """
    tissue, markings = chest.projection.blank(), chest.projection.blank() + 1
    for lesion in found:
        rng = np.random.default_rng(lesion.entropy)
        if lesion.name in ("Infiltration", "Pneumonia", "Consolidation"):
            tissue += _opacity(chest, lesion, rng)
        elif lesion.name in ("Mass", "Nodule"):
            tissue += _round(chest, lesion, rng)
        elif lesion.name == "Pneumothorax":
            _pneumothorax(chest, lesion, tissue, markings)
        elif lesion.name in _DRAW:
            tissue += _DRAW[lesion.name](chest, lesion, rng)
    return tissue, markings


def _ball(chest: Chest, centre: tuple[float, float], rx: float, ry: float) -> Field:
    """Gaussian bell (H, W) around a point, deviations in cm."""
    p = chest.projection
    u, v = (p.x_HW - np.float32(centre[0])) / np.float32(rx), (p.y_HW - np.float32(centre[1])) / np.float32(ry)
    return np.asarray(np.exp(np.float32(-0.5) * (u * u + v * v)), dtype=np.float32)


def _opacity(chest: Chest, lesion: Lesion, rng: np.random.Generator) -> Field:
    """Air spaces filled: patchy (infiltration), hazy (pneumonia), or dense with air bronchograms (consolidation)."""
    kind = lesion.name
    centre = chest.place(lesion.side, lesion.u, lesion.v)
    bell = _ball(chest, centre, 0.5 * lesion.size, 0.42 * lesion.size)
    rough, fine = (np.clip(cloud(chest, rng, scale), -1.4, 1.8) for scale in (1.5, 0.55))
    weights = {"Infiltration": (0.55, 0.35, 2.9), "Pneumonia": (0.35, 0.15, 3.9), "Consolidation": (0.3, 0.12, 6.5)}[
        kind
    ]
    patch = np.clip(bell * (1 + weights[0] * rough + weights[1] * fine) - 0.06, 0, 1)
    if kind == "Consolidation":
        patch = np.clip(patch * 1.7, 0, 1)
    if kind != "Infiltration":
        axis: Points = spline(
            [
                (centre[0] - lesion.side * 2.5, centre[1] - 1.8),
                (centre[0], centre[1]),
                (centre[0] + lesion.side * 2.2, centre[1] + 1.0),
            ]
        )
        hollow = chest.projection.blank()
        chest.projection.polygons(hollow, [(band(axis, np.linspace(0.25, 0.1, len(axis))), 0.28)], 0.06)
        patch *= 1 - hollow
    room = np.clip(chest.lung_HW / np.float32(6), 0, 1)
    return np.asarray(np.float32(weights[2] * lesion.strength) * patch * room, dtype=np.float32)


def _round(chest: Chest, lesion: Lesion, rng: np.random.Generator) -> Field:
    """A ball of tissue with a slightly lobulated edge; a mass has short spicules."""
    p = chest.projection
    centre = chest.place(lesion.side, lesion.u, lesion.v)
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    waves = sum(
        (rng.normal(0, 0.05) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in range(2, 6)), np.ones_like(angle)
    )
    rim = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (lesion.size * waves)[:, None]
    out = p.blank()
    depth = 2 * lesion.size * lesion.strength * (0.9 if lesion.name == "Mass" else 1.7)
    layers = [
        (np.array(centre) + rim * r, depth * np.sqrt(1 - (r * 0.96) ** 2)) for r in (1.0, 0.93, 0.82, 0.68, 0.5, 0.25)
    ]
    p.polygons(out, layers, 0.09 * lesion.size)
    if lesion.name == "Mass":
        for spicule in rng.uniform(0, 2 * np.pi, 11):
            ray = np.array([np.cos(spicule), np.sin(spicule)])
            axis = np.stack(
                [np.array(centre) + ray * lesion.size * s for s in np.linspace(0.85, rng.uniform(1.2, 1.5), 6)]
            )
            p.polygons(out, [(band(axis, np.linspace(0.1, 0.02, 6)), 0.5)], 0.03)
    return np.asarray(out * np.clip(chest.lung_HW / np.float32(2.5), 0.25, 1), dtype=np.float32)


def _atelectasis(chest: Chest, lesion: Lesion, rng: np.random.Generator) -> Field:
    """Plate-like bands above a raised dome, with crowded haze below."""
    p = chest.projection
    out = p.blank()
    for index in range(3):
        x, y = chest.place(lesion.side, lesion.u, lesion.v - 0.055 * index)
        half = lesion.size * 0.5 * (1 - 0.18 * index)
        slope = lesion.side * rng.uniform(0.05, 0.35)
        axis = spline([(x - half, y - slope * half), (x, y - 0.15), (x + half, y + slope * half)])
        width = 0.32 * np.sin(np.linspace(0.15, np.pi - 0.15, len(axis))) * rng.uniform(0.7, 1.3)
        p.polygons(out, [(band(axis, width), 2.3 * lesion.strength)], 0.09)
    haze = _ball(chest, chest.place(lesion.side, lesion.u, lesion.v + 0.05), 0.42 * lesion.size, 1.4)
    return np.asarray(
        out * np.clip(chest.lung_HW / 3, 0, 1) + haze * 1.6 * np.clip(chest.lung_HW / 5, 0, 1), dtype=np.float32
    )


def _effusion(chest: Chest, lesion: Lesion, rng: np.random.Generator) -> Field:
    """Fluid that fills the recess, its upper border a meniscus rising to the wall."""
    p = chest.projection
    half = p.lookup(p.y_HW, -40, 40, chest.half_width)
    u = np.clip(chest.x_HW * np.float32(lesion.side) / half, 0, 1.1)
    surface = (
        np.float32(chest.dome_y(lesion.side) + 2.6 - lesion.size * 0.75)
        - np.float32(2.2) * u**4
        + np.float32(0.5) * (1 - u)
    )
    filled = np.clip((p.y_HW - surface) / np.float32(2.4), 0, 1)
    share = (1 - (1 - filled) ** 2) * chest.side_mask(lesion.side)
    return np.asarray(share * chest.lung_HW * np.float32(0.92), dtype=np.float32)


def _edema(chest: Chest, lesion: Lesion, rng: np.random.Generator) -> Field:
    """Perihilar haze on both sides, peribronchial cuffs' texture, and Kerley lines at the lateral bases."""
    p = chest.projection
    out = p.blank()
    texture = 1 + 0.22 * cloud(chest, rng, 0.5) + 0.25 * cloud(chest, rng, 1.8)
    for side in (-1, 1):
        x, y = chest.place(side, 0.28, 0.58)
        out += (
            np.float32(2.9 * lesion.strength)
            * _ball(chest, (x, y), 0.42 * lesion.size, 0.72 * lesion.size)
            * np.maximum(texture, 0)
        )
        for index in range(8):
            xe, ye = chest.place(side, 0.97, 0.72 + 0.03 * index)
            axis = np.array([[xe, ye], [xe - side * 1.2, ye + rng.normal(0.05, 0.1)]])
            p.polygons(out, [(band(axis, np.full(2, 0.045)), 0.8)], 0.02)
    return np.asarray(out * np.clip(chest.lung_HW / 8, 0, 1), dtype=np.float32)


def _fibrosis(chest: Chest, lesion: Lesion, rng: np.random.Generator) -> Field:
    """Coarse net of fibres and small cysts at both bases, towards the wall."""
    net = chest.projection.blank()
    for scale, weight in ((0.5, 1.0), (0.95, 0.9)):
        net += np.float32(weight) * np.maximum(
            1 - 2.4 * np.abs(cloud(chest, rng, scale)), 0
        )  # zero crossings form a net
    region = chest.projection.blank()
    for side in (-1, 1):
        region += _ball(chest, chest.place(side, lesion.u, lesion.v), 0.45 * lesion.size, 0.5 * lesion.size)
    amount = np.float32(lesion.strength) * (np.float32(1.15) * net + np.float32(0.5))
    return np.asarray(amount * np.minimum(region, 1) * np.clip(chest.lung_HW / 6, 0, 1), dtype=np.float32)


def _thickening(chest: Chest, lesion: Lesion, rng: np.random.Generator) -> Field:
    """A peel of pleura along the lateral wall and over the apex."""
    p = chest.projection
    half = p.lookup(p.y_HW, -40, 40, chest.half_width)
    inwards = half - np.abs(chest.x_HW)
    _, low = chest.place(lesion.side, 1.0, lesion.v + 0.25)
    _, high = chest.place(lesion.side, 1.0, lesion.v - 0.3)
    extent = np.clip((p.y_HW - np.float32(high)) / 2, 0, 1) * np.clip((np.float32(low) - p.y_HW) / 2, 0, 1)
    ragged = np.float32(lesion.size) * (1 + np.float32(0.22) * cloud(chest, rng, 2.2))
    peel = (
        np.clip((ragged - inwards) / np.float32(0.35), 0, 1) * (inwards > -0.3) * extent * chest.side_mask(lesion.side)
    )
    return np.asarray(np.float32(3.4 * lesion.strength) * peel * np.clip(chest.lung_HW / 2, 0.2, 1), dtype=np.float32)


def _hernia(chest: Chest, lesion: Lesion, rng: np.random.Generator) -> Field:
    """A stomach slid behind the heart: a round shadow with gas above a fluid level."""
    p = chest.projection
    x, y = _hernia_centre(chest, lesion)
    pouch = p.ellipsoid(None, (x, y), (lesion.size, 0.9 * lesion.size, 2.6), power=2.2)
    gas = p.ellipsoid(None, (x, y), (0.84 * lesion.size, 0.74 * lesion.size, 2.3), power=2.2)
    gas *= np.clip((np.float32(y - 0.05 * lesion.size) - p.y_HW) / np.float32(0.15), 0, 1)
    return np.asarray(
        (np.float32(0.85) * pouch - np.float32(1.15) * gas) * np.float32(lesion.strength), dtype=np.float32
    )


def _hernia_centre(chest: Chest, lesion: Lesion) -> tuple[float, float]:
    return 1.0 + 0.35 * lesion.size, chest.place(1, 0, lesion.v)[1] - 0.6


def _pneumothorax(chest: Chest, lesion: Lesion, tissue: Field, markings: Field) -> None:
    """The lung falls away from wall and apex: a fine pleural line, beyond it only air."""
    p = chest.projection
    half = p.lookup(p.y_HW, -40, 40, chest.half_width)
    gap = np.float32(lesion.size) * p.lookup(p.y_HW, -40, 40, lambda y: np.clip(1.15 - 0.055 * (y + 11), 0.0, 1.2))
    off = np.abs(chest.x_HW) - np.float32(0.36 * chest.anatomy.half_width)
    ceiling = (p.y_HW + np.float32(11) - np.float32(0.085) * off * off) * np.float32(0.9)
    beyond = gap - np.minimum(half - np.abs(chest.x_HW), ceiling)  # positive outside the visceral pleura
    side = chest.side_mask(lesion.side) * (gap > 0.05)
    outside = np.clip(beyond / np.float32(0.12) + 0.5, 0, 1) * side
    tissue -= np.float32(0.85 * chest.anatomy.lung_density) * chest.lung_HW * outside
    tissue += np.float32(0.75) * np.exp(-0.5 * (beyond / np.float32(0.075)) ** 2) * side * np.clip(chest.lung_HW, 0, 1)
    tissue += np.float32(0.05) * chest.lung_HW * (1 - outside) * side  # the rest of the lung is less inflated
    markings *= 1 - outside


_DRAW = {
    "Atelectasis": _atelectasis,
    "Effusion": _effusion,
    "Edema": _edema,
    "Fibrosis": _fibrosis,
    "Pleural_Thickening": _thickening,
    "Hernia": _hernia,
}


def extent(chest: Chest, lesion: Lesion) -> tuple[float, float, float, float]:
    """Left, top, right and bottom (cm) of the region that a lesion changes."""
    name, side, size = lesion.name, lesion.side, lesion.size
    if name == "Cardiomegaly":
        return chest.heart_box()
    if name == "Hernia":
        x, y = _hernia_centre(chest, lesion)
        return x - size, y - 0.9 * size, x + size, y + 0.9 * size
    if name in ("Edema", "Emphysema", "Fibrosis"):
        top, bottom = (0.55, 1.0) if name == "Fibrosis" else (0.05, 1.05)
        (left, _), (right, _) = chest.place(-1, 1.0, 0.85), chest.place(1, 1.0, 0.85)
        return left, chest.place(-1, 0, top)[1], right, max(chest.dome_y(-1), chest.dome_y(1)) + (bottom - 1) * 20
    outer, inner = chest.place(side, 1.03, 0.8)[0], chest.place(side, 0.0, 0.8)[0]
    if name == "Effusion":
        low = chest.dome_y(side)
        return min(inner, outer), low + 0.4 - size * 0.75 - 0.6, max(inner, outer), low + 4.5
    if name == "Pneumothorax":
        edge = chest.place(side, 0.35, 0.3)[0]
        return min(edge, outer), chest.place(side, 0, 0)[1] - 0.3, max(edge, outer), chest.place(side, 0, 0.75)[1]
    if name == "Pleural_Thickening":
        edge = outer - side * (size + 1.2)
        return (
            min(edge, outer),
            chest.place(side, 0, lesion.v - 0.3)[1],
            max(edge, outer),
            chest.place(side, 0, lesion.v + 0.25)[1],
        )
    x, y = chest.place(side, lesion.u, lesion.v)
    rx, ry = {
        "Atelectasis": (0.6 * size, 2.4),
        "Mass": (1.25 * size, 1.25 * size),
        "Nodule": (1.15 * size, 1.15 * size),
    }.get(name, (0.95 * size, 0.85 * size))
    return x - rx, y - ry, x + rx, y + ry
