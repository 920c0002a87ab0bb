"""The attackers' figures on real originals, as measured before there was this package."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prichexy.audit.attackers.components import WhitenedComponents
from prichexy.audit.attackers.correlation import Correlation, HighPass
from prichexy.audit.attackers.embedding import EmbeddingComparer
from prichexy.audit.attackers.fusion import fused
from prichexy.audit.attackers.linear_metric import LinearMetric
from prichexy.audit.evidence import Images, Patients, Split
from prichexy.audit.statistics import auc
from prichexy.cohort.pairs import Pairs, draw_pairs
from prichexy.obfuscation.identity import Identity
from tests.audit.patterns import split

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def radiographs(real_data: Path) -> tuple[Images, Patients]:
    """1,727 images of 776 patients at 64 px."""
    folder = real_data / "chestxray14"
    with (folder / "labels_64.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    images = [np.asarray(Image.open(folder / "images_64" / row["Image Index"]).convert("L")) for row in rows]
    return np.stack(images), np.array([row["Patient ID"] for row in rows])


def any_strangers(patients: Patients, seed: int) -> Pairs:
    """812 same-patient pairs, at most 6 a patient, and 812 of any two images of two patients.

    The figures were measured against such strangers. Those of `draw_pairs` are the same images as in the same-patient
    pairs, which are a little harder to tell apart: correlation at 16 px has 0.745 with them, 0.760 with these.
    """
    same = draw_pairs(patients, None, seed)
    first, second = same.first[same.same], same.second[same.same]
    drawn = np.random.default_rng(seed).integers(0, len(patients), (2, 8 * len(first)))
    strangers = drawn[:, patients[drawn[0]] != patients[drawn[1]]][:, : len(first)]
    marks = np.repeat([True, False], len(first))
    return Pairs(np.concatenate([first, strangers[0]]), np.concatenate([second, strangers[1]]), marks)


def mean_auc(comparer: EmbeddingComparer, images: Images, patients: Patients) -> float:
    """Over ten draws of pairs; from one to the next it varies by 0.005 to 0.01."""
    vectors = comparer.embed_first(images)
    areas = []
    for seed in range(10):
        pairs = any_strangers(patients, seed)
        assert np.count_nonzero(pairs.same) == 812
        areas.append(auc((vectors[pairs.first] * vectors[pairs.second]).sum(axis=1), pairs.same))
    return float(np.mean(areas))


@pytest.mark.parametrize(
    ("attacker", "known"),
    [
        (Correlation(16), 0.78),
        (Correlation(16, less_mean=True), 0.81),
        (Correlation(64, less_mean=True), 0.81),
        (WhitenedComponents(), 0.79),
        (HighPass(), 0.66),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_training_free_figures_on_originals(
    attacker: Correlation | WhitenedComponents | HighPass, known: float, radiographs: tuple[Images, Patients]
) -> None:
    images, patients = radiographs

    found = mean_auc(attacker.on(split(images, patients)), images, patients)

    assert found == pytest.approx(known, abs=0.02)


def test_the_linear_metric_and_its_fusion_by_folds_of_patients(radiographs: tuple[Images, Patients]) -> None:
    images, patients = radiographs
    unique, owner = np.unique(patients, return_inverse=True)
    fold = (np.random.default_rng(0).permutation(len(unique)) % 4)[owner]
    areas = []
    for number in range(4):
        train, test = (split(images[part], patients[part]) for part in (fold != number, fold == number))
        comparers = LinearMetric().on(train), Correlation(16, less_mean=True).on(train)
        scores = [comparer.pair_scores(test.first_images, test.second_images) for comparer in comparers]
        areas.append([auc(each, test.pairs.same) for each in (*scores, fused(scores))])

    metric, correlation, both = np.mean(areas, axis=0)

    # Shrinkage makes this metric better than the 0.82 that was known, and as good as both together.
    assert 0.81 < metric < 0.88
    assert correlation == pytest.approx(0.79, abs=0.02)
    assert both == pytest.approx(0.84, abs=0.02)


def test_the_identity_gives_the_figure_of_the_originals(radiographs: tuple[Images, Patients]) -> None:
    import torch

    from prichexy.obfuscation.settings import ObfuscationSettings

    images, patients = radiographs[0][:300], radiographs[1][:300]
    identity = Identity(ObfuscationSettings(kind="identity", image_size=64))
    grey = torch.from_numpy(images)[:, None].float() / 255
    same = (identity(grey, torch.zeros(300, dtype=torch.int64))[:, 0] * 255).round().to(torch.uint8).numpy()
    before, after = split(images, patients), split(images, patients, anonymized=same)

    for attacker in (Correlation(16, less_mean=True), WhitenedComponents(), LinearMetric()):
        scores = [attacker.on(each).pair_scores(each.first_images, each.second_images) for each in (before, after)]
        assert auc(scores[1], after.pairs.same) == auc(scores[0], before.pairs.same)


def test_constant_images_tell_nothing(radiographs: tuple[Images, Patients]) -> None:
    images, patients = radiographs[0][:300], radiographs[1][:300]
    given: Split = split(images, patients, anonymized=np.full_like(images, 90))

    for attacker in (Correlation(16), Correlation(64, less_mean=True), WhitenedComponents(), HighPass()):
        scores = attacker.on(given).pair_scores(given.first_images, given.second_images)
        assert auc(scores, given.pairs.same) == 0.5
