"""Areas under ROC curves, retrieval figures, and their intervals by resampling patients.

The bootstrap draws as many patients as there are, with replacement; m is how often a patient was drawn. Images of one
patient resemble each other, so images or pairs drawn singly would give intervals that are too narrow.

- An image of patient a has weight m_a.
- A pair of one patient has weight m_a, a pair of two has m_a * m_b: that many times it is among the drawn.

A resample without both kinds of pair (or without an image with and one without the finding) has no AUC and is left
out. Intervals are percentiles.

Shape suffixes: P pair, N image, F finding, R resample, S seed, Q query, G gallery image, K patient.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from prichexy.errors import UsageError

Floats = NDArray[np.float64]
Marks = NDArray[np.bool_]

RESAMPLES = 1000
CONFIDENCE = 0.95

_CELLS = 4_000_000
"""Weights in memory at a time: 32 MB."""


class Interval(NamedTuple):
    """The bounds of a confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Enough:
    """What a bootstrap over patients needs at least.

    Attributes:
        patients: different patients in the pairs; below about 20, percentile intervals over clusters are too narrow.
        pairs: pairs of one patient, and as many of two.
    """

    patients: int = 20
    pairs: int = 20


ENOUGH = Enough()


def check_enough(
    same_P: Marks, first_patients_P: NDArray[Any], second_patients_P: NDArray[Any], needed: Enough = ENOUGH
) -> None:
    """Refuse pairs that are too few for an interval.

    Args:
        same_P: whether each pair is of one patient.
        first_patients_P: the patient of each pair's first image.
        second_patients_P: the patient of each pair's second image.
        needed: the least.

    Raises:
        UsageError: what there is, and how much is needed.
    """
    patients = len(np.unique(np.concatenate([first_patients_P, second_patients_P])))
    if patients < needed.patients:
        raise UsageError(
            f"the test pairs are of {patients} patients, but an interval needs at least {needed.patients}: "
            "audit with a table of more patients with several images each"
        )
    same = int(np.count_nonzero(same_P))
    for kind, count in (("the same patient", same), ("two patients", len(same_P) - same)):
        if count < needed.pairs:
            raise UsageError(
                f"{count} test pairs are of {kind}, but an interval needs at least {needed.pairs}: "
                "ask for more test pairs, or audit with a table of more patients with several images each"
            )


def auc(scores_P: NDArray[Any], same_P: NDArray[Any]) -> float:
    """Area under the ROC curve (scikit-learn's); 0.5 is chance.

    Args:
        scores_P: higher is more likely positive.
        same_P: which are positive.

    Raises:
        UsageError: all are of one kind.
    """
    if np.all(same_P) or not np.any(same_P):
        raise UsageError("an AUC needs both kinds: all pairs (or images) are of one")
    return float(roc_auc_score(same_P, scores_P))


def weighted_auc(scores_P: NDArray[Any], positive_P: NDArray[Any], weights_RP: NDArray[Any]) -> Floats:
    """AUC under each of R weightings at once; NaN where one kind has no weight.

    Args:
        scores_P: (P,) scores; ties count half.
        positive_P: (P,) which are positive.
        weights_RP: (R, P) weights, none negative.

    Returns:
        (R,) areas.
    """
    order = np.argsort(scores_P, kind="stable")
    sorted_P, positive_P = np.asarray(scores_P)[order], np.asarray(positive_P, dtype=np.bool_)[order]
    weights_RP = weights_RP[:, order]
    # Weight of the negatives below each place of the order, with a 0 before the first.
    below_RP = np.zeros((len(weights_RP), len(order) + 1))
    np.cumsum(np.where(positive_P, 0.0, weights_RP), axis=1, out=below_RP[:, 1:])
    left = np.searchsorted(sorted_P, sorted_P[positive_P], side="left")
    right = np.searchsorted(sorted_P, sorted_P[positive_P], side="right")
    won_RP = (below_RP[:, left] + below_RP[:, right]) / 2
    positive_weights_RP = weights_RP[:, positive_P]
    with np.errstate(invalid="ignore", divide="ignore"):
        area_R: Floats = (positive_weights_RP * won_RP).sum(1) / (positive_weights_RP.sum(1) * below_RP[:, -1])
    return area_R


def bootstrap_auc(
    scores: NDArray[Any],
    same_P: NDArray[Any],
    first_patients_P: NDArray[Any],
    second_patients_P: NDArray[Any],
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Interval of an attacker's AUC, by patient; of its mean over seeds where scores of several are given.

    Args:
        scores: (P,) scores of the pairs, or (S, P) of S seeds: in each resample the AUCs of all seeds are averaged.
        same_P: whether each pair is of one patient.
        first_patients_P: the patient of each pair's first image.
        second_patients_P: the patient of each pair's second image.
        seed: of the resamples.
        resamples: how many.
        confidence: share of the resamples within the interval.

    Raises:
        UsageError: no resample holds both kinds of pair.
    """
    scores_SP = np.atleast_2d(scores)
    patients, owner = np.unique(np.concatenate([first_patients_P, second_patients_P]), return_inverse=True)
    first_P, second_P = np.split(owner, 2)
    areas: list[Floats] = []
    for drawn_RK in _drawn(len(patients), len(same_P), resamples, seed):
        weights_RP = drawn_RK[:, first_P] * np.where(first_P == second_P, 1.0, drawn_RK[:, second_P])
        areas.append(np.mean([weighted_auc(scores_P, same_P, weights_RP) for scores_P in scores_SP], axis=0))
    return _interval(np.concatenate(areas), confidence)


@dataclass(frozen=True, eq=False)
class AucDifference:
    """AUCs of F findings under two conditions, and the interval of the second less the first.

    Attributes:
        first: (F,) AUC under the first condition; NaN where all images agree on the finding.
        second: (F,) under the second.
        low: (F,) lower bound of the difference ``second - first``.
        high: (F,) upper bound.
        first_mean: over the findings that have an AUC.
        second_mean: the same of the second.
        mean: interval of the mean difference.
    """

    first: Floats
    second: Floats
    low: Floats
    high: Floats
    first_mean: float
    second_mean: float
    mean: Interval


def bootstrap_difference(
    labels_NF: NDArray[Any],
    first_NF: NDArray[Any],
    second_NF: NDArray[Any],
    patients_N: NDArray[Any],
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> AucDifference:
    """Paired difference of two conditions' AUCs on the same images: both are computed on each resample of patients.

    Args:
        labels_NF: whether each image has each finding.
        first_NF: scores under the first condition, such as on originals.
        second_NF: scores under the second, such as on anonymized images.
        patients_N: the patient of each image.
        seed: of the resamples.
        resamples: how many.
        confidence: share of the resamples within the interval.

    Raises:
        UsageError: no finding is present in some images and absent in others.
    """
    labels_NF = np.asarray(labels_NF, dtype=np.bool_)
    patients, owner_N = np.unique(np.asarray(patients_N), return_inverse=True)
    known = [f for f in range(labels_NF.shape[1]) if 0 < np.count_nonzero(labels_NF[:, f]) < len(labels_NF)]
    if not known:
        raise UsageError("no finding is present in some images and absent in others: there is no AUC to compare")
    difference_FR = np.full((labels_NF.shape[1], resamples), np.nan)
    start = 0
    for drawn_RK in _drawn(len(patients), len(owner_N), resamples, seed):
        weights_RN = drawn_RK[:, owner_N]
        for f in known:
            both = [weighted_auc(scores_NF[:, f], labels_NF[:, f], weights_RN) for scores_NF in (first_NF, second_NF)]
            difference_FR[f, start : start + len(weights_RN)] = both[1] - both[0]
        start += len(weights_RN)
    empty = np.full(labels_NF.shape[1], np.nan)
    first_F, second_F, low_F, high_F = empty.copy(), empty.copy(), empty.copy(), empty.copy()
    for f in known:
        first_F[f], second_F[f] = auc(first_NF[:, f], labels_NF[:, f]), auc(second_NF[:, f], labels_NF[:, f])
        low_F[f], high_F[f] = _interval(difference_FR[f], confidence)
    return AucDifference(
        first_F,
        second_F,
        low_F,
        high_F,
        float(first_F[known].mean()),
        float(second_F[known].mean()),
        _interval(_mean_of_known(difference_FR[known]), confidence),
    )


def rank_k(ranked_QG: Marks, k: int) -> float:
    """Share of queries with a positive among the first k of the gallery.

    Args:
        ranked_QG: whether each gallery image is a positive, best first (see `ranked`).
        k: at least 1.
    """
    return float(ranked_QG[:, :k].any(axis=1).mean())


def map_at_r(ranked_QG: Marks) -> float:
    """Mean average precision at R, R the number of a query's positives (Musgrave et al., arXiv 2003.08505, section 3).

    For one query: the mean over the first R places of the precision up to that place, or 0 where it holds a negative.

    Args:
        ranked_QG: whether each gallery image is a positive, best first; each query has a positive.
    """
    place_G = np.arange(1, ranked_QG.shape[1] + 1)
    positives_Q = ranked_QG.sum(axis=1)
    counted_QG = ranked_QG & (place_G <= positives_Q[:, None])
    precision_QG = np.cumsum(ranked_QG, axis=1) / place_G
    return float(((counted_QG * precision_QG).sum(axis=1) / positives_Q).mean())


def ranked(similarity_QG: NDArray[Any], positive_QG: Marks, seed: int = 0) -> Marks:
    """`positive_QG` with each row in falling order of similarity; equals in random order, or none would be fair.

    Args:
        similarity_QG: any numbers; minus infinity comes last.
        positive_QG: which gallery images show the query's patient.
        seed: of the order of equals.
    """
    shuffled_G = np.random.default_rng(seed).permutation(similarity_QG.shape[1])
    order_QG = np.argsort(-similarity_QG[:, shuffled_G], axis=1, kind="stable")
    return np.asarray(np.take_along_axis(positive_QG[:, shuffled_G], order_QG, axis=1), dtype=np.bool_)


def _drawn(patients: int, samples: int, resamples: int, seed: int) -> list[Floats]:
    """How often each patient is drawn, (R, K), in blocks whose weights over the samples fit into memory."""
    rng = np.random.default_rng(seed)
    drawn_RK = rng.multinomial(patients, np.full(patients, 1 / patients), size=resamples).astype(np.float64)
    block = max(1, _CELLS // max(samples, patients))
    return [drawn_RK[start : start + block] for start in range(0, resamples, block)]


def _interval(values_R: Floats, confidence: float) -> Interval:
    finite_R = values_R[np.isfinite(values_R)]
    if not len(finite_R):
        raise UsageError("no resample of the patients holds both kinds: an interval needs more patients")
    tail = (1 - confidence) / 2
    low, high = np.quantile(finite_R, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _mean_of_known(values_FR: Floats) -> Floats:
    """Mean over the findings that have a value in the resample; NaN where none has."""
    known_FR = np.isfinite(values_FR)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known_FR, values_FR, 0).sum(axis=0) / known_FR.sum(axis=0))
