"""Pairs of images within one split, half of one patient and half of two: what a verifier learns from.

How they are drawn. A patient with k images has k(k-1)/2 possible pairs, and offers at most `per_patient` of them;
the same-patient pairs are a uniform draw from all that is offered. The different-patient pairs hold *exactly the same
images, each as often and in the same place* (first or second): they are the same-patient pairs with their second images
permuted, such that no two of one patient meet. So nothing about a single image (its patient has many images, it is an
intensive-care film, it came at 64 pixels) tells the two kinds apart; only the comparison does. Images of patients with
one image are in no pair. Splits share no patient, hence neither do pairs drawn within different splits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prichexy.cohort.splits import counted
from prichexy.errors import UsageError

DEFAULT_PER_PATIENT = 6
"""As in the training-free attacks that the audit's figures are compared with."""

REPAIR_ROUNDS = 200

_MOST_OFFERED = 999_999_999
"""numpy's multivariate hypergeometric draw takes fewer than 10^9 in all."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pairs:
    """P pairs of images of one split, in random order.

    Attributes:
        first: (P,) rows of the split: the image that is anonymized.
        second: (P,) rows of the split: the image it is compared with.
        same: (P,) whether both are of one patient.
    """

    first: Rows
    second: Rows
    same: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.same)


def draw_pairs(
    patients: Sequence[str] | NDArray[Any], pairs: int | None, seed: int, per_patient: int = DEFAULT_PER_PATIENT
) -> Pairs:
    """Balanced pairs: half same-patient, half different-patient, none twice in either order.

    Args:
        patients: (N,) the patient of each image of one split.
        pairs: how many in all, or None for as many as there are; fewer come back when there are no more.
        seed: 0 or more; the same seed and patients give the same pairs.
        per_patient: most same-patient pairs of one patient (its images occur as often in the others).

    Returns:
        At most `pairs` pairs, as many of either kind.

    Raises:
        UsageError: a number is out of range, no patient has two images, or only one patient has.
    """
    if pairs is not None and pairs < 4:
        raise UsageError("the number of pairs must be at least 4: two of each kind")
    if per_patient < 1:
        raise UsageError("the number of pairs per patient must be at least 1")
    unique, owner_N = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    order_N = np.argsort(owner_N, kind="stable")
    images = np.bincount(owner_N, minlength=len(unique)).astype(np.int64)
    start = np.cumsum(images) - images
    possible = images * (images - 1) // 2
    check_pairs_possible(possible)
    rng = np.random.default_rng(seed)
    counts = _counts(possible, None if pairs is None else pairs // 2, per_patient, rng)
    patient_P, rank_P = _ranks(possible, counts, rng)
    low_P, high_P = _unranked(rank_P)
    first_P, second_P = order_N[start[patient_P] + low_P], order_N[start[patient_P] + high_P]
    turned = rng.random(len(first_P)) < 0.5
    first_P, second_P = np.where(turned, second_P, first_P), np.where(turned, first_P, second_P)
    partner_P, good_P = _strangers(first_P, second_P, owner_N, rng)
    first_P, second_P, partner_P = first_P[good_P], second_P[good_P], partner_P[good_P]
    shuffled = rng.permutation(2 * len(first_P))
    return Pairs(
        np.concatenate([first_P, first_P])[shuffled],
        np.concatenate([second_P, partner_P])[shuffled],
        np.repeat([True, False], len(first_P))[shuffled],
    )


def same_patient_pairs(patients: Sequence[str] | NDArray[Any], per_patient: int | None = None) -> int:
    """How many same-patient pairs there are, or as many as `draw_pairs` is offered."""
    _, images = np.unique(np.asarray(patients, dtype=np.str_), return_counts=True)
    possible = images.astype(np.int64) * (images - 1) // 2
    return int((possible if per_patient is None else np.minimum(possible, per_patient)).sum())


def check_pairs_possible(possible: NDArray[np.int64]) -> None:
    """Refuse a split without pairs of both kinds.

    Args:
        possible: same-patient pairs of each patient.

    Raises:
        UsageError: no patient has two images, or only one patient has.
    """
    several = int((possible > 0).sum())
    if not several:
        raise UsageError("there is no same-patient pair: no patient of the split has two images")
    if several == 1:
        raise UsageError("only one patient of the split has two images: balanced pairs need two such patients")


def parse_pairs(
    text: bytes, images: Sequence[str] | NDArray[Any], patients: Sequence[str] | NDArray[Any], setting: str = "pairs"
) -> Pairs:
    """The pairs of a list in the authors' format, in its order: image, image, 1 (same patient) or 0, tab-separated.

    Args:
        text: the list file.
        images: (N,) file names of the split's images.
        patients: (N,) the patient of each.
        setting: the list's setting, for errors.

    Raises:
        UsageError: a line of another form, images that the split does not hold (count and the first five), or a label
            that contradicts the patients.
    """
    fields = _fields(text, setting)
    names, owners = np.asarray(images, dtype=np.str_).tolist(), np.asarray(patients, dtype=np.str_)
    row_of = {name: row for row, name in enumerate(names)}
    rows = np.array([[row_of.get(a, -1), row_of.get(b, -1)] for a, b, _ in fields], dtype=np.int64)
    if (rows < 0).any():
        absent = sorted({name for line in fields for name in line[:2] if name not in row_of})
        raise UsageError(f"setting {setting}: the list names {counted(absent, 'image')} that the split does not hold")
    same_P = np.array([label == "1" for _, _, label in fields])
    wrong = np.flatnonzero(same_P != (owners[rows[:, 0]] == owners[rows[:, 1]]))
    if len(wrong):
        raise UsageError(
            f"setting {setting}: {len(wrong)} labels contradict the patients of the table, the first at pair "
            f"{wrong[0] + 1}: the list belongs to other images"
        )
    if (rows[:, 0] == rows[:, 1]).any():
        raise UsageError(f"setting {setting}: {int((rows[:, 0] == rows[:, 1]).sum())} pairs hold one image twice")
    return Pairs(rows[:, 0], rows[:, 1], same_P)


def _fields(text: bytes, setting: str) -> list[list[str]]:
    try:
        lines = text.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"setting {setting}: the file is not UTF-8 text") from None
    fields = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) != 3 or parts[2] not in ("0", "1"):
            raise UsageError(f"setting {setting}: line {number} is not 'image, image, 0 or 1' with tabs between")
        fields.append(parts)
    if not fields:
        raise UsageError(f"setting {setting}: the list holds no pair")
    return fields


def _counts(possible: Rows, wanted: int | None, per_patient: int, rng: np.random.Generator) -> Rows:
    """How many same-patient pairs each patient gives: those of a uniform draw from all that the patients offer.

    No patient gives over half of them, or its images would find too few strangers.
    """
    offered = np.minimum(possible, min(per_patient, _MOST_OFFERED // len(possible)))
    if wanted is not None:
        offered = np.minimum(offered, wanted // 2)
    counts = offered.copy()
    if wanted is not None and wanted < offered.sum():
        counts = np.asarray(rng.multivariate_hypergeometric(offered, wanted), dtype=np.int64)
    heaviest = int(counts.argmax())
    counts[heaviest] = min(int(counts[heaviest]), int(counts.sum()) - int(counts[heaviest]))
    return counts


def _ranks(possible: Rows, counts: Rows, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Patients and ranks of their drawn pairs: `counts` different ranks below `possible` for each patient.

    Where a patient's possible pairs are few they are all listed and shuffled; where they are many, ranks are drawn
    again until enough differ. Memory follows the pairs asked for, never all that are possible.
    """
    few = possible <= 4 * counts
    listed = np.where(few & (counts > 0), possible, 0)
    patient = np.repeat(np.arange(len(possible)), listed)
    rank = np.arange(len(patient)) - np.repeat(np.cumsum(listed) - listed, listed)
    order = np.lexsort((rng.random(len(patient)), patient))  # ranks shuffled within each patient
    patients, ranks = [], []
    kept = order[rank < counts[patient]]
    patients.append(patient[kept])
    ranks.append(rank[kept])
    missing = np.where(few, 0, counts)
    drawn = np.empty((0, 2), dtype=np.int64)
    while missing.any():
        patient = np.repeat(np.arange(len(possible)), missing)
        fresh = np.stack([patient, rng.integers(0, possible[patient])], axis=1)
        drawn = np.unique(np.concatenate([drawn, fresh]), axis=0)
        missing = np.where(few, 0, counts) - np.bincount(drawn[:, 0], minlength=len(possible))
    return np.concatenate([*patients, drawn[:, 0]]), np.concatenate([*ranks, drawn[:, 1]])


def _unranked(rank_P: Rows) -> tuple[Rows, Rows]:
    """The pair low < high of each rank, in the order (0,1), (0,2), (1,2), (0,3), ..."""
    high_P = ((1 + np.sqrt(1 + 8 * rank_P.astype(np.float64))) / 2).astype(np.int64)
    high_P -= high_P * (high_P - 1) // 2 > rank_P  # the square root may round across an integer
    high_P += (high_P + 1) * high_P // 2 <= rank_P
    return rank_P - high_P * (high_P - 1) // 2, high_P


def _strangers(
    first_P: Rows, second_P: Rows, owner_N: NDArray[np.intp], rng: np.random.Generator
) -> tuple[Rows, NDArray[np.bool_]]:
    """The second images permuted so that no pair is of one patient and none is there twice.

    With the pairs sorted by patient, a rotation by the largest patient's share lets no patient meet itself (none has
    over half). Random exchanges that keep it so then mix, and further ones part pairs that are there twice; only in
    cohorts of a few patients may some stay.

    Returns:
        The permuted second images, and which places are right.
    """
    places, (_, number_P) = len(first_P), np.unique(owner_N[first_P], return_inverse=True)
    shuffled = rng.permutation(int(number_P.max()) + 1)[number_P]
    order = np.lexsort((rng.random(places), shuffled))
    partner_P = np.empty_like(second_P)
    partner_P[order] = second_P[np.roll(order, -int(np.bincount(number_P).max()))]
    for _ in range(2 * places.bit_length() + 8):
        mixed = rng.permutation(places)
        partner_P = _exchanged(partner_P, mixed[: places // 2], mixed[places // 2 : places // 2 * 2], first_P, owner_N)
    good_P = _is_good(first_P, partner_P, owner_N)
    for _ in range(REPAIR_ROUNDS):
        wrong = np.flatnonzero(~good_P)
        if not len(wrong):
            break
        here = wrong[: places // 2]
        others = rng.permutation(np.setdiff1d(np.arange(places), here))[: len(here)]
        proposed_P = _exchanged(partner_P, here, others, first_P, owner_N)
        proposed_good_P = _is_good(first_P, proposed_P, owner_N)
        if proposed_good_P.sum() >= good_P.sum():
            partner_P, good_P = proposed_P, proposed_good_P
    return partner_P, good_P


def _exchanged(partner_P: Rows, a: Rows, b: Rows, first_P: Rows, owner_N: NDArray[np.intp]) -> Rows:
    """Second images at places `a` and `b` exchanged, where both stay with a stranger."""
    strangers = (owner_N[first_P[a]] != owner_N[partner_P[b]]) & (owner_N[first_P[b]] != owner_N[partner_P[a]])
    a, b = a[strangers], b[strangers]
    out = partner_P.copy()
    out[a], out[b] = partner_P[b], partner_P[a]
    return out


def _is_good(first_P: Rows, partner_P: Rows, owner_N: NDArray[np.intp]) -> NDArray[np.bool_]:
    key_P = np.minimum(first_P, partner_P) * len(owner_N) + np.maximum(first_P, partner_P)
    order = np.argsort(key_P, kind="stable")
    repeated = np.zeros(len(key_P), dtype=np.bool_)
    repeated[order[1:]] = key_P[order[1:]] == key_P[order[:-1]]
    return np.asarray(~repeated & (owner_N[first_P] != owner_N[partner_P]))
