"""An attacker that ranks pairs the wrong way round notices on pairs of its own, and turns its scores.

A generator can make a patient's images less alike than those of strangers: an AUC of 0.3 tells as much as one of 0.7.
"""

from collections.abc import Mapping

import numpy as np

from prichexy.audit.attackers.protocol import Comparer, Scores
from prichexy.audit.evidence import Images, Split
from prichexy.audit.statistics import auc

TURNED = "scores_turned_round"
"""Among the details of a comparer, 1 where its scores were turned."""

CHANCE = 2.0
"""Standard errors below 0.5 from which an AUC is no chance."""


def turned(comparer: Comparer, split: Split) -> Comparer:
    """The comparer, or its opposite where it is worse than guessing beyond chance.

    Args:
        comparer: of any scale.
        split: of patients who judge nothing; where its pairs are all of one kind, they tell nothing.
    """
    same_P = split.pairs.same
    positives, negatives = int(same_P.sum()), int((~same_P).sum())
    if not positives or not negatives:
        return comparer
    # Of an AUC without any signal: the normal approximation of Mann and Whitney (1947).
    error = np.sqrt((positives + negatives + 1) / (12 * positives * negatives))
    reached = auc(comparer.pair_scores(split.first_images, split.second_images), same_P)
    return _Opposite(comparer) if reached < 0.5 - CHANCE * error else comparer


class _Opposite:
    def __init__(self, comparer: Comparer) -> None:
        self.comparer = comparer
        self.details: Mapping[str, float] = {**comparer.details, TURNED: 1.0}

    def pair_scores(self, first_PHW: Images, second_PHW: Images) -> Scores:
        return -self.comparer.pair_scores(first_PHW, second_PHW)

    def similarity(self, queries_QHW: Images, gallery_GHW: Images) -> Scores:
        return -self.comparer.similarity(queries_QHW, gallery_GHW)
