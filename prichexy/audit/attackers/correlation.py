"""Attackers that correlate two images: no training, no network, and yet as good as the paper's on originals.

Identity sits largely in coarse appearance (framing, habitus, exposure), which 16 x 16 cells hold; what all images of
a cohort share carries none of it, so the cohort's mean image is better subtracted first. Each side has a mean image of
its own, since a published image may be darker or flatter than an original: that of the *training* patients, which an
attacker with public images of the same kind has.

Shape suffixes: N image, D grey value, H height, W width.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from prichexy.audit.attackers.embedding import Embed, EmbeddingComparer, Vectors, correlation_rows, shrunk
from prichexy.audit.attackers.protocol import AnyEvidence
from prichexy.audit.evidence import Evidence, Images, Split

HIGH_PASS_SIDE = 64
HIGH_PASS_SIGMA = 4.0
"""Pixels of 64, a sixteenth of the image: what a 16 x 16 image shows is taken off."""


@dataclass(frozen=True)
class Correlation(AnyEvidence):
    """Pearson's correlation of two images shrunk to `side` x `side`.

    Attributes:
        side: cells along an axis.
        less_mean: whether the mean image of each side is subtracted first.
    """

    side: int
    less_mean: bool = False
    seeded = False

    @property
    def name(self) -> str:
        """Such as ``correlation-16-less-mean``."""
        return f"correlation-{self.side}" + ("-less-mean" if self.less_mean else "")

    @property
    def description(self) -> str:
        """In plain words."""
        first = "Subtracts what all images share, then correlates" if self.less_mean else "Correlates"
        return f"{first} the two images at {self.side} x {self.side} pixels; needs no training."

    def fit(self, evidence: Evidence, seed: int, training_pairs: int | None = None) -> EmbeddingComparer:
        """A comparer with the mean images of the training split."""
        return self.on(evidence.train)

    def on(self, cohort: Split) -> EmbeddingComparer:
        """A comparer with the mean images of a cohort."""
        return _correlating(self._grey, cohort, self.less_mean)

    def _grey(self, images_NHW: Images) -> Vectors:
        return shrunk(images_NHW, self.side)


@dataclass(frozen=True)
class HighPass(AnyEvidence):
    """Pearson's correlation of two images at 64 x 64 less their own Gaussian blur.

    An obfuscator that standardizes coarse appearance leaves the fine one, which this attacker looks at alone.

    Attributes:
        less_mean: whether the mean high-pass image of each side is subtracted.
    """

    less_mean: bool = False
    seeded = False

    @property
    def name(self) -> str:
        """``high-pass`` or ``high-pass-less-mean``."""
        return "high-pass" + ("-less-mean" if self.less_mean else "")

    @property
    def description(self) -> str:
        """In plain words."""
        also = " and what all images share" if self.less_mean else ""
        return f"Takes coarse light and shade{also} off both images and correlates the rest; needs no training."

    def fit(self, evidence: Evidence, seed: int, training_pairs: int | None = None) -> EmbeddingComparer:
        """A comparer with the mean images of the training split."""
        return self.on(evidence.train)

    def on(self, cohort: Split) -> EmbeddingComparer:
        """A comparer with the mean images of a cohort."""
        return _correlating(_high_pass, cohort, self.less_mean)


def _high_pass(images_NHW: Images) -> Vectors:
    fine_ND = shrunk(images_NHW, HIGH_PASS_SIDE)
    for row in fine_ND:
        grey = row.reshape(HIGH_PASS_SIDE, HIGH_PASS_SIDE)
        grey -= cv2.GaussianBlur(grey, (0, 0), HIGH_PASS_SIGMA, borderType=cv2.BORDER_REFLECT)
    return fine_ND


def _correlating(features: Embed, cohort: Split, less_mean: bool) -> EmbeddingComparer:
    if not less_mean:
        embed = _less(features, 0.0)
        return EmbeddingComparer(embed, embed)
    sides = (cohort.anonymized_NHW, cohort.originals_NHW)
    mean_first_D, mean_second_D = (features(images_NHW).mean(axis=0, dtype=np.float64) for images_NHW in sides)
    return EmbeddingComparer(_less(features, mean_first_D), _less(features, mean_second_D))


def _less(features: Embed, mean_D: NDArray[np.float64] | float) -> Embed:
    return lambda images_NHW: correlation_rows((features(images_NHW) - mean_D).astype(np.float32))
