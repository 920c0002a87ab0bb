import numpy as np
import pytest

from prichexy.cohort.splits import (
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    by_lists,
    by_seed,
    check_disjoint,
    counted,
    parse_list,
)
from prichexy.errors import UsageError

PATIENTS = np.array([f"P{number // 3}" for number in range(9000)])
THIRDS = (0.7, 0.1, 0.2)


def test_shares_of_patients_are_those_asked_for_and_no_patient_is_in_two_splits() -> None:
    codes = by_seed(PATIENTS, 42, THIRDS)
    shares = [len(set(PATIENTS[codes == code])) / 3000 for code in range(3)]
    assert shares == pytest.approx(THIRDS, abs=0.025)
    assert sum(len(set(PATIENTS[codes == code])) for code in range(3)) == 3000
    check_disjoint(PATIENTS, codes)


def test_a_growing_lake_moves_no_patient() -> None:
    few = by_seed(PATIENTS[:300], 42, THIRDS)
    shuffled = np.random.default_rng(0).permutation(len(PATIENTS))
    many = by_seed(PATIENTS[shuffled], 42, THIRDS)
    grown = dict(zip(PATIENTS[shuffled], many, strict=True))
    assert [grown[patient] for patient in PATIENTS[:300]] == few.tolist()


def test_the_hash_is_frozen_for_tables_made_years_apart() -> None:
    assert by_seed(["1", "2", "3", "13", "00000001", "P00012"], 42, (0.4, 0.3, 0.3)).tolist() == [1, 0, 0, 0, 1, 0]
    assert by_seed(PATIENTS, 43, THIRDS).tolist() != by_seed(PATIENTS, 42, THIRDS).tolist()


def test_a_share_of_zero_stays_empty() -> None:
    assert set(by_seed(PATIENTS, 1, (0.5, 0.0, 0.5)).tolist()) == {TRAIN, TEST}
    assert set(by_seed(PATIENTS, 1, (1.0, 0.0, 0.0)).tolist()) == {TRAIN}
    with pytest.raises(UsageError, match="must add up to 1"):
        by_seed(PATIENTS, 1, (0.5, 0.1, 0.5))


def test_official_lists_decide_the_test_and_validation_is_drawn_by_patient() -> None:
    images = np.array([f"{number}.png" for number in range(len(PATIENTS))])
    in_test = np.array([int(patient[1:]) % 5 == 0 for patient in PATIENTS])
    train_val = {*images[~in_test], "of another part of the lake.png"}
    codes = by_lists(images, PATIENTS, train_val, set(images[in_test]), 42, 0.25)
    assert ((codes == TEST) == in_test).all()
    check_disjoint(PATIENTS, codes)
    rest = set(PATIENTS[~in_test])
    assert len(set(PATIENTS[codes == VALIDATION])) / len(rest) == pytest.approx(0.25, abs=0.03)
    again = by_lists(images[:900], PATIENTS[:900], train_val, set(images[in_test]), 42, 0.25)
    assert (again == codes[:900]).all()


def test_lists_that_do_not_fit_are_refused_with_what_is_needed_to_mend_them() -> None:
    images, patients = [f"{letter}.png" for letter in "abcdefgh"], list("11223344")
    with pytest.raises(UsageError, match=r"^1 patient has images in two splits") as caught:
        by_lists(images, patients, set(images[:3]), set(images[3:]), 42, 0.0)
    assert "2" not in str(caught.value).replace("two", "")
    with pytest.raises(UsageError, match=r"neither list names 6 images \(c.png, d.png, e.png, f.png, g.png, ...\)"):
        by_lists(images, patients, {"a.png"}, {"b.png"}, 42, 0.0)
    with pytest.raises(UsageError, match="share 1 images"):
        by_lists(images, patients, set(images), {"b.png"}, 42, 0.0)


def test_a_list_is_one_name_a_line() -> None:
    assert parse_list(b"\xef\xbb\xbfa.png\r\n b.png \n\n", "splits.test_list") == {"a.png", "b.png"}
    with pytest.raises(UsageError, match=r"setting splits\.test_list: the list is empty"):
        parse_list(b"\n", "splits.test_list")
    with pytest.raises(UsageError, match=r"setting splits\.test_list: the file is not UTF-8"):
        parse_list(b"\xff\xfe\xfd", "splits.test_list")


def test_counts_name_five_at_most() -> None:
    assert counted(["b", "a"], "image") == "2 images (a, b)"
    assert counted(list("gfedcba"), "image") == "7 images (a, b, c, d, e, ...)"
    assert SPLITS == ("train", "validation", "test")
