"""Splits by patient: no patient's images are ever in two of them.

From a seed, a patient's split follows from the seed and the patient alone, by a hash: a lake that grows never moves a
patient who was there before. Or from official lists, such as NIH's ``train_val_list.txt`` and ``test_list.txt``; the
validation part is then drawn, by the same hash, from the patients of the first.
"""

from collections.abc import Collection, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prichexy.errors import UsageError

SPLITS: tuple[str, ...] = ("train", "validation", "test")
"""A split's code is its place here."""

TRAIN, VALIDATION, TEST = range(3)

Codes = NDArray[np.int8]


def by_seed(patients: Sequence[str] | NDArray[Any], seed: int, fractions: tuple[float, float, float]) -> Codes:
    """The split of each image, from a seed.

    Args:
        patients: (N,) the patient of each image.
        seed: any integer.
        fractions: shares of the patients (not of the images) in train, validation and test; they add up to 1.

    Returns:
        (N,) places in `SPLITS`.

    Raises:
        UsageError: the fractions are negative or don't add up to 1.
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UsageError("the fractions of train, validation and test must not be negative and must add up to 1")
    unique, inverse = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    edges = np.cumsum(fractions)[:2]
    # A share of 0 stays empty: the search is to the right of an edge that is met exactly.
    return np.searchsorted(edges, _positions(unique, seed), side="right").astype(np.int8)[inverse]


def by_lists(
    images: Sequence[str] | NDArray[Any],
    patients: Sequence[str] | NDArray[Any],
    train_val: Collection[str],
    test: Collection[str],
    seed: int,
    validation: float,
) -> Codes:
    """The split of each image, from official lists; the lists may name images that are not here.

    Args:
        images: (N,) file names.
        patients: (N,) the patient of each image.
        train_val: file names of the training and validation images.
        test: file names of the test images.
        seed: any integer; draws the validation patients.
        validation: the share of `train_val`'s patients that become the validation split, 0 to 1.

    Returns:
        (N,) places in `SPLITS`.

    Raises:
        UsageError: an image is in neither list or in both, or a patient has images in both.
    """
    names, owners = np.asarray(images, dtype=np.str_), np.asarray(patients, dtype=np.str_)
    if set(train_val) & set(test):
        raise UsageError(f"the lists share {len(set(train_val) & set(test))} images: an image is in one split only")
    in_test, in_train = _listed(names, test), _listed(names, train_val)
    unlisted = names[~(in_test | in_train)]
    if len(unlisted):
        raise UsageError(f"neither list names {counted(unlisted, 'image')}: give the lists that belong to these images")
    codes = by_seed(owners, seed, (1 - validation, validation, 0.0))
    codes[in_test] = TEST
    check_disjoint(owners, codes)
    return codes


def check_disjoint(patients: Sequence[str] | NDArray[Any], codes: Codes) -> None:
    """Refuse splits that share a patient.

    Raises:
        UsageError: how many patients have images in two splits; never which.
    """
    _, inverse = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    pairs = np.unique(inverse.astype(np.int64) * len(SPLITS) + codes)
    shared = len(pairs) - len(np.unique(pairs // len(SPLITS)))
    if shared:
        noun = "patient has" if shared == 1 else "patients have"
        raise UsageError(f"{shared} {noun} images in two splits: a patient belongs to one split, mend the lists")


def parse_list(text: bytes, setting: str) -> frozenset[str]:
    """The file names of an official list, one a line.

    Args:
        text: the list file.
        setting: its setting, for the error.

    Raises:
        UsageError: no UTF-8 text, or no name in it.
    """
    try:
        names = frozenset(line.strip() for line in text.decode("utf-8-sig").splitlines()) - {""}
    except UnicodeDecodeError:
        raise UsageError(f"setting {setting}: the file is not UTF-8 text") from None
    if not names:
        raise UsageError(f"setting {setting}: the list is empty; one file name a line is expected")
    return names


def counted(names: Sequence[str] | NDArray[Any], noun: str) -> str:
    """How many, and the first five by name: '7 images (a.png, b.png, c.png, d.png, e.png, ...)'."""
    first = ", ".join(sorted(map(str, names))[:5])
    return f"{len(names)} {noun}{'s' if len(names) != 1 else ''} ({first}{', ...' if len(names) > 5 else ''})"


def _listed(names: NDArray[np.str_], listed: Collection[str]) -> NDArray[np.bool_]:
    wanted = listed if isinstance(listed, (set, frozenset)) else set(listed)
    return np.fromiter((name in wanted for name in names.tolist()), dtype=np.bool_, count=len(names))


def _positions(patients: NDArray[np.str_], seed: int) -> NDArray[np.float64]:
    """Where each patient stands in [0, 1): 53 bits of a hash of seed and patient."""
    key = f"{seed}:".encode()
    digests = b"".join(
        blake2b(key + name.encode("utf-8", "surrogatepass"), digest_size=8, person=b"split").digest()
        for name in patients.tolist()
    )
    return (np.frombuffer(digests, ">u8") >> np.uint64(11)).astype(np.float64) / 2**53
