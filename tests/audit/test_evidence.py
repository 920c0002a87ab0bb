import numpy as np
import pytest

from prichexy.audit.evidence import Evidence, Split, refuse_seen
from prichexy.audit.statistics import Enough
from prichexy.errors import UsageError
from tests.audit.patterns import drawn, evidence, split


def test_a_pair_is_a_published_image_against_an_original() -> None:
    originals, patients = drawn(4)
    given = split(originals, patients, anonymized=255 - originals)

    row = int(given.pairs.first[0])
    assert np.array_equal(given.first_images[0], 255 - originals[row])
    assert np.array_equal(given.second_images[0], originals[given.pairs.second[0]])
    assert ((given.first_patients == given.second_patients) == given.pairs.same).all()


@pytest.mark.parametrize("seen_in", ["training", "validation"])
def test_a_test_patient_seen_before_is_refused_without_saying_who(seen_in: str) -> None:
    whole = evidence()
    originals, patients = drawn(24, prefix="test")
    patients = np.where(patients == "test3", "train3" if seen_in == "training" else "validation3", patients)

    with pytest.raises(UsageError) as refusal:
        Evidence(whole.train, whole.validation, split(originals, patients))

    assert "1 test patient was seen in the attackers' " + seen_in in str(refusal.value)
    assert "train3" not in str(refusal.value)


def test_validation_patients_seen_in_training_are_counted() -> None:
    whole = evidence()

    with pytest.raises(UsageError, match="12 validation patients were seen in the attackers' training"):
        Evidence(split(*drawn(30, prefix="validation")), whole.validation, whole.test)


def test_patients_of_the_models_own_training_are_refused_by_name_of_the_training() -> None:
    with pytest.raises(UsageError, match="2 test patients were seen in the model's training"):
        refuse_seen(["a", "b", "c"], ["c", "a", "d"], "the model's training")


def test_too_few_patients_are_told_how_many_are_needed() -> None:
    whole = evidence()

    with pytest.raises(UsageError, match="of 7 patients, but an interval needs at least 20"):
        Evidence(whole.train, whole.validation, split(*drawn(7, prefix="test")))


def test_too_few_pairs_are_told_how_many_are_needed() -> None:
    whole = evidence()
    test = split(*drawn(24, prefix="test"))

    with pytest.raises(UsageError, match="72 test pairs are of the same patient, but an interval needs at least 80"):
        Evidence(whole.train, whole.validation, test, enough=Enough(pairs=80))


def test_images_that_are_not_as_published_are_refused() -> None:
    originals, patients = drawn(4)
    pairs = split(originals, patients).pairs

    with pytest.raises(ValueError, match="uint8"):
        Split(originals, originals.astype(np.float32), patients, pairs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one shape"):
        Split(originals, originals[1:], patients, pairs)
    for seeds in (np.zeros(3, dtype=np.int64), np.zeros(len(patients))):
        with pytest.raises(ValueError, match="int64, one for each image"):
            Split(originals, originals, patients, pairs, seeds)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rows of the split"):
        Split(originals[:3], originals[:3], patients[:3], pairs)
