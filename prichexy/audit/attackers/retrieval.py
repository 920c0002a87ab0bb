"""Who is it? The published image as a query, all originals as the gallery.

Shape suffixes: Q query, G gallery image, N image.
"""

from typing import NamedTuple

import numpy as np

from prichexy.audit.attackers.protocol import Comparer
from prichexy.audit.evidence import Split
from prichexy.audit.statistics import map_at_r, rank_k, ranked
from prichexy.errors import UsageError

MOST_QUERIES = 2000


class Retrieval(NamedTuple):
    """How well a comparer finds a patient.

    Attributes:
        queries: how many were asked.
        rank_1: share of queries whose best match shows the patient.
        rank_5: share with the patient among the best five.
        map_at_r: mean average precision at R.
    """

    queries: int
    rank_1: float
    rank_5: float
    map_at_r: float


def retrieval(comparer: Comparer, split: Split, most_queries: int = MOST_QUERIES, seed: int = 0) -> Retrieval:
    """Figures of published images searched for among the originals of a split.

    A query's own original is taken out of its gallery: finding the picture that was published is no finding of the
    patient on another. The patient's other originals are the positives; queries without any are left out.

    Args:
        comparer: a fitted attacker.
        split: the test split.
        most_queries: most queries asked, drawn at random where there are more; the gallery is always whole.
        seed: of that draw and of the order of equal similarities.

    Raises:
        UsageError: no patient has two images.
    """
    _, owner_N, images = np.unique(split.patients_N, return_inverse=True, return_counts=True)
    rows_Q = np.flatnonzero(images[owner_N] > 1)
    if not len(rows_Q):
        raise UsageError("no patient of the split has two images: there is nothing to retrieve")
    if len(rows_Q) > most_queries:
        rows_Q = np.sort(np.random.default_rng(seed).choice(rows_Q, most_queries, replace=False))
    similarity_QG = comparer.similarity(split.anonymized_NHW[rows_Q], split.originals_NHW)
    positive_QG = owner_N[rows_Q, None] == owner_N
    own = (np.arange(len(rows_Q)), rows_Q)
    similarity_QG[own], positive_QG[own] = -np.inf, False
    ranked_QG = ranked(similarity_QG, positive_QG, seed)
    return Retrieval(len(rows_Q), rank_k(ranked_QG, 1), rank_k(ranked_QG, 5), map_at_r(ranked_QG))
