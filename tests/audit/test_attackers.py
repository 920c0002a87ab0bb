from collections.abc import Mapping

import numpy as np
import pytest

from prichexy.audit.attackers import ATTACKERS, Attacker, fused, retrieval
from prichexy.audit.attackers.embedding import once_each, shrunk, unit
from prichexy.audit.attackers.protocol import Scores
from prichexy.audit.evidence import Evidence, Images, Split
from prichexy.audit.statistics import auc, bootstrap_auc
from prichexy.cohort.pairs import Pairs
from prichexy.errors import UsageError
from tests.audit.patterns import drawn, evidence, published, split

WITHOUT_NETWORKS = [name for name in ATTACKERS if not name.startswith(("verifier", "inversion", "findings"))]


@pytest.fixture(scope="module")
def as_they_are() -> Evidence:
    return evidence()


def scores_of(attacker: Attacker, given: Evidence, seed: int = 0, pairs: int | None = None) -> Scores:
    comparer = attacker.fit(given, seed, pairs)
    return comparer.pair_scores(given.test.first_images, given.test.second_images)


class KnowsThePatient:
    """A comparer to whom the images betray the patient: its number is the first pixel."""

    details: Mapping[str, float] = {}

    def pair_scores(self, first_PHW: Images, second_PHW: Images) -> Scores:
        return (first_PHW[:, 0, 0] == second_PHW[:, 0, 0]).astype(np.float64)

    def similarity(self, queries_QHW: Images, gallery_GHW: Images) -> Scores:
        return (queries_QHW[:, None, 0, 0] == gallery_GHW[None, :, 0, 0]).astype(np.float64)


def test_an_attacker_who_is_given_the_patient_is_always_right() -> None:
    images, patients = drawn(24)
    images[:, 0, 0] = np.unique(patients, return_inverse=True)[1]
    given = split(images, patients)
    knowing = KnowsThePatient()

    scores = knowing.pair_scores(given.first_images, given.second_images)

    assert auc(scores, given.pairs.same) == 1
    assert bootstrap_auc(scores, given.pairs.same, given.first_patients, given.second_patients, seed=0) == (1, 1)
    assert retrieval(knowing, given) == (72, 1, 1, 1)


@pytest.mark.parametrize("name", WITHOUT_NETWORKS)
def test_each_attacker_recognizes_patterns_and_no_constants_or_noise(name: str, as_they_are: Evidence) -> None:
    attacker, test = ATTACKERS[name], as_they_are.test

    found = auc(scores_of(attacker, as_they_are), test.pairs.same)
    constant = auc(scores_of(attacker, published(as_they_are, "constant")), test.pairs.same)
    noise = scores_of(attacker, published(as_they_are, "noise"))
    interval = bootstrap_auc(noise, test.pairs.same, test.first_patients, test.second_patients, seed=0)

    assert found > 0.9
    assert constant == 0.5
    assert interval.low < 0.5 < interval.high


@pytest.mark.parametrize("name", WITHOUT_NETWORKS)
def test_the_score_of_a_pair_is_its_similarity_and_the_same_again(name: str, as_they_are: Evidence) -> None:
    test, comparer = as_they_are.test, ATTACKERS[name].fit(as_they_are, 0)

    scores = comparer.pair_scores(test.first_images, test.second_images)
    all_QG = comparer.similarity(test.anonymized_NHW, test.originals_NHW)

    np.testing.assert_allclose(scores, all_QG[test.pairs.first, test.pairs.second], atol=1e-5)
    assert scores.dtype == all_QG.dtype == np.float64
    assert np.array_equal(scores, scores_of(ATTACKERS[name], as_they_are))


def test_correlation_is_pearsons_of_the_shrunken_images(as_they_are: Evidence) -> None:
    test = as_they_are.test

    scores = scores_of(ATTACKERS["correlation-16"], as_they_are)

    cells = [side[:5].reshape(5, 16, 4, 16, 4).mean((2, 4)) for side in (test.first_images, test.second_images)]
    expected = [np.corrcoef(first.ravel(), second.ravel())[0, 1] for first, second in zip(*cells, strict=True)]
    np.testing.assert_allclose(scores[:5], expected, atol=1e-5)


def test_each_side_has_its_own_mean_image(as_they_are: Evidence) -> None:
    def negated(before: Split) -> Split:
        return Split(before.originals_NHW, 255 - before.originals_NHW, before.patients_N, before.pairs)

    turned = Evidence(*(negated(part) for part in (as_they_are.train, as_they_are.validation, as_they_are.test)))
    attacker = ATTACKERS["correlation-16-less-mean"]

    before, after = scores_of(attacker, as_they_are), scores_of(attacker, turned)

    np.testing.assert_allclose(after, -before, atol=1e-4)


def test_subtracting_what_all_share_helps(as_they_are: Evidence) -> None:
    noisy = evidence(noise=0.15)
    same = noisy.test.pairs.same

    plain, less = (auc(scores_of(ATTACKERS[f"correlation-16{end}"], noisy), same) for end in ("", "-less-mean"))

    assert less > plain + 0.005


def test_the_linear_metric_gets_better_with_pairs() -> None:
    hard = evidence(train=120, test=40, noise=0.25)
    metric, same = ATTACKERS["linear-metric"], hard.test.pairs.same

    few, many = (auc(scores_of(metric, hard, pairs=pairs), same) for pairs in (20, 500))

    assert few < many - 0.02
    assert np.array_equal(scores_of(metric, hard, seed=1, pairs=20), scores_of(metric, hard, seed=1, pairs=20))
    assert not np.array_equal(scores_of(metric, hard, seed=1, pairs=20), scores_of(metric, hard, seed=2, pairs=20))


def test_the_linear_metric_needs_a_patient_with_two_images(as_they_are: Evidence) -> None:
    images, patients = drawn(10, studies=1, prefix="single")
    lonely = Split(images, images, patients, Pairs(*(np.empty(0, dtype=t) for t in (np.int64, np.int64, np.bool_))))

    with pytest.raises(UsageError, match="two images"):
        ATTACKERS["linear-metric"].fit(Evidence(lonely, as_they_are.validation, as_they_are.test), 0)


def test_fusion_is_the_mean_rank() -> None:
    first, second = np.array([0.1, 0.9, 0.5, 0.5]), np.array([30.0, 20.0, 10.0, 40.0])

    assert fused([first, second]).tolist() == [(1 + 3) / 2, (4 + 2) / 2, (2.5 + 1) / 2, (2.5 + 4) / 2]
    assert fused([first, first * 100]).tolist() == [1, 4, 2.5, 2.5]
    with pytest.raises(ValueError, match="same pairs"):
        fused([first, second[:2]])


def test_a_query_never_meets_its_own_original(as_they_are: Evidence) -> None:
    """Noise with one copy each: only the own original would be found."""
    images = np.random.default_rng(0).integers(0, 256, (60, 64, 64)).astype(np.uint8)
    noise = split(images, np.repeat([f"n{number}" for number in range(30)], 2))
    comparer = ATTACKERS["correlation-64"].fit(as_they_are, 0)

    found = retrieval(comparer, noise)

    assert found.queries == 60
    assert found.rank_1 < 0.1


def test_retrieval_leaves_out_patients_with_one_image_as_queries(as_they_are: Evidence) -> None:
    images, patients = drawn(10, noise=0.01)
    patients = np.where(np.arange(30) % 3 == 0, np.char.add(patients, "alone"), patients)
    comparer = ATTACKERS["correlation-16-less-mean"].fit(as_they_are, 0)

    everyone = retrieval(comparer, split(images, patients))
    some = retrieval(comparer, split(images, patients), most_queries=7)

    assert (everyone.queries, some.queries) == (20, 7)
    assert 0.2 < everyone.rank_1 < 1  # the image that is called another patient's looks the same
    assert everyone.rank_5 == 1
    with pytest.raises(UsageError, match="nothing to retrieve"):
        retrieval(comparer, Split(images, images, np.arange(30).astype(str), split(images, patients).pairs))


def test_every_attacker_says_what_it_does_in_a_sentence() -> None:
    assert list(ATTACKERS) == [attacker.name for attacker in ATTACKERS.values()]
    assert all(attacker.description.endswith(".") for attacker in ATTACKERS.values())
    assert [name for name, attacker in ATTACKERS.items() if attacker.seeded] == [
        "verifier-retrained",
        "verifier-adaptive",
    ]


def test_an_image_in_many_pairs_is_embedded_once() -> None:
    images, _ = drawn(4, studies=1)

    different, which = once_each(images[[2, 0, 2, 3, 0]])

    assert np.array_equal(different, images[[2, 0, 3]])
    assert which.tolist() == [0, 1, 0, 2, 1]


def test_images_shrink_to_means_of_cells_at_any_size() -> None:
    image = np.arange(96 * 96).reshape(1, 96, 96).astype(np.uint8)

    np.testing.assert_allclose(shrunk(image, 32).reshape(32, 32), image.reshape(32, 3, 32, 3).mean((1, 3)) / 255, 1e-5)


def test_rounding_is_not_blown_up_to_length_one() -> None:
    rows = unit(np.array([[3.0, 4.0], [1e-7, -1e-7]]))

    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0]], atol=1e-7)
