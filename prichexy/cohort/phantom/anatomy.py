"""What stays and what changes: a patient's anatomy, and the acquisition of one study.

All lengths are centimetres in the patient's frontal plane: x grows to the viewer's right (the patient's left),
y downwards, z towards the sternum; the origin lies in the midline at the level of the carina. The sizes are about
those of adults, with a spread wide enough for patients to differ as much as a hospital's do.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

APEX_Y = -11.0  # level of the lung apices above the carina


class Stream(IntEnum):
    """Purposes of the random streams; each is independent of all the others, so that adding one changes none."""

    ANATOMY = 0
    VESSELS = 1
    COURSE = 2
    ACQUISITION = 3
    NOISE = 4
    TEXTURE = 5
    IDENTITY = 6
    DEVICES = 7
    STUDIES = 8
    FINDING = 100


def generator(seed: int, patient: int, study: int | None, stream: int) -> np.random.Generator:
    """A generator that depends on nothing but its four arguments (``study`` None: belongs to the patient)."""
    return np.random.default_rng(np.random.SeedSequence([seed, patient, 0 if study is None else study + 1, stream]))


@dataclass(frozen=True)
class Anatomy:
    """A patient's stable anatomy (lengths in cm, angles in radians)."""

    sex: str
    age: int
    half_width: float  # inner half-width of the thorax at its widest
    depth: float  # anterior-posterior thickness of the trunk
    wall: float  # thickness of the lateral soft tissue
    habitus: float  # -1 thin .. 2.5 obese
    lung_height: float  # apex to right dome, full inspiration
    thorax_shape: float  # 0 bell .. 1 barrel
    rib_pairs: int
    rib_slope: float  # drop of a middle rib from spine to its anterior end
    rib_bend: float
    rib_width: float
    rib_spacing: float  # relative to the lungs' height
    rib_jitter: tuple[float, ...]
    bone_density: float
    clavicle_rise: float
    clavicle_bow: float
    clavicle_width: float
    shoulder_y: float
    shoulder_x: float
    scapula_tilt: float
    neck_radius: float
    scoliosis: float
    scoliosis_phase: float
    vertebra_width: float
    mediastinum: float  # half-width of the upper mediastinum
    heart_ratio: float  # cardiothoracic ratio
    heart_tilt: float
    heart_length: float
    atrium: float
    knob: float  # radius of the aortic knob
    unfolding: float  # how far the descending aorta bulges to the left
    pulmonary_artery: float
    hilum_y: float
    trachea_shift: float
    dome_right: float
    dome_left: float
    dome_curve: float
    gas: float  # size of the gastric bubble
    gas_x: float
    breast: float  # radius, 0 when flat
    breast_y: float
    lung_density: float
    markings: float
    pacemaker: bool
    port: bool
    sternal_wires: int
    granuloma: tuple[float, float, float] | None  # (side, u, v) of a calcified granuloma


def draw_anatomy(seed: int, patient: int) -> Anatomy:
    """The anatomy of one patient, a function of the seed and the patient's index alone."""
    rng = generator(seed, patient, None, Stream.ANATOMY)

    def normal(mean: float, spread: float, clip: float = 2.2) -> float:
        return mean + spread * float(np.clip(rng.standard_normal(), -clip, clip))

    sex = "M" if rng.random() < 0.56 else "F"  # ChestX-ray14 holds 56 % men
    male = sex == "M"
    age = int(np.clip(rng.normal(48, 16.5), 18, 92))
    old = (age - 48) / 40
    habitus = float(np.clip(rng.gamma(4.0, 0.3) - 1.0, -0.9, 2.4))
    size = normal(0, 1)
    implant = rng.random()
    return Anatomy(
        sex=sex,
        age=age,
        half_width=normal(13.6 if male else 12.2, 0.5) + 0.5 * size,
        depth=normal(20.5 if male else 19.0, 1.0) + 2.2 * habitus,
        wall=2.1 + 1.45 * (habitus + 0.9) + rng.uniform(0, 0.6),
        habitus=habitus,
        lung_height=normal(23.0 if male else 21.0, 1.1) + 0.7 * size - 0.7 * habitus,
        thorax_shape=float(np.clip(normal(0.45, 0.28), 0, 1)),
        rib_pairs=int(rng.choice([11, 12, 12, 12, 13])),
        rib_slope=normal(9.6, 1.6),
        rib_bend=normal(0.35, 0.15),
        rib_width=normal(1.32 if male else 1.12, 0.11),
        rib_spacing=normal(1.0, 0.05),
        rib_jitter=tuple(float(v) for v in rng.normal(0, 0.16, 52)),
        bone_density=float(np.clip(normal(1.0, 0.16) - 0.2 * max(old, 0), 0.55, 1.4)),
        clavicle_rise=normal(2.6, 1.2),
        clavicle_bow=normal(0.8, 0.35),
        clavicle_width=normal(1.12 if male else 0.96, 0.1),
        shoulder_y=normal(-10.6, 0.9),
        shoulder_x=normal(17.6 if male else 15.9, 0.6) + 0.4 * size,
        scapula_tilt=normal(0.22, 0.09),
        neck_radius=normal(6.6 if male else 5.7, 0.4) + 0.6 * habitus,
        scoliosis=normal(0.0, 0.42, 3.0),
        scoliosis_phase=rng.uniform(0, 6.28),
        vertebra_width=normal(3.7 if male else 3.3, 0.2),
        mediastinum=normal(2.9, 0.28) + 0.25 * max(old, 0) + 0.15 * habitus,
        heart_ratio=float(np.clip(normal(0.445, 0.035) + 0.02 * old + 0.01 * habitus, 0.36, 0.53)),
        heart_tilt=normal(0.62, 0.13) - 0.12 * habitus,
        heart_length=normal(1.0, 0.07),
        atrium=normal(4.0, 0.4),
        knob=float(np.clip(normal(1.75, 0.22) + 0.4 * old, 1.2, 2.7)),
        unfolding=float(np.clip(normal(0.25, 0.25) + 0.8 * old, 0, 1.6)),
        pulmonary_artery=normal(1.5, 0.25),
        hilum_y=normal(1.2, 0.6),
        trachea_shift=normal(0.25, 0.3),
        dome_right=normal(0.0, 0.5),
        dome_left=normal(1.3, 0.65),
        dome_curve=normal(1.0, 0.2),
        gas=float(rng.choice([0.0, 1.0])) * normal(1.7, 0.5),
        gas_x=normal(5.5, 1.2),
        breast=0.0 if male else float(np.clip(normal(6.0, 0.9) + 0.9 * habitus, 4.5, 9.0)),
        breast_y=normal(7.6, 1.4),
        lung_density=normal(0.235, 0.022),
        markings=normal(1.0, 0.18),
        pacemaker=implant < 0.05 + 0.08 * max(old, 0),
        port=0.15 < implant < 0.22,
        sternal_wires=int(rng.integers(5, 8)) if 0.25 < implant < 0.31 + 0.06 * max(old, 0) else 0,
        granuloma=(float(rng.choice([-1, 1])), rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.8))
        if rng.random() < 0.12
        else None,
    )


@dataclass(frozen=True)
class Acquisition:
    """What one study adds: projection, pose, breath, exposure and the device's signature."""

    view: str
    field_cm: float  # field of view along the shorter image side
    tilt: float  # rotation in the image plane, radians
    turn: float  # rotation about the patient's long axis, radians
    shift_x: float
    shift_y: float
    magnification: float
    breath: float  # lungs' height relative to full inspiration
    shrug: float  # shoulders up or down, cm
    arm_angle: float
    centre: float  # attenuation shown in middle grey
    latitude: float  # attenuation from black to white
    gamma: float
    scatter: float
    noise: float
    blur_cm: float
    enhancement: float  # strength of the device's edge enhancement
    vignette: float
    heel: float
    grid_lines: float
    collimation: tuple[float, float, float, float]  # left, top, right, bottom: fraction of the image behind the shutter
    marker_side: int  # +1: the mark L on the patient's left, -1: R on the right
    marker_u: float
    marker_v: float
    marker_style: int
    marker_turn: float
    electrodes: int
    tube: bool
    device: int  # index of the room


def draw_acquisition(seed: int, patient: int, study: int, view: str) -> Acquisition:
    """The acquisition of one study, a function of seed, patient and study alone (``view`` "PA" or "AP")."""
    rng = generator(seed, patient, study, Stream.ACQUISITION)
    bedside = view == "AP"
    collimation = np.zeros(4)
    if rng.random() < (0.4 if bedside else 0.25):
        collimation = rng.uniform(0.0, 0.05, 4) * (rng.random(4) < 0.5)
    return Acquisition(
        view=view,
        field_cm=float(rng.normal(36.8, 1.2)),
        tilt=float(rng.normal(0, 0.035 if bedside else 0.016)),
        turn=float(np.clip(rng.normal(0, 0.09 if bedside else 0.045), -0.2, 0.2)),
        shift_x=float(rng.normal(0, 0.9 if bedside else 0.5)),
        shift_y=float(rng.normal(0, 1.2 if bedside else 0.7)),
        magnification=float(rng.normal(1.04 if bedside else 1.0, 0.015)),
        breath=float(np.clip(rng.normal(0.86 if bedside else 0.985, 0.05 if bedside else 0.03), 0.72, 1.06)),
        shrug=float(rng.normal(-0.8 if bedside else 0.5, 0.6)),
        arm_angle=float(rng.normal(0.12 if bedside else 0.2, 0.06)),
        centre=float(rng.normal(2.62, 0.12)),
        latitude=float(np.clip(rng.normal(3.7, 0.3), 3.0, 4.6)),
        gamma=float(np.clip(rng.normal(1.0, 0.08), 0.8, 1.2)),
        scatter=float(rng.uniform(0.07, 0.12) if bedside else rng.uniform(0.02, 0.06)),
        noise=float(rng.uniform(0.008, 0.017) if bedside else rng.uniform(0.004, 0.009)),
        blur_cm=float(rng.uniform(0.02, 0.045)),
        enhancement=float(np.clip(rng.normal(0.7, 0.3), 0.15, 1.4)),
        vignette=float(rng.uniform(0, 0.08)),
        heel=float(rng.normal(0, 0.05)),
        grid_lines=float(rng.uniform(0.001, 0.004)) if rng.random() < 0.12 else 0.0,
        collimation=(float(collimation[0]), float(collimation[1]), float(collimation[2]), float(collimation[3])),
        marker_side=1 if rng.random() < 0.7 else -1,
        marker_u=float(rng.uniform(0.05, 0.13)),
        marker_v=float(rng.uniform(0.06, 0.3 if bedside else 0.13)),
        marker_style=int(rng.integers(0, 3)),
        marker_turn=float(rng.normal(0, 12 if bedside else 4)),
        electrodes=int(rng.integers(2, 5)) if bedside and rng.random() < 0.6 else 0,
        tube=bool(bedside and rng.random() < 0.25),
        device=int(rng.integers(0, 5)),
    )
