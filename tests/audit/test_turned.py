"""An attacker whose scores are the wrong way round notices by itself, and only then."""

from dataclasses import replace

import numpy as np
import pytest

from prichexy.audit.attackers import ATTACKERS, turned
from prichexy.audit.evidence import Evidence, Split
from prichexy.audit.runs import Run, attack
from prichexy.cohort.pairs import Pairs
from tests.audit.patterns import evidence


def negatives(split: Split) -> Split:
    return replace(split, anonymized_NHW=255 - split.anonymized_NHW)


def published_as_negatives(given: Evidence) -> Evidence:
    return replace(given, **{name: negatives(getattr(given, name)) for name in ("train", "validation", "test")})


@pytest.mark.parametrize("name", ["correlation-16", "correlation-64-less-mean", "high-pass"])
def test_negatives_hide_nobody(name: str) -> None:
    given = published_as_negatives(evidence())
    comparer = ATTACKERS[name].fit(given, 0)
    scores = comparer.pair_scores(given.test.first_images, given.test.second_images)

    outcome = attack(given, ATTACKERS[name], Run(name, 0))

    assert np.array_equal(outcome.scores_P, -scores)
    assert outcome.auc > 0.9
    assert outcome.details["scores_turned_round"] == 1
    assert outcome.found is not None
    assert outcome.found.rank_1 > 0.9


def test_one_that_is_right_or_guesses_stays_as_it_is() -> None:
    given = evidence()
    comparer = ATTACKERS["correlation-16"].fit(given, 0)
    assert turned(comparer, given.validation) is comparer
    noise = np.random.default_rng(0).integers(0, 255, given.validation.anonymized_NHW.shape).astype(np.uint8)
    assert turned(comparer, replace(given.validation, anonymized_NHW=noise)) is comparer


def test_pairs_of_one_kind_tell_nothing() -> None:
    split = negatives(evidence().validation)
    same = split.pairs.same
    alike = replace(split, pairs=Pairs(split.pairs.first[same], split.pairs.second[same], same[same]))
    comparer = ATTACKERS["correlation-16"].fit(evidence(), 0)
    assert turned(comparer, alike) is comparer
