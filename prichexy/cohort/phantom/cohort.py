"""The cohort: which patients and studies there are, and the picture of each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prichexy.cohort.phantom.anatomy import Stream, draw_acquisition, draw_anatomy, generator
from prichexy.cohort.phantom.bones import draw_bones, draw_implants
from prichexy.cohort.phantom.chest import Chest
from prichexy.cohort.phantom.devices import draw_devices
from prichexy.cohort.phantom.film import expose, quantize, shutter, stamp_marks
from prichexy.cohort.phantom.findings import Lesion, changes, course, draw_findings, extent, lesions
from prichexy.cohort.phantom.projection import Field, Projection
from prichexy.cohort.phantom.vessels import draw_texture, draw_vessels
from prichexy.errors import UsageError

MU_SOFT = 0.20  # linear attenuation of soft tissue, 1/cm, at the effective energy of a chest beam (about 65 keV)
BIT_DEPTHS = (8, 10, 12, 14, 16)

Box = tuple[str, float, float, float, float]


@dataclass(frozen=True)
class PhantomStudy:
    """One radiograph of one phantom patient.

    Attributes:
        seed: the cohort's seed.
        patient: index of the patient.
        study: follow-up number, from 0.
        size: (height, width) in pixels.
        patient_id: such as ``P00012``.
        findings: names from `FINDINGS`, in that order; empty for "No Finding".
        view: ``PA`` or ``AP``.
        sex: ``M`` or ``F``.
        age: years at this study.
    """

    seed: int
    patient: int
    study: int
    size: tuple[int, int]
    patient_id: str
    findings: tuple[str, ...]
    view: str
    sex: str
    age: int

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Where each finding lies: (name, x0, y0, x1, y1) as fractions of the image's width and height, in [0, 1]."""
        chest = _chest(self, size=(64 * self.size[0] // min(self.size), 64 * self.size[1] // min(self.size)))
        return tuple(_box(chest, lesion.name, extent(chest, lesion)) for lesion in self._lesions())

    def _lesions(self) -> list[Lesion]:
        return lesions(self.seed, self.patient, self.study, self.findings)


def _box(chest: Chest, name: str, region: tuple[float, float, float, float]) -> Box:
    left, top, right, bottom = region
    corners = chest.projection.pixels(np.array([[left, top], [right, top], [right, bottom], [left, bottom]]))
    scale = np.array([chest.projection.width, chest.projection.height])
    low, high = np.clip(corners.min(axis=0) / scale, 0, 1), np.clip(corners.max(axis=0) / scale, 0, 1)
    return name, round(float(low[0]), 4), round(float(low[1]), 4), round(float(high[0]), 4), round(float(high[1]), 4)


def _chest(study: PhantomStudy, size: tuple[int, int]) -> Chest:
    anatomy = draw_anatomy(study.seed, study.patient)
    acquisition = draw_acquisition(study.seed, study.patient, study.study, study.view)
    found = lesions(study.seed, study.patient, study.study, study.findings)
    return Chest(Projection(anatomy, acquisition, size), changes(found))


class PhantomCohort:
    """Phantom patients with stable anatomies, each with several studies.

    A study depends on the seed and its own indices only: patient 7 is the same in a cohort of 10 and of 10,000.

    Args:
        patients: how many patients.
        seed: any integer from 0 on.
        studies: least and most studies a patient has.
        size: edge, or (height, width), of the radiographs in pixels; at least 64.

    Raises:
        UsageError: if a value is out of range.
    """

    def __init__(
        self, patients: int, seed: int = 42, studies: tuple[int, int] = (2, 4), size: int | tuple[int, int] = 512
    ) -> None:
        shape = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        if patients < 1:
            raise UsageError("patients must be at least 1: ask for one phantom patient or more.")
        if seed < 0:
            raise UsageError("seed must not be negative: give an integer from 0 on.")
        if not 1 <= studies[0] <= studies[1]:
            raise UsageError("studies must be (least, most) with 1 <= least <= most.")
        if min(shape) < 64 or max(shape) > 8192 or max(shape) > 2 * min(shape):
            raise UsageError(
                "size must lie between 64 and 8192 pixels, with at most twice as many one way as the other."
            )
        self.seed = seed
        self.size = shape
        self.patients = patients
        self.studies: Sequence[PhantomStudy] = [
            study for patient in range(patients) for study in self._of_patient(patient, studies)
        ]

    def _of_patient(self, patient: int, studies: tuple[int, int]) -> list[PhantomStudy]:
        anatomy = draw_anatomy(self.seed, patient)
        rng = generator(self.seed, patient, None, Stream.STUDIES)
        count = int(rng.integers(studies[0], studies[1] + 1))
        history = course(self.seed, patient, anatomy.age, count)
        bedside = rng.random() < 0.3  # a patient who lies in bed is mostly radiographed there
        out = []
        age = float(anatomy.age)
        for index, findings in enumerate(history):
            view = "AP" if rng.random() < (0.75 if bedside else 0.12) else "PA"
            out.append(PhantomStudy(self.seed, patient, index, self.size, f"P{patient:05d}", findings, view,
                                    anatomy.sex, min(int(age), 94)))  # fmt: skip
            age += float(rng.exponential(0.7))
        return out


def render(study: PhantomStudy, bit_depth: int = 8) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The radiograph of a study: bone bright (MONOCHROME2), the patient's left on the viewer's right.

    Args:
        study: from `PhantomCohort.studies`.
        bit_depth: 8, 10, 12, 14 or 16.

    Returns:
        (H, W), uint8 for 8 bits, else uint16 with values in [0, 2^bit_depth - 1].

    Raises:
        UsageError: for another bit depth.
    """
    if bit_depth not in BIT_DEPTHS:
        raise UsageError("bit_depth must be 8, 10, 12, 14 or 16.")
    return quantize(_picture(study), bit_depth)


def collimated(study: PhantomStudy) -> NDArray[np.bool_]:
    """True where the collimator's shutter covers the radiograph, (H, W); such pixels are 0 in `render`."""
    anatomy = draw_anatomy(study.seed, study.patient)
    acquisition = draw_acquisition(study.seed, study.patient, study.study, study.view)
    return shutter(Projection(anatomy, acquisition, study.size))


def pixel_spacing(study: PhantomStudy) -> float:
    """Distance (mm) between pixel centres at the detector."""
    acquisition = draw_acquisition(study.seed, study.patient, study.study, study.view)
    return 10 * acquisition.field_cm / min(study.size)


def _picture(study: PhantomStudy) -> Field:
    chest = _chest(study, study.size)
    found = lesions(study.seed, study.patient, study.study, study.findings)
    tissue, markings = draw_findings(chest, found)
    vessels = draw_vessels(chest, study.seed, study.patient) + draw_texture(chest, study.seed, study.patient)
    density = np.float32(chest.anatomy.lung_density * chest.changes.density)
    room = np.float32(1 - density) * chest.lung_HW  # air inside the lung, which lesions can fill but not exceed
    soft = chest.body_HW - chest.air_HW - room + np.minimum(tissue + vessels * markings, room)
    attenuation = np.float32(MU_SOFT) * soft + draw_bones(chest) + draw_implants(chest)
    attenuation += draw_devices(chest, study.seed, study.patient, study.study)
    rng = generator(study.seed, study.patient, study.study, Stream.NOISE)
    image = expose(np.maximum(attenuation, 0), chest.projection, rng)
    stamp_marks(image, chest.projection)
    image[shutter(chest.projection)] = 0
    return image
