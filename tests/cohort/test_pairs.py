import csv
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score

from prichexy.cohort.pairs import Pairs, draw_pairs, parse_pairs, same_patient_pairs
from prichexy.cohort.splits import by_seed
from prichexy.errors import UsageError

COHORT = np.repeat(np.arange(400), np.random.default_rng(3).geometric(0.3, 400)).astype(str)


def keys(pairs: Pairs, images: int) -> NDArray[np.int64]:
    return np.minimum(pairs.first, pairs.second) * images + np.maximum(pairs.first, pairs.second)


def check(pairs: Pairs, patients: NDArray[np.str_]) -> None:
    assert ((patients[pairs.first] == patients[pairs.second]) == pairs.same).all()
    assert pairs.same.sum() * 2 == len(pairs)
    assert (pairs.first != pairs.second).all()
    assert len(np.unique(keys(pairs, len(patients)))) == len(pairs)


@pytest.mark.parametrize(("pairs", "cap"), [(100, 6), (None, 6), (None, 2), (1000, 1000), (5, 1)])
def test_half_are_of_one_patient_and_none_is_there_twice(pairs: int | None, cap: int) -> None:
    drawn = draw_pairs(COHORT, pairs, 42, cap)
    check(drawn, COHORT)
    expected = 2 * same_patient_pairs(COHORT, cap)
    assert len(drawn) == (expected if pairs is None else min(pairs // 2 * 2, expected))
    assert max(Counter(COHORT[drawn.first[drawn.same]]).values()) <= cap


def test_every_image_is_as_often_in_either_kind_and_place() -> None:
    drawn = draw_pairs(COHORT, 500, 42)
    for rows in (drawn.first, drawn.second):
        same, other = (np.bincount(rows[kind], minlength=len(COHORT)) for kind in (drawn.same, ~drawn.same))
        assert (same == other).all()


def test_a_seed_gives_the_same_pairs_again_and_another_seed_others() -> None:
    one, again, other = (draw_pairs(COHORT, 400, seed) for seed in (42, 42, 43))
    assert (one.first == again.first).all()
    assert (one.second == again.second).all()
    assert set(keys(one, len(COHORT))) != set(keys(other, len(COHORT)))


def test_the_draw_is_uniform_over_what_patients_offer() -> None:
    patients = np.repeat(["a", "b", "c", "d"], [4, 4, 4, 2])
    seen, strangers = Counter[int](), Counter[int]()
    for seed in range(800):
        drawn = draw_pairs(patients, 12, seed)
        seen.update(keys(drawn, 14)[drawn.same].tolist())
        strangers.update(keys(drawn, 14)[~drawn.same].tolist())
    assert len(seen) == 19  # 6 of each but the last, which offers 3 at most and has 1: all that are possible
    # Those of the first three offer 3 at most (half of 6), so 6 of the 10 that are offered are drawn.
    assert np.array([seen[key] for key in seen if key != 12 * 14 + 13]) / 800 == pytest.approx(0.3, abs=0.06)
    assert seen[12 * 14 + 13] / 800 == pytest.approx(0.6, abs=0.06)
    between = [strangers[key] for key in strangers if key % 14 < 12]  # of the three alike patients
    assert len(between) == 48
    assert np.array(between) / np.mean(between) == pytest.approx(1, abs=0.35)


def test_order_within_a_same_patient_pair_is_random() -> None:
    drawn = draw_pairs(COHORT, None, 42)
    assert (drawn.first < drawn.second)[drawn.same].mean() == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    ("sizes", "expected"), [([2, 2], 4), ([3, 3], 12), ([10, 2, 2], 8), ([6, 2], 4), ([2, 1, 2], 4)]
)
def test_tiny_cohorts_give_as_many_as_can_be_balanced(sizes: list[int], expected: int) -> None:
    patients = np.repeat(np.arange(len(sizes)), sizes).astype(str)
    for seed in range(5):
        drawn = draw_pairs(patients, None, seed)
        check(drawn, patients)
        assert len(drawn) == expected


def test_a_million_pairs_of_a_hundred_thousand_images_take_seconds() -> None:
    patients = np.repeat(np.arange(20_000), np.random.default_rng(0).geometric(0.2, 20_000)).astype(str)
    began = time.perf_counter()
    drawn = draw_pairs(patients, 1_000_000, 42, 1_000_000)
    assert time.perf_counter() - began < 20
    assert len(patients) > 95_000
    assert len(drawn) > 700_000  # all that there are
    check(drawn, patients)


def test_one_patient_with_very_many_images_needs_no_more_memory_than_pairs() -> None:
    patients = np.repeat(["crowd", "b", "c"], [100_000, 100, 100])  # the first has 5 * 10^9 possible pairs
    drawn = draw_pairs(patients, 4000, 42, 10**9)
    check(drawn, patients)
    assert len(drawn) == 4000


def test_pairs_of_different_splits_share_no_patient() -> None:
    codes = by_seed(COHORT, 42, (0.6, 0.2, 0.2))
    owners = []
    for code in range(3):
        patients = COHORT[codes == code]
        drawn = draw_pairs(patients, None, 42)
        owners.append(set(patients[drawn.first]) | set(patients[drawn.second]))
    assert not owners[0] & owners[1]
    assert not owners[0] & owners[2]
    assert not owners[1] & owners[2]


def test_cohorts_without_pairs_are_refused() -> None:
    with pytest.raises(UsageError, match="no same-patient pair"):
        draw_pairs(["a", "b", "c"], 10, 42)
    with pytest.raises(UsageError, match="only one patient of the split has two images"):
        draw_pairs(["a", "a", "b"], 10, 42)
    with pytest.raises(UsageError, match="at least 4"):
        draw_pairs(COHORT, 3, 42)


IMAGES, OWNERS = ["a.png", "b.png", "c.png", "d.png"], ["1", "1", "2", "2"]


def test_the_authors_list_is_taken_in_its_order() -> None:
    pairs = parse_pairs(b"b.png\ta.png\t1\nc.png\ta.png\t0\r\n\nc.png\td.png\t1\n", IMAGES, OWNERS)
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([1, 2, 2], [0, 0, 3])
    assert pairs.same.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"a.png\tb.png\n", "line 1 is not"),
        (b"a.png\tb.png\t1\na.png b.png 1\n", "line 2 is not"),
        (b"a.png\tb.png\t2\n", "line 1 is not"),
        (b"a.png\tb.png\t0\n", "1 labels contradict the patients of the table, the first at pair 1"),
        (b"a.png\ta.png\t1\n", "1 pairs hold one image twice"),
        (b"\n", "the list holds no pair"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_lists_that_can_not_be_used_are_told_by_line(text: bytes, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse_pairs(text, IMAGES, OWNERS, "pairs.test")


def test_images_of_a_list_that_are_absent_are_counted_and_five_named() -> None:
    text = "".join(f"a.png\tx{number}.png\t0\n" for number in range(7)).encode()
    with pytest.raises(UsageError, match=r"7 images \(x0.png, x1.png, x2.png, x3.png, x4.png, ...\) that the split"):
        parse_pairs(text, IMAGES, OWNERS)


@pytest.mark.real
def test_known_attack_on_real_pairs(real_data: Path) -> None:
    """The correlation at 16 x 16 tells 812 same-patient pairs at 64 px with AUC 0.73 to 0.80 (issue and method)."""
    folder = real_data / "chestxray14"
    labels = list(csv.DictReader((folder / "labels_64.csv").open()))
    patients = np.array([line["Patient ID"] for line in labels])
    assert (len(patients), len(set(patients))) == (1727, 776)
    assert same_patient_pairs(patients) == 8535
    files = [folder / "images_64" / line["Image Index"] for line in labels]
    small = [np.asarray(Image.open(file).convert("L").resize((16, 16), Image.Resampling.BILINEAR)) for file in files]
    x_ND = np.stack(small).reshape(len(small), -1).astype(np.float64)
    x_ND -= x_ND.mean(axis=1, keepdims=True)
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    pairs = draw_pairs(patients, None, 42)
    check(pairs, patients)
    assert pairs.same.sum() == 812
    auc = roc_auc_score(pairs.same, (x_ND[pairs.first] * x_ND[pairs.second]).sum(axis=1))
    assert 0.73 < auc < 0.80
