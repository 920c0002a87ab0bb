import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from prichexy.audit.statistics import (
    auc,
    bootstrap_auc,
    bootstrap_difference,
    map_at_r,
    rank_k,
    ranked,
    weighted_auc,
)
from prichexy.errors import UsageError


def random_pairs(count: int, patients: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores with ties, marks, and the two patients of each pair."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, patients, count)
    same = rng.random(count) < 0.5
    second = np.where(same, first, (first + rng.integers(1, patients, count)) % patients)
    return np.round(rng.normal(same * 0.8, 1), 1), same, first, second


@pytest.mark.parametrize("seed", range(5))
def test_weighted_areas_are_scikit_learns(seed: int) -> None:
    scores, same, _, _ = random_pairs(200, 20, seed)
    weights = np.random.default_rng(seed).integers(0, 4, (6, 200)).astype(float)

    ours = weighted_auc(scores, same, weights)

    expected = [roc_auc_score(same, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(ours, expected, atol=1e-12)
    assert weighted_auc(scores, same, np.ones((1, 200)))[0] == pytest.approx(auc(scores, same), abs=1e-12)


def test_an_area_without_weight_on_one_kind_is_unknown() -> None:
    same = np.array([True, True, False])

    assert np.isnan(weighted_auc(np.arange(3), same, np.array([[1.0, 1.0, 0.0]]))[0])
    with pytest.raises(UsageError, match="both kinds"):
        auc(np.arange(2), np.array([True, True]))


@pytest.mark.parametrize("seed", range(3))
def test_the_bootstrap_agrees_with_patients_drawn_and_pairs_repeated(seed: int) -> None:
    scores, same, first, second = random_pairs(300, 25, seed)

    interval = bootstrap_auc(scores, same, first, second, seed=7, resamples=200)

    # The same draws, but every pair is written out as often as it was drawn.
    times = np.random.default_rng(7).multinomial(25, np.full(25, 1 / 25), size=200)
    areas = []
    for drawn in times:
        rows = np.repeat(np.arange(300), np.where(first == second, drawn[first], drawn[first] * drawn[second]))
        areas.append(roc_auc_score(same[rows], scores[rows]))
    assert interval == pytest.approx(tuple(np.quantile(areas, [0.025, 0.975])), abs=1e-12)


def test_scores_of_several_seeds_give_the_interval_of_their_mean() -> None:
    scores, same, first, second = random_pairs(300, 25, 0)
    shuffled = np.random.default_rng(0).permutation(scores)

    one = bootstrap_auc(scores, same, first, second, seed=1)
    twice = bootstrap_auc(np.stack([scores, scores]), same, first, second, seed=1)
    mixed = bootstrap_auc(np.stack([scores, shuffled]), same, first, second, seed=1)

    assert twice == pytest.approx(one, abs=1e-12)
    middle = (auc(scores, same) + auc(shuffled, same)) / 2
    assert mixed.low < middle < mixed.high < one.high


def test_intervals_by_patient_are_wider_than_by_pair_and_repeat_with_their_seed() -> None:
    rng = np.random.default_rng(0)
    habit = rng.normal(0, 1, 30)  # a patient's pairs all score alike
    first = np.repeat(np.arange(30), 20)
    same = np.tile([True, False], 300)
    second = np.where(same, first, (first + rng.integers(1, 30, 600)) % 30)
    scores = habit[first] * (same - 0.5) + rng.normal(0, 0.3, 600)

    by_patient = bootstrap_auc(scores, same, first, second, seed=0)
    by_pair = bootstrap_auc(scores, same, np.arange(600), np.arange(600), seed=0)

    assert by_patient.high - by_patient.low > 1.5 * (by_pair.high - by_pair.low)
    assert by_patient == bootstrap_auc(scores, same, first, second, seed=0)
    assert by_patient != bootstrap_auc(scores, same, first, second, seed=1)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        first = np.repeat(np.arange(50), 4)
        same = np.tile([True, False], 100)
        second = np.where(same, first, (first + rng.integers(1, 50, 200)) % 50)
        low, high = bootstrap_auc(rng.normal(0, 1, 200), same, first, second, seed=seed, resamples=300)
        covered += low <= 0.5 <= high
    assert 53 <= covered <= 60


def test_a_thousand_resamples_of_two_thousand_pairs_take_less_than_two_seconds() -> None:
    scores, same, first, second = random_pairs(2000, 400, 0)

    began = time.perf_counter()
    bootstrap_auc(scores, same, first, second, seed=0)

    assert time.perf_counter() - began < 2


@pytest.mark.parametrize("seed", range(2))
def test_the_paired_difference_agrees_with_images_drawn_by_patient(seed: int) -> None:
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(30), rng.integers(1, 5, 30))
    labels = rng.random((len(patients), 3)) < 0.4
    labels[:, 2] = False  # a finding that nobody has
    first = labels + rng.normal(0, 1, labels.shape)
    second = first + rng.normal(0, 1, labels.shape)

    found = bootstrap_difference(labels, first, second, patients, seed=3, resamples=150)

    times = np.random.default_rng(3).multinomial(30, np.full(30, 1 / 30), size=150)
    differences = np.empty((150, 2))
    for place, drawn in enumerate(times):
        rows = np.repeat(np.arange(len(patients)), drawn[patients])
        for f in range(2):
            areas = [roc_auc_score(labels[rows, f], scores[rows, f]) for scores in (first, second)]
            differences[place, f] = areas[1] - areas[0]
    np.testing.assert_allclose(found.low[:2], np.quantile(differences, 0.025, axis=0), atol=1e-12)
    np.testing.assert_allclose(found.high[:2], np.quantile(differences, 0.975, axis=0), atol=1e-12)
    assert found.mean == pytest.approx(tuple(np.quantile(differences.mean(axis=1), [0.025, 0.975])), abs=1e-12)
    assert found.first[0] == pytest.approx(roc_auc_score(labels[:, 0], first[:, 0]))
    assert found.second_mean == pytest.approx(np.mean([roc_auc_score(labels[:, f], second[:, f]) for f in range(2)]))
    assert np.isnan([found.first[2], found.second[2], found.low[2], found.high[2]]).all()


def test_no_difference_has_the_interval_zero_to_zero() -> None:
    labels = np.tile([[True], [False]], (20, 1))
    scores = np.random.default_rng(0).random((40, 1))

    found = bootstrap_difference(labels, scores, scores, np.arange(40), seed=0, resamples=50)

    assert found.mean == (0, 0)
    with pytest.raises(UsageError, match="no finding"):
        bootstrap_difference(np.ones((40, 1)), scores, scores, np.arange(40), seed=0)


def brute_force(similarity: np.ndarray, positive: np.ndarray) -> tuple[float, float, float]:
    """rank-1, rank-5 and mAP@R, one query at a time, in plain loops."""
    first, five, precision = [], [], []
    for row, relevant in zip(similarity.tolist(), positive.tolist(), strict=True):
        hits = [hit for _, hit in sorted(zip(row, relevant, strict=True), key=lambda pair: -pair[0])]
        total = sum(relevant)
        first.append(hits[0])
        five.append(any(hits[:5]))
        precision.append(sum(sum(hits[: i + 1]) / (i + 1) for i in range(total) if hits[i]) / total)
    return float(np.mean(first)), float(np.mean(five)), float(np.mean(precision))


@pytest.mark.parametrize("seed", range(5))
def test_retrieval_figures_agree_with_a_brute_force_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    owner = rng.integers(0, 12, 60)
    positive = owner[:, None] == owner
    np.fill_diagonal(positive, False)
    positive = positive[positive.any(axis=1)]
    similarity = rng.normal(positive * 1.0, 1)

    order = ranked(similarity, positive)

    assert (rank_k(order, 1), rank_k(order, 5), map_at_r(order)) == pytest.approx(brute_force(similarity, positive))


def test_equal_similarities_find_a_patient_by_chance_only() -> None:
    positive = np.zeros((400, 40), dtype=bool)
    positive[np.arange(400), np.random.default_rng(0).integers(0, 4, 400)] = True  # always among the first four

    order = ranked(np.zeros((400, 40)), positive)

    assert order.sum(axis=1).tolist() == [1] * 400
    assert rank_k(order, 40) == 1
    assert rank_k(ranked(positive.astype(float), positive), 1) == 1
    chance = [rank_k(ranked(np.zeros((400, 40)), positive, seed), 1) for seed in range(200)]
    assert np.mean(chance) == pytest.approx(1 / 40, abs=0.015)
