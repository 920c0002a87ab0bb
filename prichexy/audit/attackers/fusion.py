"""The attacker who has run all others: mean rank of their scores.

Shape suffixes: P pair.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prichexy.audit.attackers.protocol import Scores

NAME = "fusion"
DESCRIPTION = "Averages the ranks that all other attackers give a pair."


def fused(scores: Sequence[NDArray[Any]]) -> Scores:
    """Mean rank of each pair over several attackers; equal scores share the mean of their ranks.

    Args:
        scores: (P,) scores of each attacker, for the same pairs; scales may differ.

    Returns:
        (P,) mean ranks in [1, P], higher is more likely the same patient.

    Raises:
        ValueError: no attacker is given, or their pairs differ in number.
    """
    if not scores or len({len(each) for each in scores}) != 1:
        raise ValueError("fusion needs the scores of at least one attacker, all of the same pairs")
    return np.asarray(np.mean([_ranks(np.asarray(each)) for each in scores], axis=0))


def _ranks(scores_P: NDArray[Any]) -> Scores:
    _, place_P, counts = np.unique(scores_P, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place_P])
