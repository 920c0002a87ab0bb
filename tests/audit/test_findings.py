"""The attacker who compares what a classifier says of both images."""

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prichexy.audit.attackers import ATTACKERS
from prichexy.audit.evidence import Evidence
from prichexy.audit.statistics import auc, bootstrap_auc
from prichexy.errors import UsageError
from prichexy.networks.classifier import Classifier
from tests.audit.patterns import evidence, published

ATTACKER = ATTACKERS["findings"]


class Looking(nn.Module):
    """Fourteen logits: grey values at places of cells that patients have a pattern in, or of what no patient has."""

    def __init__(self, coarse: bool) -> None:
        super().__init__()
        self.coarse = coarse
        self.scale = nn.Parameter(torch.tensor([20.0]))

    def forward(self, images_N1HW: Tensor) -> Tensor:
        cells = images_N1HW.unflatten(-1, (8, 8)).unflatten(
            -3, (8, 8)
        )  # (N, 1, 8, 8, 8, 8): row, within, column, within
        if self.coarse:
            values = cells.mean(dim=(3, 5))[:, 0].flatten(1)
        else:
            values = (cells[:, 0, :, 0, :, 0] - cells[:, 0, :, 4, :, 4]).flatten(1)
        return self.scale * values[:, 3:59:4]


def with_classifier(given: Evidence, coarse: bool = True) -> Evidence:
    return replace(given, classifier=cast(Classifier, Looking(coarse)))


def found(given: Evidence) -> tuple[float, tuple[float, float]]:
    test, comparer = given.test, ATTACKER.fit(given, 0)
    scores = comparer.pair_scores(test.first_images, test.second_images)
    interval = bootstrap_auc(scores, test.pairs.same, test.first_patients, test.second_patients, seed=0)
    return auc(scores, test.pairs.same), interval


def test_it_recognizes_patients_where_logits_tell_them_apart() -> None:
    area, interval = found(with_classifier(evidence()))

    assert area > 0.9
    assert interval[0] > 0.8


def test_it_is_at_chance_where_logits_tell_nobody_apart() -> None:
    _, interval = found(with_classifier(evidence(), coarse=False))

    assert interval[0] < 0.5 < interval[1]


def test_it_is_at_chance_where_nothing_was_published() -> None:
    given = with_classifier(evidence())

    constant = replace(published(given, "constant"), classifier=given.classifier)
    noise = replace(published(given, "noise"), classifier=given.classifier)
    assert found(constant)[0] == 0.5
    low, high = found(noise)[1]
    assert low < 0.5 < high


def test_each_sides_logits_are_standardized_by_themselves() -> None:
    """Half the contrast and another exposure on the published side: the logits' order is what counts."""
    plain = with_classifier(evidence())

    def darker(given: Evidence) -> Evidence:
        splits = {
            name: replace(getattr(given, name), anonymized_NHW=getattr(given, name).anonymized_NHW // 4)
            for name in ("train", "validation", "test")
        }
        return replace(given, **splits)

    assert found(darker(plain))[0] == pytest.approx(found(plain)[0], abs=0.02)


def test_the_score_of_a_pair_is_its_similarity() -> None:
    given = with_classifier(evidence())
    test, comparer = given.test, ATTACKER.fit(given, 0)

    scores = comparer.pair_scores(test.first_images, test.second_images)
    all_QG = comparer.similarity(test.anonymized_NHW, test.originals_NHW)

    np.testing.assert_allclose(scores, all_QG[test.pairs.first, test.pairs.second], atol=1e-5)


def test_without_a_classifier_it_is_refused() -> None:
    given = evidence()

    assert not ATTACKER.applies(given)
    assert ATTACKER.applies(with_classifier(given))
    with pytest.raises(UsageError, match="needs a classifier"):
        ATTACKER.fit(given, 0)
