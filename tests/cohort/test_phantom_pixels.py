"""The phantoms' pixels: reproducible, a patient's own, and changed where a finding is said to be."""

import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from prichexy.cohort.phantom import PhantomCohort, PhantomStudy, collimated, render
from prichexy.errors import UsageError
from prichexy.findings import FINDINGS


def _float(study: PhantomStudy) -> np.ndarray:
    return render(study, 16).astype(np.float64) / 65535


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not():
    first, again = PhantomCohort(2, size=96), PhantomCohort(2, size=96)
    other = PhantomCohort(2, seed=43, size=96)
    assert [render(s).tobytes() for s in first.studies] == [render(s).tobytes() for s in again.studies]
    assert zlib.crc32(render(first.studies[0])) != zlib.crc32(render(other.studies[0]))


def test_a_study_does_not_depend_on_the_others():
    few, many = PhantomCohort(3, size=80), PhantomCohort(40, size=80)
    assert list(many.studies)[: len(few.studies)] == list(few.studies)
    last = render(few.studies[-1])
    for study in reversed(many.studies[:6]):
        render(study)
    assert np.array_equal(last, render(few.studies[-1]))


def test_patients_are_recognized_by_coarse_correlation_better_than_chance_and_not_always():
    cohort = PhantomCohort(30, studies=(2, 2), size=64)
    images = np.stack([_float(s).ravel() for s in cohort.studies])
    correlation = np.corrcoef(images)
    patients = np.array([s.patient for s in cohort.studies])
    upper = np.triu_indices(len(patients), 1)
    same = (patients[:, None] == patients[None, :])[upper]
    auc = roc_auc_score(same, correlation[upper])
    assert correlation[upper][same].mean() > correlation[upper][~same].mean()
    assert 0.75 < auc < 0.999


@pytest.mark.parametrize("name", FINDINGS)
def test_a_finding_changes_the_picture_inside_its_box_most(name: str):
    base = next(s for s in PhantomCohort(12, seed=5, size=192).studies if s.view == "PA" and not s.findings)
    with_finding = replace(base, findings=(name,))
    change = np.abs(_float(with_finding) - _float(base))
    inside = np.zeros_like(change, dtype=bool)
    for label, x0, y0, x1, y1 in with_finding.boxes:
        assert label == name
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1
        inside[int(y0 * 192) : int(np.ceil(y1 * 192)), int(x0 * 192) : int(np.ceil(x1 * 192))] = True
    assert change[inside].mean() > 0.004
    assert change[inside].mean() > 2.0 * change[~inside].mean()


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_every_bit_depth_uses_its_range_and_shows_the_same_picture(bits: int):
    study = PhantomCohort(1, size=96).studies[0]
    pixels = render(study, bits)
    top = 2**bits - 1
    assert pixels.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert 0.85 * top < pixels.max() <= top
    assert pixels.min() < 0.05 * top
    assert np.abs(pixels / top - _float(study)).max() < 1 / top


@pytest.mark.parametrize("size", [(64, 64), (160, 128), (100, 180)])
def test_sizes_are_honoured(size: tuple[int, int]):
    study = PhantomCohort(1, size=size).studies[0]
    assert render(study).shape == size
    assert collimated(study).shape == size


def test_a_larger_picture_shows_the_same_chest():
    small = _float(PhantomCohort(1, size=128).studies[0])
    large = _float(PhantomCohort(1, size=384).studies[0])
    shrunk = cv2.resize(large, (128, 128), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(small.ravel(), shrunk.ravel())[0, 1] > 0.985


def test_lungs_are_dark_heart_and_liver_bright_and_the_apex_points_to_the_viewers_right():
    cohort = PhantomCohort(20, studies=(1, 1), size=128)
    mean = np.mean([_float(s) for s in cohort.studies if s.view == "PA"], axis=0)
    lungs = (mean[45:60, 30:42].mean() + mean[45:60, 86:98].mean()) / 2
    assert mean[118:, 40:60].mean() > lungs + 0.2
    assert mean[60:75, 60:68].mean() > lungs + 0.2
    level = slice(75, 85)
    assert mean[level, 72:84].mean() > mean[level, 44:56].mean() + 0.05


def test_shuttered_border_is_black():
    study = next(s for s in PhantomCohort(30, size=64).studies if collimated(s).any())
    assert render(study)[collimated(study)].max() == 0


def test_prevalence_has_the_order_of_the_nih_set_and_findings_persist():
    cohort = PhantomCohort(600, size=64)
    none = np.mean([not s.findings for s in cohort.studies])
    rates = {name: np.mean([name in s.findings for s in cohort.studies]) for name in FINDINGS}
    assert 0.4 < none < 0.62
    assert all(0.008 < rate < 0.25 for rate in rates.values())
    assert max(rates, key=rates.__getitem__) in ("Infiltration", "Effusion", "Atelectasis")
    by_key = {(s.patient, s.study): s for s in cohort.studies}
    chronic = [
        ("Fibrosis" in by_key[p, k + 1].findings)
        for (p, k), s in by_key.items()
        if "Fibrosis" in s.findings and (p, k + 1) in by_key
    ]
    assert np.mean(chronic) > 0.8
    assert {s.view for s in cohort.studies} == {"PA", "AP"}
    assert {s.sex for s in cohort.studies} == {"M", "F"}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [({"patients": 0}, "patients"),
     ({"patients": 1, "size": 32}, "size"), ({"patients": 1, "studies": (3, 2)}, "studies"),
     ({"patients": 1, "seed": -1}, "seed")],
)  # fmt: skip
def test_bad_arguments_are_named(arguments: dict, word: str):
    with pytest.raises(UsageError, match=word):
        PhantomCohort(**arguments)


def test_an_unknown_bit_depth_is_refused():
    with pytest.raises(UsageError, match="bit_depth"):
        render(PhantomCohort(1, size=64).studies[0], 9)
