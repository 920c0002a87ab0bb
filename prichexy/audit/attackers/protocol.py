"""The one interface of all attackers: fitted to evidence, an attacker becomes a comparer of two images.

Shape suffixes: P pair, Q query, G gallery image, H height, W width.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from prichexy.audit.evidence import Evidence, Images

Scores = NDArray[np.float64]


class Comparer(Protocol):
    """Tells how likely a published image and an original show the same patient."""

    @property
    def details(self) -> Mapping[str, float]:
        """What else is worth reporting, such as ``inversion_psnr_db``; may be empty."""
        ...

    def pair_scores(self, first_PHW: Images, second_PHW: Images) -> Scores:
        """A score for each pair, higher is more likely the same patient.

        Args:
            first_PHW: published images, uint8.
            second_PHW: originals, uint8, same shape.

        Returns:
            (P,) scores of any scale.
        """
        ...

    def similarity(self, queries_QHW: Images, gallery_GHW: Images) -> Scores:
        """The same score of each query with each gallery image: (Q, G)."""
        ...


class Attacker(Protocol):
    """Someone who has public originals and wants to know who is on a published image.

    Attributes:
        name: as in reports and thresholds.
        description: one sentence in plain words.
        seeded: whether chance has a large part, as in training; one run suffices otherwise.
    """

    @property
    def name(self) -> str:
        """As in reports and thresholds."""
        ...

    @property
    def description(self) -> str:
        """One sentence in plain words."""
        ...

    @property
    def seeded(self) -> bool:
        """Whether chance has a large part, as in training; one run suffices otherwise."""
        ...

    def applies(self, evidence: Evidence) -> bool:
        """Whether the attack is possible with this evidence; `fit` refuses otherwise."""
        ...

    def fit(self, evidence: Evidence, seed: int, training_pairs: int | None = None) -> Comparer:
        """The attacker's comparer, made from training and validation patients only.

        Args:
            evidence: what the attacker has.
            seed: 0 or more; of pairs, weights and order, and of the attacker's own keys where the model is keyed.
            training_pairs: how many pairs it learns from; None is the attacker's own number. Ignored by attackers
                without training.

        Raises:
            UsageError: the attack is not possible with this evidence.
        """
        ...


class AnyEvidence:
    """An attacker that needs nothing but images; the default of `applies`."""

    def applies(self, evidence: Any) -> bool:
        """Always."""
        return True
