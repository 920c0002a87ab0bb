"""What the attackers are given: originals and published images of three splits that share no patient.

Shape suffixes: N image, P pair, H height, W width.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prichexy.audit.statistics import ENOUGH, Enough, check_enough
from prichexy.cohort.pairs import Pairs
from prichexy.errors import UsageError
from prichexy.networks.classifier import Classifier
from prichexy.networks.verifier import Verifier
from prichexy.obfuscation.protocol import Obfuscator

Images = NDArray[np.uint8]
Patients = NDArray[np.str_]
Seeds = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """N images of one split, before and after, and the pairs by which a verification is judged.

    Attributes:
        originals_NHW: uint8, (N, H, W).
        anonymized_NHW: the same images as published, quantised to 8 bits, same shape.
        patients_N: (N,) the patient of each.
        pairs: rows into the split; an attacker compares ``anonymized_NHW[first]`` with ``originals_NHW[second]``.
        seeds_N: (N,) the seeds with which the images were anonymized, or None where they are unknown. The custodian
            has them; what an attacker reaches with them is reported, and no part of a verdict.
    """

    originals_NHW: Images  # noqa: N815 - tensors carry their shape
    anonymized_NHW: Images  # noqa: N815
    patients_N: Patients  # noqa: N815
    pairs: Pairs
    seeds_N: Seeds | None = None  # noqa: N815

    def __post_init__(self) -> None:
        shape = self.originals_NHW.shape
        if len(shape) != 3 or self.anonymized_NHW.shape != shape or len(self.patients_N) != shape[0]:
            raise ValueError(
                f"a split needs originals and anonymized images of one shape (N, H, W) and N patients, not {shape}, "
                f"{self.anonymized_NHW.shape} and {len(self.patients_N)}"
            )
        if self.originals_NHW.dtype != np.uint8 or self.anonymized_NHW.dtype != np.uint8:
            raise ValueError("a split's images must be uint8, as they are published")
        if self.seeds_N is not None and (self.seeds_N.shape != (shape[0],) or self.seeds_N.dtype != np.int64):
            raise ValueError("a split's seeds must be int64, one for each image")
        rows = np.concatenate([self.pairs.first, self.pairs.second])
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise ValueError("a split's pairs must be rows of the split")

    def __len__(self) -> int:
        return len(self.patients_N)

    @property
    def first_images(self) -> Images:
        """The published image of each pair, (P, H, W)."""
        return self.anonymized_NHW[self.pairs.first]

    @property
    def second_images(self) -> Images:
        """The original that it is compared with, (P, H, W)."""
        return self.originals_NHW[self.pairs.second]

    @property
    def first_patients(self) -> Patients:
        """The patient of each pair's published image, (P,)."""
        return self.patients_N[self.pairs.first]

    @property
    def second_patients(self) -> Patients:
        """The patient of each pair's original, (P,)."""
        return self.patients_N[self.pairs.second]


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that attackers may use; they fit to `train` and `validation` and are judged on `test`.

    Attributes:
        train: what an attacker learns from.
        validation: what it stops training by.
        test: what it is judged on; its patients are in no other split.
        verifier: the one that the generator was trained against, or None.
        obfuscator: what published the images, or None; attackers hold it, and may anonymize images of their own.
        classifier: of findings, trained on originals, or None.
        native: whether images were anonymized at a larger size than these have; the obfuscator, which works at this
            size, then doesn't make quite what was published.
        enough: what the intervals need at least.

    Raises:
        UsageError: splits share a patient, or the test split is too small for an interval.
    """

    train: Split
    validation: Split
    test: Split
    verifier: Verifier | None = None
    obfuscator: Obfuscator | None = None
    classifier: Classifier | None = None
    native: bool = False
    enough: Enough = ENOUGH

    def __post_init__(self) -> None:
        refuse_seen(self.test.patients_N, self.train.patients_N, "the attackers' training")
        refuse_seen(self.test.patients_N, self.validation.patients_N, "the attackers' validation")
        refuse_seen(self.validation.patients_N, self.train.patients_N, "the attackers' training", split="validation")
        check_enough(self.test.pairs.same, self.test.first_patients, self.test.second_patients, self.enough)


def refuse_seen(
    patients: NDArray[Any] | list[str], seen: NDArray[Any] | list[str], where: str, split: str = "test"
) -> None:
    """Refuse patients who were seen before: an attacker or model that knows them is judged by its memory.

    Args:
        patients: those on whom something is judged.
        seen: those on whom something was trained.
        where: what saw them, such as ``the model's training``, for the error.
        split: what `patients` are.

    Raises:
        UsageError: how many were seen; never which.
    """
    both = len(np.intersect1d(np.asarray(patients, dtype=np.str_), np.asarray(seen, dtype=np.str_)))
    if both:
        noun, verb = ("patient", "was") if both == 1 else ("patients", "were")
        raise UsageError(
            f"{both} {split} {noun} {verb} seen in {where}: audit with a table whose splits share no patient with it"
        )
